"""Images of C bands: an array, or the pages of a TIFF, becomes [H, W, C] float32, or a short reason why it cannot.

- An array (.npy, or a .npz that holds one array, or one called ``data``) is [H, W, C] or [C, H, W], known by which
  axis is as long as `bands`; where both are, the file is refused, not guessed at.  One band may do without its axis.
- A TIFF has one grey page for each band, in order; embedded profiles are ignored, orientations applied.

The kind is found from the content, never from the extension.  Integers and floats of any width are welcome and become
float32; NaN, infinities and what float32 cannot reach are refused.  Nothing is ever unpickled: an array of objects is
refused by its header, as is one that is too large, before any of it is read.
"""

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import PREFIXES, SAMPLEFORMAT, TiffImageFile

from llb_ray.config import Size
from llb_ray.data.image_files import lift_ceiling
from llb_ray.data.unreadable_files import UnreadableImage, refusing

Values = NDArray[np.float32]

_NPY, _ZIP, _TIFF = b"\x93NUMPY", (b"PK\x03\x04", b"PK\x05\x06"), tuple(PREFIXES)
_NAMED = "data.npy"  # the array of a .npz that is meant where it holds several
_UNPACKED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED  # what numpy writes
_GREY = "L", "I;16", "I;16B", "I", "F"
_UNSIGNED = 1  # TIFF sample format
_VALUES_PER_PIXEL = 3  # data.max_pixels is meant for photographs: as many values as those may have


def read_bands(path: Path, bands: int, max_pixels: int) -> Values:
    """The image as [H, W, C] float32 of C = `bands`, in the file's own units.

    Raises UnreadableImage for anything that is not exactly one such image, or has more values than a photograph of
    `max_pixels`; that is known from the header.  Safe to call from several threads.
    """
    with refusing(), path.open("rb") as file:
        prefix = _prefix(file)
        if prefix.startswith(_NPY):
            value_HWC = _array(file, bands, max_pixels)
        elif prefix.startswith(_ZIP):
            value_HWC = _archived(file, bands, max_pixels)
        elif prefix.startswith(_TIFF):
            value_HWC = _pages(file, bands, max_pixels)
        else:
            raise UnreadableImage(f"neither an array (.npy, .npz) nor a TIFF; data.bands = {bands} asks for one")
        if not np.isfinite(value_HWC).all():
            raise UnreadableImage("holds values that are NaN, infinite or beyond float32")
        return value_HWC


def may_hold_bands(path: Path) -> bool:
    """True if it is a file that `read_bands` would look into: an array or a TIFF of several pages."""
    with refusing(), path.open("rb") as file:
        prefix = _prefix(file)
        return prefix.startswith((_NPY, *_ZIP)) or (prefix.startswith(_TIFF) and TiffImageFile(file, "").n_frames > 1)


def resize_bands(value_HWC: Values, size: Size) -> Values:
    """The values at `size`: bicubic with antialias, as photographs are resized, every band on its own."""
    if value_HWC.shape[:2] == size:
        return value_HWC
    planes = (Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(value_HWC, 2, 0))
    small = [np.asarray(plane.resize(size[::-1], Image.Resampling.BICUBIC)) for plane in planes]
    return np.stack(small, axis=2)


def _prefix(file: IO[bytes]) -> bytes:
    prefix = file.read(len(_NPY))
    if not prefix:
        raise UnreadableImage("empty file")
    file.seek(0)
    return prefix


def _archived(file: IO[bytes], bands: int, max_pixels: int) -> Values:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        chosen = names if len(names) == 1 else [name for name in names if name == _NAMED]
        if len(chosen) != 1:
            raise UnreadableImage(f"an archive of {len(names)} files, none of them {_NAMED}; save one array in each")
        if archive.getinfo(chosen[0]).compress_type not in _UNPACKED:
            raise UnreadableImage("an archive packed in a way that numpy does not use")
        with archive.open(chosen[0]) as member:
            return _array(member, bands, max_pixels)


def _array(file: IO[bytes], bands: int, max_pixels: int) -> Values:
    shape, dtype = _array_header(file)
    _refuse_large(shape, max_pixels)
    if dtype.kind not in "iuf":
        raise UnreadableImage(f"holds values of type {dtype}; save it as integers or floats")
    axis = _band_axis(shape, bands)
    file.seek(0)
    value = np.lib.format.read_array(file, allow_pickle=False)
    if file.read(1):
        raise UnreadableImage("holds more than one array")
    with np.errstate(over="ignore"):  # infinite then, and refused as that
        plain = value.astype(np.float32)
    return np.ascontiguousarray(plain[..., None] if axis == value.ndim else np.moveaxis(plain, axis, -1))


def _array_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:  # 3.0 is for the names of columns, which an image has none of
        raise UnreadableImage(f"an array of format {version[0]}.{version[1]}, which holds no image")
    shape, _, dtype = readers[version](file)
    return shape, dtype


def _band_axis(shape: tuple[int, ...], bands: int) -> int:
    """The axis that counts the bands; beyond the last for a single band without one."""
    if len(shape) == 2 and bands == 1:
        return 2
    axes = [axis for axis in (0, 2) if len(shape) == 3 and shape[axis] == bands]
    if len(axes) == 1:
        return axes[0]
    if axes:
        raise UnreadableImage(
            f"{_size(shape)} values: first and last axis are both {bands} long; save the bands as pages of a TIFF"
        )
    raise UnreadableImage(f"{_size(shape)} values: of three axes neither the first nor the last is {bands} long")


def _refuse_large(shape: tuple[int, ...], max_pixels: int) -> None:
    if min(shape, default=0) < 1:
        raise UnreadableImage(f"{_size(shape)} values: no image")
    most = _VALUES_PER_PIXEL * max_pixels
    if math.prod(shape) > most:
        raise UnreadableImage(f"{_size(shape)} values are more than {most}, three for each of data.max_pixels")


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "1"


def _pages(file: IO[bytes], bands: int, max_pixels: int) -> Values:
    lift_ceiling(max_pixels)
    image = TiffImageFile(file, "")
    if image.n_frames != bands:
        raise UnreadableImage(f"a TIFF of {image.n_frames} pages, not of data.bands = {bands}")
    return np.stack([_page(image, number, bands, max_pixels) for number in range(bands)], axis=2)


def _page(image: TiffImageFile, number: int, bands: int, max_pixels: int) -> Values:
    image.seek(number)
    _refuse_large((image.height, image.width, bands), max_pixels)
    if image.mode not in _GREY:
        raise UnreadableImage(f"page {number + 1} is {image.mode}, not grey of 8, 16 or 32 bits")
    # Pillow takes these for signed ones.
    if image.mode == "I" and image.tag_v2.get(SAMPLEFORMAT, (_UNSIGNED,)) == (_UNSIGNED,):
        raise UnreadableImage(f"page {number + 1} has unsigned integers of 32 bits; save it as float32")
    return np.asarray(image).astype(np.float32)
