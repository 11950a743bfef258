"""16-bit data that use a part of their scale: a set has a black and a white point, a single image has none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from llb_ray.data.decoding import may_be_deep, read_deep, read_rgb, read_thumbnail
from llb_ray.data.levels import Levels, Range, table_of
from tests.tiffs import Page, write_tiff

LIMIT = 1_000_000
RAMP = np.linspace(0.1, 0.9, 60 * 80).reshape(60, 80)  # of the scale
Write = Callable[[Path, NDArray[np.uint16]], Path]


def _png(path: Path, value: NDArray[np.uint16]) -> Path:
    Image.fromarray(value).save(path.with_suffix(".png"))
    return path.with_suffix(".png")


def _tiff(path: Path, value: NDArray[np.uint16]) -> Path:
    return write_tiff(path.with_suffix(".tif"), [Page(value)])


def _tiff_mm(path: Path, value: NDArray[np.uint16]) -> Path:
    return write_tiff(path.with_suffix(".tif"), [Page(value)], endian=">")


def _rgb_tiff(path: Path, value: NDArray[np.uint16]) -> Path:
    return _tiff(path, np.stack([value] * 3, -1))


def _rgb_tiff_mm(path: Path, value: NDArray[np.uint16]) -> Path:
    return _tiff_mm(path, np.stack([value] * 3, -1))


def _rgb_png(path: Path, value: NDArray[np.uint16]) -> Path:
    """Pillow writes none."""
    import struct
    import zlib

    rows = np.stack([value] * 3, -1).astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    content = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">IIBBBBB", value.shape[1], value.shape[0], 16, 2, 0, 0, 0)
    for name, data in ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    path.with_suffix(".png").write_bytes(content)
    return path.with_suffix(".png")


def _uint32(path: Path, value: NDArray[np.uint16]) -> Path:
    return write_tiff(path.with_suffix(".tif"), [Page(value.astype(np.uint32))])


WRITERS = [_png, _tiff, _tiff_mm, _rgb_png, _rgb_tiff, _rgb_tiff_mm, _uint32]


def levels_of(*values: NDArray[Any]) -> Levels | None:
    return Levels.of([found for value in values if (found := Range.of(value)) is not None])


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_a_cameras_bits_fill_the_scale_of_8(bits: int, write: Write, tmp_path: Path) -> None:
    value = np.rint(RAMP * (2**bits - 1)).astype(np.uint16)
    path = write(tmp_path / "a", value)
    found = read_deep(path, LIMIT)
    assert may_be_deep(path)
    assert found is not None
    assert np.array_equal(found if found.ndim == 2 else found[..., 1], value)
    levels = levels_of(found)
    assert levels == Levels(0, 2**bits - 1)
    grey = read_rgb(path, None, LIMIT, levels)
    assert np.abs(grey[..., 2] - 255 * RAMP).max() < 0.7
    assert len(np.unique(grey)) >= 205
    assert np.abs(np.asarray(read_thumbnail(path, 80, LIMIT, levels)).astype(int) - grey).max() == 0
    assert read_rgb(path, None, LIMIT).max() <= 255 * 2**bits / 65535 + 1, (
        "without the set, the scale is that of the file"
    )


@pytest.mark.parametrize(
    ("low", "span"), [(29000, 228), (7000, 600), (1500, 130), (60000, 2000)], ids=["thermal", "13 bits", "11", "bright"]
)
def test_values_far_from_black_are_spread_with_room_on_both_sides(low: int, span: int) -> None:
    value = (low + span * RAMP).astype(np.uint16)
    levels = levels_of(*[value] * 5)
    assert levels is not None
    grey = levels.to_bytes(value)
    assert grey.min() > 50
    assert grey.max() < 205
    assert len(np.unique(grey)) > 80
    assert levels.to_bytes(np.array([0, 65535])).tolist() == [0, 255]


@pytest.mark.parametrize("scale", [65535, 40000, 20000])
def test_values_that_use_their_scale_are_left_as_they_are(scale: int) -> None:
    assert levels_of((RAMP * scale).astype(np.uint16)) is None


@pytest.mark.parametrize("odd", [0, 65535])
def test_values_that_say_there_was_none_do_not_count(odd: int) -> None:
    value = np.rint(RAMP * 4095).astype(np.uint16)
    value[::9, ::9] = odd
    assert levels_of(value) == Levels(0, 4095)
    assert Range.of(np.full((4, 4), odd, np.uint16)) is None


def test_one_image_with_a_hot_defect_moves_no_levels_of_a_set() -> None:
    values = [(29000 + 500 * np.random.default_rng(seed).random((40, 40))).astype(np.uint16) for seed in range(20)]
    hot = values[0].copy()
    hot[:20] = 34000
    without, with_hot = levels_of(*values), levels_of(hot, *values[1:])
    assert without is not None
    assert with_hot is not None
    assert abs(with_hot.white - without.white) < 10


def test_levels_of_a_set_do_not_depend_on_its_order_and_are_stored() -> None:
    ranges = [Range(4000 + n, 10 + n, 3000 + n) for n in range(9)]
    assert Levels.of(ranges) == Levels.of(ranges[::-1]) == Levels(0, 4095)
    for levels in (None, Levels(3.5, 900)):
        assert Levels.of_table(table_of(levels)) == levels
    assert Levels.of([]) is None


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "F"])
def test_other_images_have_no_levels(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.tif" if mode == "F" else "a.png")
    image = Image.new(mode, (8, 6), 1)
    image.save(path)
    assert not may_be_deep(path)
    assert read_deep(path, LIMIT) is None
    assert np.array_equal(read_rgb(path, None, LIMIT, Levels(0, 4095)), read_rgb(path, None, LIMIT))
    (tmp_path / "no.png").write_text("no image")
    assert not may_be_deep(tmp_path / "no.png")
