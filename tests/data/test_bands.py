"""Images of several bands: every kind of number comes out right, and every kind of odd file gives a reason."""

import io
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import llb_ray
from llb_ray.config import parse
from llb_ray.data.bands import Values, read_bands, resize_bands
from llb_ray.data.unreadable_files import UnreadableImage

LIMIT = 1_000_000
BANDS = 5
CUBE = np.arange(6 * 8 * BANDS).reshape(6, 8, BANDS)  # every value in its own place


def npy(value: Any, path: Path) -> Path:
    with path.open("wb") as file:
        np.save(file, value)
    return path


def npz(path: Path, **arrays: Any) -> Path:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path


def tiff(value_HWC: Any, path: Path) -> Path:
    first, *more = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(value_HWC, 2, 0)]
    first.save(path, "TIFF", save_all=True, append_images=more)
    return path


def reason(path: Path, bands: int = BANDS, max_pixels: int = LIMIT) -> str:
    with pytest.raises(UnreadableImage) as caught:
        read_bands(path, bands, max_pixels)
    assert "\n" not in caught.value.reason
    return caught.value.reason


def assert_cube(value_HWC: Values) -> None:
    assert value_HWC.dtype == np.float32
    assert value_HWC.flags.c_contiguous
    assert np.array_equal(value_HWC, CUBE)


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "<u2", ">u2", "i2", "u4", "i4", "u8", "i8", "f2", "<f4", ">f4", "f8", "g"]
)
@pytest.mark.parametrize("layout", ["HWC", "CHW", "Fortran"])
def test_an_array_of_any_number_type_and_either_layout(dtype: str, layout: str, tmp_path: Path) -> None:
    value = (CUBE - 100 if np.dtype(dtype).kind == "i" else CUBE).clip(-128, 127).astype(dtype)
    laid = {"HWC": value, "CHW": np.moveaxis(value, 2, 0), "Fortran": np.asfortranarray(value)}[layout]
    found = read_bands(npy(laid, tmp_path / "a.npy"), BANDS, LIMIT)
    assert found.dtype == np.float32
    assert np.array_equal(found, value)


def test_an_archive_of_one_array_or_of_one_called_data(tmp_path: Path) -> None:
    assert_cube(read_bands(npz(tmp_path / "a", anything=CUBE), BANDS, LIMIT))
    assert_cube(read_bands(npz(tmp_path / "b", map=CUBE[..., 0], data=CUBE), BANDS, LIMIT))
    assert "an archive of 2 files, none of them data.npy" in reason(npz(tmp_path / "c", one=CUBE, other=CUBE))


@pytest.mark.parametrize("dtype", ["u1", "<u2", "i4", "f4"])
def test_the_pages_of_a_tiff_are_its_bands(dtype: str, tmp_path: Path) -> None:
    assert_cube(read_bands(tiff(CUBE.astype(dtype), tmp_path / "a.tif"), BANDS, LIMIT))


def test_the_content_says_what_a_file_is_and_not_its_name(tmp_path: Path) -> None:
    assert_cube(read_bands(npy(CUBE, tmp_path / "a.tif"), BANDS, LIMIT))
    assert_cube(read_bands(tiff(CUBE.astype("u1"), tmp_path / "b.npy"), BANDS, LIMIT))


def test_a_single_band_may_do_without_its_axis(tmp_path: Path) -> None:
    expected = CUBE[..., :1]
    for value in (CUBE[..., 0], CUBE[..., :1], CUBE[..., 0][None]):
        assert np.array_equal(read_bands(npy(value, tmp_path / "a.npy"), 1, LIMIT), expected)
    assert np.array_equal(read_bands(tiff(expected.astype("u1"), tmp_path / "a.tif"), 1, LIMIT), expected)


class Bomb:
    """Pickled, it leaves a file behind when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (CUBE[..., :4], "6 x 8 x 4 values: of three axes neither the first nor the last is 5 long"),
        (np.moveaxis(CUBE, 2, 1), "6 x 5 x 8 values: of three axes neither"),
        (CUBE[..., 0], "6 x 8 values: of three axes neither"),
        (CUBE[None], "1 x 6 x 8 x 5 values: of three axes neither"),
        (np.zeros((5, 8, 5)), "5 x 8 x 5 values: first and last axis are both 5 long; save the bands as pages"),
        (np.float32(1), "1 values: no image"),
        (np.zeros((0, 8, 5)), "0 x 8 x 5 values: no image"),
        (CUBE + 1j, "holds values of type complex128; save it as integers or floats"),
        (CUBE > 3, "holds values of type bool"),
        (np.zeros((6, 8, 5), "M8[s]"), "holds values of type datetime64[s]"),
        (np.zeros((6, 8, 5), [("a", "f4")]), "holds values of type [('a', '<f4')]"),
        (np.where(CUBE == 7, np.nan, CUBE), "NaN, infinite or beyond float32"),
        (np.where(CUBE == 7, -np.inf, CUBE), "NaN, infinite or beyond float32"),
        (np.where(CUBE == 7, 1e300, CUBE), "NaN, infinite or beyond float32"),
        (np.full((6, 8, 5), Bomb(), object), "holds values of type object"),
    ],
    ids=lambda value: "" if isinstance(value, np.ndarray | np.generic) else value[:40],
)
def test_other_arrays_are_refused(value: Any, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in reason(npy(value, tmp_path / "a.npy"))
    assert sentence in reason(npz(tmp_path / "a.npz", data=value))
    assert not (tmp_path / "unpickled").exists()


def _photograph(path: Path) -> Path:
    Image.new("RGB", (8, 6)).save(path)
    return path


def _colour_pages(path: Path) -> Path:
    pages = [Image.new("RGB", (8, 6))] * BANDS
    pages[0].save(path, "TIFF", save_all=True, append_images=pages[1:])
    return path


def _uneven_pages(path: Path) -> Path:
    pages = [Image.new("L", (8, 6 + page)) for page in range(BANDS)]
    pages[0].save(path, "TIFF", save_all=True, append_images=pages[1:])
    return path


def _unsigned(path: Path) -> Path:
    content = tiff(CUBE.astype("i4"), path).read_bytes()
    entry = b"\x53\x01\x03\x00\x01\x00\x00\x00"  # SampleFormat, one short number
    assert content.count(entry + b"\x02") == BANDS
    path.write_bytes(content.replace(entry + b"\x02", entry + b"\x01"))
    return path


def _two_arrays(path: Path) -> Path:
    with path.open("wb") as file:
        np.save(file, CUBE)
        np.save(file, CUBE)
    return path


def _packed_otherwise(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.write(npy(CUBE, path.with_suffix(".one")), "data.npy")
    return path


def _cut(path: Path) -> Path:
    content = npy(CUBE, path).read_bytes()
    path.write_bytes(content[:-40])
    return path


def _empty(path: Path) -> Path:
    path.touch()
    return path


def _nothing_packed(path: Path) -> Path:
    zipfile.ZipFile(path, "w").close()
    return path


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (_photograph, "neither an array (.npy, .npz) nor a TIFF; data.bands = 5 asks for one"),
        (lambda path: tiff(CUBE[..., :3].astype("u1"), path), "a TIFF of 3 pages, not of data.bands = 5"),
        (_colour_pages, "page 1 is RGB, not grey of 8, 16 or 32 bits"),
        (_uneven_pages, "cannot be decoded (all input arrays must have the same shape)"),
        (_unsigned, "page 1 has unsigned integers of 32 bits; save it as float32"),
        (_two_arrays, "holds more than one array"),
        (_packed_otherwise, "an archive packed in a way that numpy does not use"),
        (_nothing_packed, "an archive of 0 files"),
        (_cut, "cannot be decoded ("),
        (_empty, "empty file"),
        (lambda path: path, "cannot be read (No such file or directory)"),
    ],
)
def test_other_files_are_refused(make: Callable[[Path], Path], sentence: str, tmp_path: Path) -> None:
    assert sentence in reason(make(tmp_path / "a.png"))


def _header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_a_header_that_promises_too_much_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.npy", tmp_path / "a.npz"
    plain.write_bytes(_header((200_000, 200_000, BANDS)))
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("data.npy", plain.read_bytes())
    tracemalloc.start()
    for path in (plain, packed):
        expected = "200000 x 200000 x 5 values are more than 3000000, three for each of data.max_pixels"
        assert reason(path) == expected
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
    assert "80 x 80 x 5 values" in reason(tiff(np.zeros((80, 80, 5), "u1"), tmp_path / "a.tif"), max_pixels=10_000)
    assert "-5 x 8 x 5" in reason(_written(tmp_path / "b.npy", _header((-5, 8, BANDS))))


def test_a_header_of_any_length_is_refused(tmp_path: Path) -> None:
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"1," * 50_000 + b")}\n"
    content = b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text
    assert "cannot be decoded" in reason(_written(tmp_path / "a.npy", content))


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow and numpy grumble about what is damaged
@pytest.mark.parametrize("kind", ["npy", "npz", "tiff"])
def test_damaged_bytes_give_a_reason_and_nothing_else(kind: str, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    path = tmp_path / "a"
    whole = {
        "npy": lambda: npy(CUBE.astype("f4"), path),
        "npz": lambda: npz(path, data=CUBE.astype("f4")),
        "tiff": lambda: tiff(CUBE.astype("u1"), path),
    }[kind]().read_bytes()
    for _ in range(300):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[random.integers(0, min(len(damaged), 300), 3)] = random.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        with suppress(UnreadableImage):
            assert read_bands(path, BANDS, LIMIT).shape[2] == BANDS


def test_resizing_mixes_no_bands_and_keeps_what_is_even() -> None:
    value_HWC = np.random.default_rng(0).normal(1e5, 300, (20, 30, BANDS)).astype(np.float32)
    value_HWC[..., 2] = -7
    small_HWC = resize_bands(value_HWC, (8, 8))
    assert small_HWC.shape == (8, 8, BANDS)
    assert np.allclose(small_HWC[..., 2], -7)
    for band in range(BANDS):
        assert np.array_equal(small_HWC[..., [band]], resize_bands(value_HWC[..., [band]], (8, 8)))
    assert resize_bands(small_HWC, (8, 8)) is small_HWC


def test_a_folder_of_bands_is_read_and_photographs_in_it_put_aside(tmp_path: Path) -> None:
    npy(CUBE, tmp_path / "a.npy")
    npz(tmp_path / "b.npz", data=CUBE + 1)
    tiff(CUBE.astype("u1"), tmp_path / "c.tif")
    _photograph(tmp_path / "d.png")
    manifest = llb_ray.read_folder(tmp_path, parse({"data": {"bands": BANDS}, "detector": {"name": "autoencoder"}}))
    assert sorted(manifest.table["path"].to_pylist()) == ["a.npy", "b.npz", "c.tif"]
    (aside,) = manifest.quarantine.to_pylist()
    assert aside["path"] == "d.png"
    assert "data.bands = 5" in aside["reason"]


def test_among_photographs_a_file_of_bands_is_put_aside_and_told_how_it_can_be_read(tmp_path: Path) -> None:
    npy(CUBE, tmp_path / "a.npy")
    npz(tmp_path / "b.npz", data=CUBE)
    tiff(CUBE.astype("u1"), tmp_path / "c.tif")
    _photograph(tmp_path / "d.png")
    (tmp_path / "e.txt").write_text("none of them")
    manifest = llb_ray.read_folder(tmp_path)
    assert manifest.table["path"].to_pylist() == ["d.png"]
    reasons = dict(zip(*(manifest.quarantine[name].to_pylist() for name in ("path", "reason")), strict=True))
    assert sorted(path for path, text in reasons.items() if "data.bands" in text) == ["a.npy", "b.npz", "c.tif"]
    assert reasons["c.tif"].startswith("has 5 frames; split it into single images; if it is an image of several bands")
