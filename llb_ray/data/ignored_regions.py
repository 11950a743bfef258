"""Regions of photographs that are not looked at: of all photographs of a run, or of each (`mask_folders`).

A region is the white part of an image, or the shapes of a labelme file; of any size, for it is brought to that of the
photographs.  What is in an ignored region is painted over before anything else sees it, so that it can change nothing.
"""

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llb_ray.artifacts import digest
from llb_ray.config import DataConfig, Size
from llb_ray.data.label_shapes import MALFORMED, labelme_shape, mask_of
from llb_ray.data.mask_files import file_states, read_mask
from llb_ray.errors import DataError

GREY = 128  # of ignored pixels, in each channel
_LARGEST_FILE = 2**25  # bytes of a labelme file, which may have the photograph in it
Bools = NDArray[np.bool_]
Region = Path | NDArray[Any]  # a file, or an array [H, W] of any size, not 0 inside


class MaskPaths(NamedTuple):
    """Masks of photographs, each a file for all of them or a folder with one for each (`mask_folders`)."""

    ignore: Path | None = None  # white where photographs are ignored
    inspect: Path | None = None  # white where they are looked at

    @classmethod
    def of(cls, ignore: str | Path | None, inspect: str | Path | None) -> Self:
        """Those with these names."""
        return cls(*(None if name is None else Path(name) for name in (ignore, inspect)))

    @classmethod
    def of_settings(cls, config: DataConfig) -> Self:
        """Those that the settings of a run name."""
        return cls.of(config.ignore_mask, config.inspect_mask)

    def refuse_missing(self) -> None:
        """Raise DataError for one that is not there."""
        for path in self:
            if path is not None and not path.exists():
                raise DataError(f"{path}: no such file or folder of masks; draw them, or correct the name")

    @property
    def key(self) -> str:
        """Digest of the names, sizes and times of the files; empty where there are none."""
        states = [list(file_states(path)) for path in self if path is not None]
        return digest([[str(path) for path in self], states]) if states else ""


NO_MASKS = MaskPaths()


@dataclass(frozen=True, eq=False)
class Ignored:
    """The pixels that are not looked at, [H, W], of the size that photographs are brought to."""

    mask_HW: Bools

    @classmethod
    def of(cls, config: DataConfig, size: Size) -> Self | None:
        """The pixels that the settings name; None where they name none.

        Raises DataError for a file that holds no regions, and where nothing is left to look at.
        """
        return cls.draw(*MaskPaths.of_settings(config), size, config.max_pixels)

    @classmethod
    def draw(cls, ignore: Region | None, inspect: Region | None, size: Size, max_pixels: int) -> Self | None:
        """The pixels in the first region and those outside of the second; None without any; raises as `of` does."""
        given = [region for region in (ignore, inspect) if region is not None]
        if not given:
            return None
        mask_HW = np.zeros(size, bool)
        if ignore is not None:
            mask_HW |= _region(ignore, size, max_pixels)
        if inspect is not None:
            mask_HW |= ~_region(inspect, size, max_pixels)
        if mask_HW.all():
            names = " and ".join(str(region) if isinstance(region, Path) else "a mask" for region in given)
            raise DataError(f"{names}: leave no pixel to look at; change data.ignore_mask or inspect_mask")
        return cls(mask_HW)

    @property
    def key(self) -> str:
        """Digest of the pixels."""
        return hashlib.sha256(repr(self.mask_HW.shape).encode() + np.packbits(self.mask_HW).tobytes()).hexdigest()

    def of_image(self, image_id: str) -> Self:
        """Itself: see `image_masks.ImageMasks`."""
        return self

    def inputs(self, image_ids: Iterable[str]) -> dict[str, str]:
        """Nothing: what the encoder is keyed by says it."""
        return {}

    def png(self) -> bytes:
        """The pixels as a black and white image, white where they are ignored."""
        with io.BytesIO() as file:
            Image.fromarray(self.mask_HW).save(file, "PNG")
            return file.getvalue()


def _region(region: Region, size: Size, max_pixels: int) -> Bools:
    """True inside the region that a file or an array shows [H, W], of this size."""
    if isinstance(region, np.ndarray):
        return np.asarray(Image.fromarray(region != 0).resize(size[::-1], Image.Resampling.NEAREST))
    return _read_shapes(region, size) if region.suffix.lower() == ".json" else read_mask(region, size, max_pixels)


def _read_shapes(path: Path, size: Size) -> Bools:
    """True inside the shapes of a labelme file."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError("it is too large")
        tree = json.loads(path.read_text())
        drawn_on = np.array([tree["imageWidth"], tree["imageHeight"]], float)
        if not (drawn_on >= 1).all() or not np.isfinite(drawn_on).all():
            raise ValueError("its imageWidth and imageHeight are no size")
        corners = [labelme_shape(shape) * (size[::-1] / drawn_on) for shape in tree["shapes"]]
    except (OSError, *MALFORMED, RecursionError) as error:
        raise DataError(
            f"{path}: not a labelme file with shapes ({type(error).__name__}: {error}); draw the region again, or as "
            "an image"
        ) from error
    return mask_of(corners, width=size[1], height=size[0])
