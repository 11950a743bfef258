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
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from llb_ray.config import Size, sides
from llb_ray.data.formats import header
from llb_ray.data.levels import WHOLE_SCALE, Levels
from llb_ray.data.tiff import is_signed_byte, size_of
from llb_ray.data.unreadable_files import SAVE_AS, UnreadableImage, refusing
from llb_ray.errors import DataError

Wanted = int | Size | None  # the side of a square, or height and width; None: as it is in the file
_Half = Literal["high", "low"]
_HALVES: tuple[_Half, _Half] = ("high", "low")
_OTHER_ORDER = {";16B": ";16L", ";16L": ";16B", ";16N": {"little": ";16B", "big": ";16L"}[sys.byteorder]}
LARGEST_MASK = 90_000_000  # pixels
_NEARLY, _MOSTLY = 24, 0.97  # of 255 grey levels, and of the pixels


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
    """The image in RGB, upright, its longer side at most `side_px`; for people alone, see `_decoded`.

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
        if _is_wide(path):
            return _wide(path, max_pixels)
        image = _decoded(path, max_pixels)
        return _on_16_bits(image) if _is_deep(image) and image.mode != "F" else None


def may_be_deep(path: Path) -> bool:
    """True if `read_deep` would give values, as far as the header says; false for what cannot be read."""
    with suppress(UnreadableImage), refusing():
        with path.open("rb") as file:
            mode = header(file).mode
        return mode.startswith("I") or _is_wide(path)
    return False


def _pixels(image: Image.Image, size_px: Wanted, levels: Levels | None) -> NDArray[np.uint8]:
    """An upright image as [H, W, 3]."""
    image = _rgb(image, levels)
    if size_px is not None:
        image = image.resize(sides(size_px)[::-1], Image.Resampling.BICUBIC)
    return np.array(image)  # a copy: a view of Pillow's memory is read-only, which torch warns about


def read_mask(path: Path, size_px: Wanted, max_pixels: int) -> NDArray[np.bool_]:
    """The defect mask as [H, W] bool: true where a pixel is not black; resized by nearest neighbour.

    Transparent pixels count as black, and so do the darker ones of a JPEG, which blurs edges.  Raises DataError if the
    file is not a readable mask.
    """
    try:
        with refusing():
            mask = Image.fromarray(_not_black(_decoded(path, max_pixels)))
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
            image = _decoded(path, LARGEST_MASK)
            value_HW = np.asarray(image if _is_deep(image) else image.convert("L"))
    except UnreadableImage:
        return 0
    values, counts = np.unique(value_HW, return_counts=True)
    if not exactly and value_HW.dtype == np.uint8:
        extreme = (values < _NEARLY) | (values > 255 - _NEARLY)
        values = values[:2] if counts[extreme].sum() > _MOSTLY * counts.sum() else values
    return len(values) if len(values) <= 2 else 0


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


def _read(path: Path, max_pixels: int, levels: Levels | None, least_px: int | None = None) -> Image.Image:
    """The decoded image; one of several 16-bit channels is on the levels already, if there are any."""
    if levels is None or not _is_wide(path):
        return _decoded(path, max_pixels, least_px)
    value_HWC = _wide(path, max_pixels)
    colour_HW3 = levels.to_bytes(value_HWC[..., :3])
    if value_HWC.shape[2] == 3:
        return Image.fromarray(colour_HW3)
    return Image.fromarray(np.dstack([colour_HW3, (value_HWC[..., 3] >> 8).astype(np.uint8)]))


def _is_wide(path: Path) -> bool:
    """True if the image has several channels of 16 bits, of which Pillow gives 8."""
    with path.open("rb") as file:
        image = header(file)
        return image.mode in ("RGB", "RGBA") and any(";16" in str(tile.args) for tile in image.tile)


def _wide(path: Path, max_pixels: int) -> NDArray[np.uint16]:
    """The image of several 16-bit channels [H, W, C], upright."""
    high_HWC, low_HWC = (np.asarray(_decoded(path, max_pixels, half=half)) for half in _HALVES)
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


def _decoded(path: Path, max_pixels: int, least_px: int | None = None, half: _Half = "high") -> Image.Image:
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


def _rgb(image: Image.Image, levels: Levels | None) -> Image.Image:
    if _is_deep(image):
        image = _eight_bit(image, levels)
    return _over(image, "white")


def _is_deep(image: Image.Image) -> bool:
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


def _over(image: Image.Image, background: str) -> Image.Image:
    """The image in RGB, its transparent parts filled with `background`."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    canvas = Image.new("RGBA", image.size, background)
    return Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")


def _not_black(image: Image.Image) -> NDArray[np.bool_]:
    is_blurred = image.format in ("JPEG", "MPO")
    if not _is_deep(image):  # a deep mask scaled to 8 bits would lose a value of 1
        image = _over(image, "black")
    value_HW = np.asarray(image).reshape(image.height, image.width, -1).max(axis=2)
    defect_HW: NDArray[np.bool_] = np.greater(value_HW, value_HW.max() / 2 if is_blurred else 0)
    return defect_HW
