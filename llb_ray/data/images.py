"""Decoding: a file becomes an upright 8-bit RGB array of one size, or a short reason why it cannot.

How every kind of pixel becomes 8-bit RGB (no choice depends on the image's own brightest pixel, which would let a
bright defect darken the rest of its image):

- 16-bit grey is divided by 257 (65535 becomes 255).  12-bit data in a 16-bit file therefore looks dark.
- 32-bit integer grey is read on the 16-bit scale; float grey is read as 0..1; values outside are refused.
- Transparency (alpha, or a transparent palette entry or colour) is laid over white.
- CMYK is converted without a colour profile; embedded profiles are ignored everywhere.
- An EXIF orientation is applied first.

The aspect ratio is not kept when an image is resized, and nothing is cropped: a crop could cut a defect away.
"""

import hashlib
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from PIL.ImageFile import ImageFile

from llb_ray.errors import DataError

Image.init()  # registers every decoder now, before threads race to do it

# Formats of photographs only: others cost more than they bring (EPS would start Ghostscript).
_PHOTOGRAPHS = "PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF"
_FORMATS = [name for name in _PHOTOGRAPHS if name in Image.OPEN]  # Pillow before 11.3 has no AVIF

# What Pillow's decoders raise on damaged bytes: 336,000 fuzzed files of every format raised nothing else.  The last two
# come from damaged arrays (`bands`).
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    zipfile.BadZipFile,
    tokenize.TokenError,
)


_LARGEST_MASK = 90_000_000  # pixels
_NEARLY, _MOSTLY = 24, 0.97  # of 255 grey levels, and of the pixels


class UnreadableImage(Exception):
    """Internal: a file is not one usable image; `reason` is a short phrase for the quarantine table."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def content_id(path: Path) -> str:
    """The image_id: the first 128 bits of the sha256 of the file's bytes, as 32 hex digits.

    Raises UnreadableImage if the file cannot be read.
    """
    with refusing(), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def read_rgb(path: Path, size_px: int | None, max_pixels: int) -> NDArray[np.uint8]:
    """The image as [H, W, 3] uint8, H = W = `size_px` (bicubic with antialias), or its own size if that is None.

    The format is found from the content, never from the extension.  Raises UnreadableImage for anything that is not
    exactly one decodable image of at most `max_pixels`; the header's size is checked before a pixel is decoded.
    Safe to call from several threads.
    """
    with refusing():
        return _pixels(_decoded(path, max_pixels), size_px)


def read_thumbnail(path: Path, side_px: int, max_pixels: int) -> Image.Image:
    """The image in RGB, upright, its longer side at most `side_px`; for people alone, see `_decoded`.

    Raises UnreadableImage as `read_rgb` does.
    """
    with refusing():
        image = _rgb(_decoded(path, max_pixels, least_px=2 * side_px))
        image.thumbnail((side_px, side_px))
        return image


def as_rgb(image: Image.Image, size_px: int | None) -> NDArray[np.uint8]:
    """An opened image as `read_rgb` would give it, had it been read from a file; raises UnreadableImage likewise."""
    with refusing():
        return _pixels(ImageOps.exif_transpose(image), size_px)


def _pixels(image: Image.Image, size_px: int | None) -> NDArray[np.uint8]:
    """An upright image as [H, W, 3]."""
    image = _rgb(image)
    if size_px is not None:
        image = image.resize((size_px, size_px), Image.Resampling.BICUBIC)
    return np.array(image)  # a copy: a view of Pillow's memory is read-only, which torch warns about


def is_jpeg(path: Path) -> bool:
    """Whether the file begins as a JPEG does, whatever its name."""
    with refusing(), path.open("rb") as file:
        return file.read(3) == b"\xff\xd8\xff"


def is_image(path: Path) -> bool:
    """Whether the file begins as an image of a known format does."""
    with suppress(UnreadableImage), refusing(), path.open("rb") as file:
        return _format(file) is not None
    return False


def read_mask(path: Path, size_px: int | None, max_pixels: int) -> NDArray[np.bool_]:
    """The defect mask as [H, W] bool: true where a pixel is not black; resized by nearest neighbour.

    Transparent pixels count as black, and so do the darker ones of a JPEG, which blurs edges.  Raises DataError if the
    file is not a readable mask.
    """
    try:
        with refusing():
            mask = Image.fromarray(_not_black(path, max_pixels))
            if size_px is not None:
                mask = mask.resize((size_px, size_px), Image.Resampling.NEAREST)
            return np.array(mask)
    except UnreadableImage as error:
        raise DataError(f"{path}: not a usable mask ({error.reason}); replace or delete it") from error


def num_mask_values(path: Path, exactly: bool = False) -> int:
    """1 or 2 for a file that holds as many values, as masks do; 0 for any other, and for what is no image.

    Unless `exactly`, values close to black or white count as these: a mask that was saved as JPEG has many.
    """
    try:
        with refusing():
            image = _decoded(path, _LARGEST_MASK)
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
        image = _header(file)
        # Pillow would decode a whole PNG to look behind its pixels, where no camera writes an orientation.
        tags = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
        on_its_side = tags.get(ExifTags.Base.Orientation, 1) >= 5
        return (image.height, image.width) if on_its_side else image.size


@contextmanager
def refusing() -> Iterator[None]:
    """Inside, whatever a decoder raises on damaged bytes is raised as UnreadableImage."""
    try:
        yield
    except _DECODER_ERRORS as error:
        raise UnreadableImage(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """One line: the operating system's words if it refused, otherwise the decoder's."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    return f"cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})"


def _decoded(path: Path, max_pixels: int, least_px: int | None = None) -> Image.Image:
    """The whole image in memory, upright, in the file's own mode.

    Where both sides may be as small as `least_px`, a large JPEG is decoded at a half, a quarter or an eighth of its
    size, which is much faster and not quite the same as making it smaller afterwards.
    """
    lift_ceiling(max_pixels)
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise UnreadableImage("empty file")
        image = _header(file)
        _check_header(image, max_pixels)
        if least_px is not None:
            image.draft(None, (least_px, least_px))
        image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def lift_ceiling(max_pixels: int) -> None:
    """Let Pillow decode as much as the configuration allows; it only ever rises, so threads cannot disagree."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels


def _header(file: IO[bytes]) -> ImageFile:
    """The opened image, nothing decoded yet; raises UnreadableImage if no decoder knows the first bytes.

    `Image.open` would do, but it warns of large images through the process-wide `warnings` before we see their size.
    """
    name = _format(file)
    if name is None:
        raise UnreadableImage(f"not an image of a known format ({', '.join(_FORMATS)})")
    return Image.OPEN[name][0](file, "")


def _format(file: IO[bytes]) -> str | None:
    """Pillow's name of the format that the first bytes are of."""
    prefix = file.read(16)
    file.seek(0)
    for name in _FORMATS:
        accept = Image.OPEN[name][1]
        if accept is not None and accept(prefix) is True:  # a text says that the format was not built in
            return name
    return None


def _check_header(image: ImageFile, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise UnreadableImage(f"{image.width} x {image.height} pixels is more than data.max_pixels = {max_pixels}")
    # The first frame of an MPO is the photograph; cameras append previews and depth maps to it.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise UnreadableImage(f"has {frames} frames; split it into single images")


def _rgb(image: Image.Image) -> Image.Image:
    if _is_deep(image):
        image = _eight_bit(image)
    return _over(image, "white")


def _is_deep(image: Image.Image) -> bool:
    """Whether a grey value is wider than 8 bits: modes I, I;16, I;16B and F."""
    return image.mode[0] in "IF"


def _eight_bit(image: Image.Image) -> Image.Image:
    value_HW: NDArray[Any] = np.asarray(image)
    full = 1 if image.mode == "F" else 65535
    low, high = value_HW.min(), value_HW.max()
    if not (low >= 0 and high <= full):  # also true for NaN
        raise UnreadableImage(f"grey values {low:g} to {high:g} are not within 0 to {full}; save it with 8 or 16 bits")
    return Image.fromarray(np.rint(value_HW * np.float32(255 / full)).astype(np.uint8))


def _over(image: Image.Image, background: str) -> Image.Image:
    """The image in RGB, its transparent parts filled with `background`."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    canvas = Image.new("RGBA", image.size, background)
    return Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")


def _not_black(path: Path, max_pixels: int) -> NDArray[np.bool_]:
    image = _decoded(path, max_pixels)
    if not _is_deep(image):  # a deep mask scaled to 8 bits would lose a value of 1
        image = _over(image, "black")
    value_HW = np.asarray(image).reshape(image.height, image.width, -1).max(axis=2)
    defect_HW: NDArray[np.bool_] = np.greater(value_HW, value_HW.max() / 2 if is_jpeg(path) else 0)
    return defect_HW
