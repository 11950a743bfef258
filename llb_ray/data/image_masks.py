"""The ignored pixels of each photograph of a run, in one file: a row for each that has a mask.

Masks are joined by `image_id`, and read as they are asked for: a run may have a million.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from llb_ray.artifacts import digest
from llb_ray.config import Size
from llb_ray.data.ignored_regions import Ignored
from llb_ray.data.tables import batch_writer, read_table
from llb_ray.data.unreadable_files import UnreadableImage, refusing
from llb_ray.errors import DataError

MASKS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),  # `Ignored.key`
        pa.field("mask", pa.binary(), nullable=False),  # PNG of the detector's size, white where it is ignored
    ]
)


@dataclass(frozen=True)
class ImageMasks:
    """The masks in a file that `write_masks` wrote."""

    file: Path
    size: Size

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.file, self.size)  # without what was read of the file: workers read their own

    def of_image(self, image_id: str) -> Ignored | None:
        """The pixels that are ignored in an image; None where all of it is looked at.

        Raises DataError where the file does not hold what it says.
        """
        row = self._rows.get(image_id)
        if row is None:
            return None
        try:
            found = self._decoded(self._table["mask"][row].as_py())
        except UnreadableImage:
            found = None
        if found is None or found.key != self.keys[image_id]:
            raise DataError(f"{self.file}: damaged (the mask of image {image_id}); run the same command again")
        return found

    def _decoded(self, content: bytes) -> Ignored | None:
        """The pixels in a PNG; None for one of another size, of which none is decoded."""
        with refusing(), io.BytesIO(content) as file, Image.open(file, formats=["PNG"]) as image:
            own = image.height, image.width
            return Ignored(np.array(image.convert("1"))) if own == self.size else None

    @cached_property
    def keys(self) -> Mapping[str, str]:
        """The digest of each mask, by image_id."""
        return dict(zip(self._table["image_id"].to_pylist(), self._table["key"].to_pylist(), strict=True))

    @property
    def key(self) -> str:
        """Digest of all of them."""
        return keys_digest(self.keys)

    def inputs(self, image_ids: Iterable[str]) -> dict[str, str]:
        """The input of a recipe that says which masks these images have; nothing where none has any."""
        return mask_inputs([self.keys.get(image_id, "") for image_id in image_ids])

    @cached_property
    def _table(self) -> pa.Table:
        return read_table(self.file)

    @cached_property
    def _rows(self) -> Mapping[str, int]:
        return {image_id: row for row, image_id in enumerate(self._table["image_id"].to_pylist())}


IgnoredPixels = Ignored | ImageMasks  # what is not looked at: the same in all photographs, or in each


def keys_digest(keys: Mapping[str, str]) -> str:
    """Digest of the masks with these keys, by image_id."""
    return digest(dict(sorted(keys.items())))


def mask_inputs(keys: Iterable[str]) -> dict[str, str]:
    """The input of a recipe that depends on the masks of some images, by their keys, empty of one without."""
    known = list(keys)
    return {"ignored": digest(known)} if any(known) else {}


def write_masks(path: Path, masks: Iterable[tuple[str, Ignored]]) -> None:
    """Write the masks of images, by image_id, one at a time; at least one."""
    with batch_writer(path) as append:
        for image_id, ignored in masks:
            append(
                pa.RecordBatch.from_pylist([{"image_id": image_id, "key": ignored.key, "mask": ignored.png()}], MASKS)
            )
