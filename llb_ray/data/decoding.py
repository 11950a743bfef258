"""Decoding: a file becomes an upright 8-bit RGB array of one size, or a short reason why it cannot.

How every kind of pixel becomes 8-bit RGB (no choice depends on the image's own brightest pixel, which would let a
bright defect darken the rest of its image):

- Values of 16 bits are divided by 257 (65535 becomes 255), or brought to the levels of the set (`llb_ray.data.levels`)
  where that uses a small part of the scale, as 12-bit data in 16-bit files does.
- 32-bit integer grey is read on the 16-bit scale; float grey is read as 0..1; values outside are refused, as are
  negative ones.
- Transparency (alpha, or a transparent palette entry or colour) is composited onto white.
- CMYK is converted without a colour profile; embedded profiles are ignored everywhere.
- An EXIF orientation is applied first.

The aspect ratio is not kept when an image is resized, and nothing is cropped: a crop could cut a defect away.
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from llb_ray.config import Size, sides
from llb_ray.data.formats import header
from llb_ray.data.image_files import is_wide, read_whole, read_wide
from llb_ray.data.levels import WHOLE_SCALE, Levels
from llb_ray.data.unreadable_files import SAVE_AS, UnreadableImage, refusing

Wanted = int | Size | None  # the side of a square, or height and width; None: as it is in the file


def content_id(path: Path) -> str:
    """The image_id: the first 128 bits of the sha256 of the file's bytes, as 32 hex digits.

    Raises UnreadableImage if the file cannot be read.
    """
    with refusing(), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def read_rgb(path: Path, size_px: Wanted, max_pixels: int, levels: Levels | None = None) -> NDArray[np.uint8]:
    """The image as [H, W, 3] uint8 at `size_px` (bicubic with antialias), or its own size if that is None.

    `levels` are those of the set that the image is of; None for the whole scale of 16 bits.  The format is found from
    the content, never from the extension.  Raises UnreadableImage for anything that is not exactly one decodable image
    of at most `max_pixels`; the header's size is checked before a pixel is decoded.  Safe to call from several threads.
    """
    return read_sized(path, size_px, max_pixels, levels)[0]


def read_sized(
    path: Path, size_px: Wanted, max_pixels: int, levels: Levels | None = None
) -> tuple[NDArray[np.uint8], Size]:
    """The image as `read_rgb` gives it, and the height and width that it has in the file, upright."""
    with refusing():
        return _sized(_read(path, max_pixels, levels), size_px, levels)


def read_thumbnail(path: Path, side_px: int, max_pixels: int, levels: Levels | None = None) -> Image.Image:
    """The image in RGB, upright, its longer side at most `side_px`; for people alone, see `image_files.read_whole`.

    Raises UnreadableImage as `read_rgb` does.
    """
    with refusing():
        image = _rgb(_read(path, max_pixels, levels, least_px=2 * side_px), levels)
        image.thumbnail((side_px, side_px))
        return image


def as_rgb(image: Image.Image, size_px: Wanted, levels: Levels | None = None) -> NDArray[np.uint8]:
    """An opened image as `read_rgb` would give it, had it been read from a file; raises UnreadableImage likewise."""
    return as_sized(image, size_px, levels)[0]


def as_sized(image: Image.Image, size_px: Wanted, levels: Levels | None = None) -> tuple[NDArray[np.uint8], Size]:
    """The same, and its own height and width, upright."""
    with refusing():
        return _sized(ImageOps.exif_transpose(image), size_px, levels)


def _sized(image: Image.Image, size_px: Wanted, levels: Levels | None) -> tuple[NDArray[np.uint8], Size]:
    return _pixels(image, size_px, levels), (image.height, image.width)


def read_deep(path: Path, max_pixels: int) -> NDArray[Any] | None:
    """The values of an image of 16-bit integers, [H, W] or [H, W, C], upright; None for any other that can be read.

    Raises UnreadableImage as `read_rgb` does.
    """
    with refusing():
        if is_wide(path):
            return read_wide(path, max_pixels)
        image = read_whole(path, max_pixels)
        return _on_16_bits(image) if is_deep(image) and image.mode != "F" else None


def may_be_deep(path: Path) -> bool:
    """True if `read_deep` would give values, as far as the header says; false for what cannot be read."""
    with suppress(UnreadableImage), refusing():
        with path.open("rb") as file:
            mode = header(file).mode
        return mode.startswith("I") or is_wide(path)
    return False


def _pixels(image: Image.Image, size_px: Wanted, levels: Levels | None) -> NDArray[np.uint8]:
    """An upright image as [H, W, 3]."""
    image = _rgb(image, levels)
    if size_px is not None:
        image = image.resize(sides(size_px)[::-1], Image.Resampling.BICUBIC)
    return np.array(image)  # a copy: a view of Pillow's memory is read-only, which torch warns about


def _read(path: Path, max_pixels: int, levels: Levels | None, least_px: int | None = None) -> Image.Image:
    """The decoded image; one of several 16-bit channels is on the levels already, if there are any."""
    if levels is None or not is_wide(path):
        return read_whole(path, max_pixels, least_px)
    value_HWC = read_wide(path, max_pixels)
    colour_HW3 = levels.to_bytes(value_HWC[..., :3])
    if value_HWC.shape[2] == 3:
        return Image.fromarray(colour_HW3)
    return Image.fromarray(np.dstack([colour_HW3, (value_HWC[..., 3] >> 8).astype(np.uint8)]))


def _rgb(image: Image.Image, levels: Levels | None) -> Image.Image:
    if is_deep(image):
        image = _eight_bit(image, levels)
    return flatten(image, "white")


def is_deep(image: Image.Image) -> bool:
    """True if a grey value is wider than 8 bits: modes I, I;16, I;16B and F."""
    return image.mode[0] in "IF"


def _eight_bit(image: Image.Image, levels: Levels | None) -> Image.Image:
    if image.mode == "F":
        value_HW = _within(np.asarray(image), 1)
        return Image.fromarray(np.rint(value_HW * np.float32(255)).astype(np.uint8))
    return Image.fromarray((levels or WHOLE_SCALE).to_bytes(_on_16_bits(image)))


def _on_16_bits(image: Image.Image) -> NDArray[Any]:
    return _within(np.asarray(image), 65535)


def _within(value_HW: NDArray[Any], full: int) -> NDArray[Any]:
    low, high = value_HW.min(), value_HW.max()
    if not (low >= 0 and high <= full):  # also true for NaN
        raise UnreadableImage(f"grey values {low:g} to {high:g} are not within 0 to {full}; {SAVE_AS}")
    return value_HW


def flatten(image: Image.Image, background: str) -> Image.Image:
    """The image in RGB, its transparent parts filled with `background`."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    canvas = Image.new("RGBA", image.size, background)
    return Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")
