"""Which picture of a TIFF is meant, and what is said of those that are not read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llb_ray.data.decoding import read_rgb
from llb_ray.data.image_files import upright_size
from llb_ray.data.unreadable_files import UnreadableImage
from tests.tiffs import COMPRESSION, OLD_SUBFILE, ORIENTATION, PHOTOMETRIC, SUBFILE, Page, write_tiff

LIMIT = 1_000_000
FULL = np.arange(8 * 12, dtype=np.uint8).reshape(8, 12)
COLOUR = np.stack([FULL, 255 - FULL, FULL // 2], -1)
SMALL, TINY = FULL[::2, ::2], FULL[::4, ::4]
PREVIEW = np.full((4, 6, 3), 200, np.uint8)
SAME = FULL.copy()


def small(tags: dict[int, int] | None = None) -> Page:
    return Page(SMALL, tags or {})


FILES = {
    "a thumbnail page behind": [Page(FULL), small({SUBFILE: 1})],
    "a thumbnail page before": [small({SUBFILE: 1}), Page(FULL)],
    "by the older tag": [small({OLD_SUBFILE: 2}), Page(FULL, {OLD_SUBFILE: 1})],
    "a pyramid in the chain": [Page(FULL), small({SUBFILE: 1}), Page(TINY, {SUBFILE: 1})],
    "a pyramid below": [Page(FULL, {}, [small({SUBFILE: 1}), Page(TINY, {SUBFILE: 1})])],
    "a pyramid below that says nothing": [Page(FULL, {}, [small(), Page(TINY)])],
    "a mask of transparency": [Page(FULL), Page(SAME, {SUBFILE: 4}), small({SUBFILE: 5})],
    "a camera's preview first": [Page(PREVIEW, {SUBFILE: 1}, [Page(FULL, {SUBFILE: 0})])],
    "a camera's three": [Page(PREVIEW, {SUBFILE: 1}, [Page(FULL, {SUBFILE: 0}), Page(SAME, {SUBFILE: 1})])],
    "a depth map": [Page(FULL, {}, [Page(SAME, {SUBFILE: 8})])],
    "one page that calls itself reduced": [Page(FULL, {SUBFILE: 1})],
    "one page of several": [Page(FULL, {SUBFILE: 2})],
}


@pytest.mark.parametrize(("endian", "big"), [("<", False), (">", False), ("<", True)], ids=["II", "MM", "big"])
@pytest.mark.parametrize("pages", FILES.values(), ids=FILES)
def test_the_photograph_is_taken_not_its_preview(pages: list[Page], endian: str, big: bool, tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", pages, endian, big)
    assert np.array_equal(read_rgb(path, None, LIMIT)[..., 0], FULL)
    assert upright_size(path) == (12, 8)


def test_a_photograph_in_colour_behind_a_preview(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.dng", [Page(PREVIEW, {SUBFILE: 1}, [Page(COLOUR, {SUBFILE: 0})])])
    assert np.array_equal(read_rgb(path, None, LIMIT), COLOUR)


@pytest.mark.parametrize("where", ["parent", "own"])
def test_a_photograph_behind_a_preview_is_upright(where: str, tmp_path: Path) -> None:
    turned = {ORIENTATION: 6}
    parent, own = ({SUBFILE: 1} | turned, {}) if where == "parent" else ({SUBFILE: 1, ORIENTATION: 3}, turned)
    path = write_tiff(tmp_path / "a.dng", [Page(PREVIEW, parent, [Page(FULL, {SUBFILE: 0, **own})])])
    assert np.array_equal(read_rgb(path, None, LIMIT)[..., 0], np.rot90(FULL, -1))
    assert upright_size(path) == (8, 12)


@pytest.mark.parametrize(
    ("pages", "frames"),
    [
        ([Page(FULL), Page(255 - FULL)], 2),
        ([Page(FULL), Page(255 - FULL), small({SUBFILE: 1})], 2),
        ([Page(FULL, {}, [Page(255 - FULL, {SUBFILE: 0})])], 2),
        ([Page(FULL, {SUBFILE: 2}), Page(SAME, {SUBFILE: 2}), Page(SAME, {SUBFILE: 2})], 3),
        ([small({SUBFILE: 1}), Page(TINY, {SUBFILE: 1})], 2),
    ],
)
def test_several_pictures_are_refused(pages: list[Page], frames: int, tmp_path: Path) -> None:
    assert reason(write_tiff(tmp_path / "a.tif", pages)) == f"has {frames} frames; split it into single images"


@pytest.mark.parametrize(
    ("page", "mark"),
    [
        (Page(PREVIEW, {SUBFILE: 1}, [Page(FULL, {SUBFILE: 0, PHOTOMETRIC: 32803})]), b""),
        (Page(FULL, {PHOTOMETRIC: 32803}), b""),
        (Page(COLOUR, {PHOTOMETRIC: 34892}), b""),
        (Page(FULL), b"CR\x02\0"),
    ],
    ids=["behind a preview", "alone", "linear", "CR2"],
)
def test_a_sensors_data_are_refused_with_a_remedy(page: Page, mark: bytes, tmp_path: Path) -> None:
    assert reason(write_tiff(tmp_path / "a.dng", [page], mark=mark)).startswith("a camera's raw file (")
    assert reason(tmp_path / "a.dng").endswith("develop it to TIFF, PNG or JPEG")


UNREAD = {
    "1 x 64-bit float": Page(np.zeros((4, 4), np.float64)),
    "3 x 32-bit float": Page(np.zeros((4, 4, 3), np.float32)),
    "2 x 16-bit unsigned": Page(np.zeros((4, 4, 2), np.uint16)),
    "5 x 8-bit unsigned": Page(np.zeros((4, 4, 5), np.uint8), {PHOTOMETRIC: 1}),
    "3 x 8-bit signed": Page(np.zeros((4, 4, 3), np.int8)),
    "1 x 64-bit unsigned": Page(np.zeros((4, 4), np.uint64)),
    "1 x 8-bit unsigned values, compression 34712 (JPEG 2000)": Page(FULL, {COMPRESSION: 34712}),
    "1 x 8-bit unsigned values, compression 34887 (LERC)": Page(FULL, {COMPRESSION: 34887}),
    "1 x 8-bit unsigned values, compression 50002 (JPEG XL)": Page(FULL, {COMPRESSION: 50002}),
    "1 x 8-bit unsigned values, compression 65000 (unknown)": Page(FULL, {COMPRESSION: 65000}),
}


@pytest.mark.parametrize("what", UNREAD)
def test_what_is_not_read_is_told_by_format_and_depth_with_a_remedy(what: str, tmp_path: Path) -> None:
    said = reason(write_tiff(tmp_path / "a.tif", [UNREAD[what]]))
    assert said.startswith(f"a TIFF of {what}")
    assert said.endswith("which is not read; save it as PNG or TIFF with 8 or 16 bits, grey or RGB")


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (
            np.array([[-5, 3], [0, 9]], np.int8),
            "signed values -5 to 9 are negative; shift them and save it as PNG or TIFF",
        ),
        (
            np.array([[-5, 3], [0, 9]], np.int16),
            "grey values -5 to 9 are not within 0 to 65535; save it as PNG or TIFF",
        ),
        (
            np.array([[-5, 3], [0, 9]], np.int32),
            "grey values -5 to 9 are not within 0 to 65535; save it as PNG or TIFF",
        ),
        (np.array([[0, 65536]], np.uint32), "grey values 0 to 65536 are not within 0 to 65535;"),
        (np.array([[0, 255]], np.float32), "grey values 0 to 255 are not within 0 to 1;"),
    ],
    ids=["int8", "int16", "int32", "uint32", "float32"],
)
def test_values_off_the_scale_are_refused_and_never_wrap(pixels: np.ndarray, said: str, tmp_path: Path) -> None:  # type: ignore[type-arg]
    assert reason(write_tiff(tmp_path / "a.tif", [Page(pixels)])).startswith(said)


def test_signed_bytes_that_are_not_negative_are_what_they_say(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", [Page(np.array([[0, 127], [5, 9]], np.int8))])
    assert read_rgb(path, None, LIMIT)[..., 0].tolist() == [[0, 127], [5, 9]]


HEADS = {
    "HEIC": b"\0\0\0\x18ftypheic",
    "JPEG XL": b"\xff\x0a\xfa\x7f",
    "a camera's raw file (CR3)": b"\0\0\0\x18ftypcrx ",
    "a camera's raw file (RW2)": b"IIU\0\x18\0\0\0",
    "Photoshop (PSD)": b"8BPS\0\x01",
    "QOI": b"qoif\0\0",
    "DICOM": b"\0" * 128 + b"DICM",
    "FITS": b"SIMPLE  =                    T",
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "PDF": b"%PDF-1.7",
    "an HTML page": b"\n<!DOCTYPE html><html>",
    "SVG": b"<svg xmlns=",
    "a pointer of Git LFS (git lfs pull fetches the file itself)": b"version https://git-lfs.github.com/spec/v1",
}


@pytest.mark.parametrize("what", HEADS)
def test_other_formats_are_named(what: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(HEADS[what] + b" " * 64)
    expected = f"not an image of a known format but {what}; convert it to PNG, TIFF or JPEG"
    assert reason(tmp_path / "a.png") == expected


def test_a_stack_of_one_is_an_image(tmp_path: Path) -> None:
    Image.fromarray(FULL).save(tmp_path / "a.tif", save_all=True)
    assert np.array_equal(read_rgb(tmp_path / "a.tif", None, LIMIT)[..., 0], FULL)


def reason(path: Path) -> str:
    with pytest.raises(UnreadableImage) as caught:
        read_rgb(path, None, LIMIT)
    return caught.value.reason
