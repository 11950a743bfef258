"""Masks as callers of `TrainedDetector.predict` give them: paths, PIL images, or arrays."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from llb_ray.data.ignored_regions import Region
from llb_ray.data.mask_files import not_black
from llb_ray.data.unreadable_files import UnreadableImage, refusing
from llb_ray.errors import ConfigError, DataError

Mask = str | os.PathLike[str] | Image.Image | np.ndarray[Any, Any]


def regions_given(masks: Mask | Sequence[Mask | None] | None, num_images: int) -> list[Region | None]:
    """The region of each image, of one or a sequence of as many; raises ConfigError for another number."""
    if masks is None:
        return [None] * num_images
    some: list[Mask | None]
    if isinstance(masks, str | os.PathLike | Image.Image | np.ndarray) or not isinstance(masks, Iterable):
        some = [masks]
    else:
        some = list(masks)
    if len(some) != num_images:
        raise ConfigError(f"{len(some)} masks for {num_images} images; give one for each, None for an image without")
    return [_region(mask) for mask in some]


def _region(mask: Mask | None) -> Region | None:
    """The region that a mask shows; raises DataError for what is none."""
    if mask is None:
        return None
    if isinstance(mask, str | os.PathLike):
        return Path(mask)
    if isinstance(mask, Image.Image):
        return _read_image(mask)
    found = np.asarray(mask)
    if found.ndim != 2 or not found.size or found.dtype.kind not in "bui":
        raise DataError(
            f"a mask is {found.dtype} {list(found.shape)}; give a path, a PIL image, or an array [H, W] of integers or "
            "booleans"
        )
    return found


def _read_image(mask: Image.Image) -> Region:
    """The pixels of a PIL image, as they would be read from its file."""
    try:
        with refusing():
            upright = ImageOps.exif_transpose(mask)
            upright.format = mask.format  # which a copy has not
            return not_black(upright)
    except UnreadableImage as error:
        raise DataError(f"a mask: {error}; give another") from error
