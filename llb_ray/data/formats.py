"""Formats by their first bytes: which are read, and what the others are."""

import warnings
from contextlib import suppress
from pathlib import Path
from typing import IO

from PIL import Image
from PIL.ImageFile import ImageFile

from llb_ray.data.tiff import meant, undecodable
from llb_ray.data.unreadable_files import UnreadableImage, refusing

# What is wrong with a TIFF is said in the quarantine, or does not matter.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")
Image.init()  # registers every decoder now, before threads race to do it

# Formats of photographs only: others cost more than they bring (EPS would start Ghostscript).
_PHOTOGRAPHS = "PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF"
_FORMATS = [name for name in _PHOTOGRAPHS if name in Image.OPEN]  # Pillow before 11.3 has no AVIF
_HEAD = 132  # bytes; DICOM's mark is the last of the marks below
_OTHERS = (
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypheix", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (4, b"ftypcrx ", "a camera's raw file (CR3)"),
    (4, b"ftyp", "a film or another container (MP4)"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file (RAF)"),
    (0, b"IIRO", "a camera's raw file (ORF)"),
    (0, b"IIRS", "a camera's raw file (ORF)"),
    (0, b"IIU\0", "a camera's raw file (RW2)"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\xd8\xff\xf7", "JPEG-LS"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"qoif", "QOI"),
    (0, b"8BPS", "Photoshop (PSD)"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"\x89HDF", "HDF5"),
    (0, b"MATLAB ", "a MATLAB file"),
    (128, b"DICM", "DICOM"),
    (0, b"\x93NUMPY", "a numpy array"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"version https://git-lfs", "a pointer of Git LFS (git lfs pull fetches the file itself)"),
)
_TEXTS = ((b"<svg", "SVG"), (b"<!doctype html", "an HTML page"), (b"<html", "an HTML page"), (b"<?xml", "XML"))


def format_of(file: IO[bytes]) -> str | None:
    """Pillow's name of the format that the first bytes are of, if it is one that is read."""
    prefix = file.read(16)
    file.seek(0)
    for name in _FORMATS:
        accept = Image.OPEN[name][1]
        if accept is not None and accept(prefix) is True:  # a text says that the format was not built in
            return None if name == "JPEG" and prefix.startswith(b"\xff\xd8\xff\xf7") else name
    return None


def is_image(path: Path) -> bool:
    """True if the file begins as an image of a known format does."""
    with suppress(UnreadableImage), refusing(), path.open("rb") as file:
        return format_of(file) is not None
    return False


def header(file: IO[bytes]) -> ImageFile:
    """The opened image, nothing decoded yet; raises UnreadableImage for a format that is not read.

    `Image.open` would do, but it warns of large images through the process-wide `warnings` before we see their size.
    """
    name = format_of(file)
    if name is None:
        what, known = _named(file), ", ".join(_FORMATS)
        raise UnreadableImage(
            f"not an image of a known format but {what}; convert it to PNG, TIFF or JPEG"
            if what
            else f"not an image of a known format ({known})"
        )
    return _tiff(file) if name == "TIFF" else Image.OPEN[name][0](file, "")


def _tiff(file: IO[bytes]) -> ImageFile:
    picture = meant(file)
    try:
        return Image.OPEN["TIFF"][0](picture, "")
    except (SyntaxError, KeyError) as error:  # pixels, or a compression, that Pillow does not know
        raise UnreadableImage(undecodable(picture)) from error


def _named(file: IO[bytes]) -> str | None:
    """Name of what a file is that is no image, where its first bytes show it."""
    head = file.read(_HEAD)
    file.seek(0)
    if what := next((what for at, mark, what in _OTHERS if head[at:].startswith(mark)), None):
        return what
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((what for mark, what in _TEXTS if text.startswith(mark)), None)
