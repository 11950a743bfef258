"""Image files as Pillow opens them: the header, and the whole picture in the file's own mode, upright.

Of several channels of 16 bits Pillow gives 8: the lower halves are read as if the bytes were in another order.
"""

import os
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from llb_ray.data.formats import header
from llb_ray.data.tiff import is_signed_byte, size_of
from llb_ray.data.unreadable_files import SAVE_AS, UnreadableImage, refusing

_Half = Literal["high", "low"]
_HALVES: tuple[_Half, _Half] = ("high", "low")
_OTHER_ORDER = {";16B": ";16L", ";16L": ";16B", ";16N": {"little": ";16B", "big": ";16L"}[sys.byteorder]}


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, an EXIF orientation applied; from the header, nothing is decoded.

    Raises UnreadableImage if no decoder knows the file.
    """
    with refusing(), path.open("rb") as file:
        image = header(file)
        # Pillow would decode a whole PNG to look behind its pixels, where no camera writes an orientation.
        tags = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
        on_its_side = tags.get(ExifTags.Base.Orientation, 1) >= 5
        # Of a TIFF, Pillow gives the upright size in some versions.
        width, height = size_of(image.tag_v2) if isinstance(image, TiffImageFile) else image.size
        return (height, width) if on_its_side else (width, height)


def is_wide(path: Path) -> bool:
    """True if the image has several channels of 16 bits, of which Pillow gives 8."""
    with path.open("rb") as file:
        image = header(file)
        return image.mode in ("RGB", "RGBA") and any(";16" in str(tile.args) for tile in image.tile)


def read_wide(path: Path, max_pixels: int) -> NDArray[np.uint16]:
    """The image of several 16-bit channels [H, W, C], upright."""
    high_HWC, low_HWC = (np.asarray(read_whole(path, max_pixels, half=half)) for half in _HALVES)
    value_HWC: NDArray[np.uint16] = np.left_shift(high_HWC, 8, dtype=np.uint16) | low_HWC
    return value_HWC


def _of_low_halves(tile: Any) -> Any:
    """The tile of an image of 16-bit channels with the lower 8 bits decoded: the bytes taken to be in another order."""
    if isinstance(tile.args, str):
        return tile._replace(args=_other_order(tile.args))
    return tile._replace(args=tuple(map(_other_order, tile.args)))


def _other_order(argument: Any) -> Any:
    if not isinstance(argument, str) or argument[-4:] not in _OTHER_ORDER:
        return argument
    return argument[:-4] + _OTHER_ORDER[argument[-4:]]


def read_whole(path: Path, max_pixels: int, least_px: int | None = None, half: _Half = "high") -> Image.Image:
    """The whole image in memory, upright, in the file's own mode; of several 16-bit channels a half of their bits.

    Where both sides may be as small as `least_px`, a large JPEG is decoded at a half, a quarter or an eighth of its
    size, which is much faster and not quite the same as making it smaller afterwards.
    """
    lift_ceiling(max_pixels)
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise UnreadableImage("empty file")
        image = header(file)
        _check_header(image, max_pixels)
        if least_px is not None:
            image.draft(None, (least_px, least_px))
        if half == "low":
            image.tile = [_of_low_halves(tile) for tile in image.tile]
        image.load()
        if isinstance(image, TiffImageFile) and is_signed_byte(image.tag_v2):
            _refuse_negative(np.asarray(image).view(np.int8))
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _refuse_negative(value_HW: NDArray[np.int8]) -> None:
    low, high = value_HW.min(), value_HW.max()
    if low < 0:
        raise UnreadableImage(f"signed values {low} to {high} are negative; shift them and {SAVE_AS}")


def lift_ceiling(max_pixels: int) -> None:
    """Let Pillow decode as much as the configuration allows; it only ever rises, so threads cannot disagree."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels


def _check_header(image: ImageFile, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise UnreadableImage(f"{image.width} x {image.height} pixels is more than data.max_pixels = {max_pixels}")
    # The first frame of an MPO is the photograph; cameras append previews and depth maps to it.  Which picture of a
    # TIFF is meant is known already.
    frames = 1 if image.format in ("MPO", "TIFF") else getattr(image, "n_frames", 1)
    if frames > 1:
        raise UnreadableImage(f"has {frames} frames; split it into single images")
