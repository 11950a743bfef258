"""Masks in files: true where a pixel is not black."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llb_ray.config import sides
from llb_ray.data.decoding import Wanted, flatten, is_deep
from llb_ray.data.image_files import read_whole
from llb_ray.data.unreadable_files import UnreadableImage, refusing
from llb_ray.errors import DataError

LARGEST_MASK = 90_000_000  # pixels
_NEARLY, _MOSTLY = 24, 0.97  # of 255 grey levels, and of the pixels


def read_mask(path: Path, size_px: Wanted, max_pixels: int) -> NDArray[np.bool_]:
    """The defect mask as [H, W] bool: true where a pixel is not black; resized by nearest neighbour.

    Transparent pixels count as black, and so do the darker ones of a JPEG, which blurs edges.  Raises DataError if the
    file is not a readable mask.
    """
    try:
        with refusing():
            mask = Image.fromarray(not_black(read_whole(path, max_pixels)))
            if size_px is not None:
                mask = mask.resize(sides(size_px)[::-1], Image.Resampling.NEAREST)
            return np.array(mask)
    except UnreadableImage as error:
        raise DataError(f"{path}: not a usable mask ({error.reason}); replace or delete it") from error


def num_mask_values(path: Path, exactly: bool = False) -> int:
    """1 or 2 for a file that holds as many values, as masks do; 0 for any other, and for what is no image.

    Unless `exactly`, values close to black or white count as these: a mask that was saved as JPEG has many.
    """
    try:
        with refusing():
            image = read_whole(path, LARGEST_MASK)
            value_HW = np.asarray(image if is_deep(image) else image.convert("L"))
    except UnreadableImage:
        return 0
    values, counts = np.unique(value_HW, return_counts=True)
    if not exactly and value_HW.dtype == np.uint8:
        extreme = (values < _NEARLY) | (values > 255 - _NEARLY)
        values = values[:2] if counts[extreme].sum() > _MOSTLY * counts.sum() else values
    return len(values) if len(values) <= 2 else 0


def file_states(root: Path) -> Iterator[list[str | int]]:
    """The names, sizes and times of a file, or of those in a folder, and behind links in it."""
    entered = {os.path.realpath(root)}
    yield _state(str(root))
    for where, folders, names in os.walk(root, followlinks=True):
        yield from (_state(os.path.join(where, name)) for name in sorted(names))
        inner = {os.path.realpath(os.path.join(where, name)): name for name in sorted(folders)}
        folders[:] = [name for real, name in inner.items() if real not in entered]  # links may go round in circles
        entered |= inner.keys()


def _state(path: str) -> list[str | int]:
    with suppress(OSError):  # of a link that leads nowhere
        found = os.stat(path)
        return [path, found.st_size, found.st_mtime_ns]
    return [path]


def not_black(image: Image.Image) -> NDArray[np.bool_]:
    """True where an upright image is not black [H, W]; of a transparent pixel or a JPEG as `read_mask` says."""
    is_blurred = image.format in ("JPEG", "MPO")
    if not is_deep(image):  # a deep mask scaled to 8 bits would lose a value of 1
        image = flatten(image, "black")
    value_HW = np.asarray(image).reshape(image.height, image.width, -1).max(axis=2)
    defect_HW: NDArray[np.bool_] = np.greater(value_HW, value_HW.max() / 2 if is_blurred else 0)
    return defect_HW
