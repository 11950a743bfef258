"""Decoding: every kind of pixel comes out right, and every kind of broken file gives a reason."""

import hashlib
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llb_ray.data.decoding import content_id, read_rgb, read_thumbnail
from llb_ray.data.mask_files import read_mask
from llb_ray.data.unreadable_files import UnreadableImage
from llb_ray.errors import DataError

LIMIT = 1_000_000
RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def pixel(path: Path) -> tuple[int, ...]:
    """The only colour of an even image."""
    rgb_HWC = read_rgb(path, None, LIMIT)
    assert rgb_HWC.dtype == np.uint8
    assert rgb_HWC.shape == (6, 8, 3)
    assert (rgb_HWC == rgb_HWC[0, 0]).all()
    return tuple(rgb_HWC[0, 0].tolist())


def reason(path: Path, max_pixels: int = LIMIT) -> str:
    with pytest.raises(UnreadableImage) as caught:
        read_rgb(path, None, max_pixels)
    assert caught.value.args == (caught.value.reason,)
    assert "\n" not in caught.value.reason
    return caught.value.reason


def even(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (8, 6), colour)  # type: ignore[arg-type]


def palette(transparent: bool) -> Image.Image:
    image = even("P", 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    if transparent:
        image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    ("image", "name", "expected"),
    [
        (even("RGB", RED), "a.png", RED),
        (even("L", 77), "a.png", (77, 77, 77)),
        (even("1", 1), "a.png", WHITE),
        (even("1", 0), "a.tif", BLACK),
        (even("CMYK", (0, 255, 255, 0)), "a.tif", RED),
        (even("YCbCr", (255, 128, 128)), "a.tif", WHITE),
        (palette(transparent=False), "a.png", RED),
        (palette(transparent=True), "a.png", WHITE),
        (palette(transparent=True), "a.gif", WHITE),
        (even("LA", (0, 0)), "a.png", WHITE),
        (even("LA", (0, 255)), "a.png", BLACK),
        (even("RGBA", (255, 0, 0, 255)), "a.png", RED),
        (even("RGBA", (0, 0, 0, 0)), "a.png", WHITE),
        (even("RGBA", (0, 0, 0, 51)), "a.png", (204, 204, 204)),
        (even("I;16", 32768), "a.png", (128, 128, 128)),
        (even("I;16", 65535), "a.png", WHITE),
        (even("I;16", 4095), "a.tif", (16, 16, 16)),
        (even("I;16B", 32768), "a.tif", (128, 128, 128)),
        (even("I", 32768), "a.tif", (128, 128, 128)),
        (even("F", 0.5), "a.tif", (128, 128, 128)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_every_mode_becomes_the_right_colour(
    image: Image.Image, name: str, expected: tuple[int, ...], tmp_path: Path
) -> None:
    assert pixel(saved(image, tmp_path / name)) == expected


def test_cmyk_jpeg_is_red(tmp_path: Path) -> None:
    path = saved(even("CMYK", (0, 255, 255, 0)), tmp_path / "a.jpg", quality=95)
    assert np.abs(np.subtract(pixel(path), RED)).max() <= 3


def test_transparent_colour_of_an_rgb_image_is_white(tmp_path: Path) -> None:
    assert pixel(saved(even("RGB", RED), tmp_path / "a.png", transparency=RED)) == WHITE


@pytest.mark.parametrize("value", [-1, 70_000])
def test_wide_integers_off_the_16_bit_scale_are_refused(value: int, tmp_path: Path) -> None:
    assert "not within 0 to 65535" in reason(saved(even("I", value), tmp_path / "a.tif"))


@pytest.mark.parametrize("value", [-0.5, 200.0, float("nan")])
def test_floats_outside_0_to_1_are_refused(value: float, tmp_path: Path) -> None:
    assert "not within 0 to 1" in reason(saved(even("F", value), tmp_path / "a.tif"))


def test_16_bit_grey_keeps_its_order(tmp_path: Path) -> None:
    ramp_HW = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    grey_HW = read_rgb(saved(Image.fromarray(ramp_HW), tmp_path / "a.png"), None, LIMIT)[..., 0]
    assert np.array_equal(grey_HW, np.rint(ramp_HW / 257))


@pytest.mark.parametrize(("name", "orientation"), [("a.jpg", 6), ("a.png", 6), ("a.tif", 6), ("a.jpg", 8)])
def test_exif_orientation_is_applied(name: str, orientation: int, tmp_path: Path) -> None:
    image = even("L", 0)
    image.paste(255, (0, 0, 4, 6))  # the left half is bright
    exif = Image.Exif()
    exif[0x0112] = orientation
    rgb_HWC = read_rgb(saved(image, tmp_path / name, exif=exif), None, LIMIT)
    assert rgb_HWC.shape == (8, 6, 3)
    top, bottom = rgb_HWC[:3].mean(), rgb_HWC[-3:].mean()
    assert (top > 200 > 50 > bottom) if orientation == 6 else (bottom > 200 > 50 > top)


def test_resize_is_square_smooth_and_writable(tmp_path: Path) -> None:
    stripes_HW = np.tile(np.array([0, 255], np.uint8), (30, 50))
    rgb_HWC = read_rgb(saved(Image.fromarray(stripes_HW), tmp_path / "a.png"), 10, LIMIT)
    assert rgb_HWC.shape == (10, 10, 3)
    assert np.abs(rgb_HWC[:, 1:-1].astype(int) - 127).max() < 8, "without antialias the stripes would survive"
    assert rgb_HWC.flags.writeable


def test_content_decides_not_the_extension(tmp_path: Path) -> None:
    even("RGB", WHITE).save(tmp_path / "jpeg.png", format="JPEG")
    even("RGB", RED).save(tmp_path / "png.txt", format="PNG")
    assert pixel(tmp_path / "jpeg.png") == WHITE
    assert pixel(tmp_path / "png.txt") == RED


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "a.webp", "a.gif", "a.ppm", "a.jp2"])
def test_truncated_files_are_refused(name: str, tmp_path: Path) -> None:
    path = saved(noise(), tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert reason(path).startswith("cannot be decoded (")


@pytest.mark.parametrize(
    "data", [b"hello, I am no image", b"P5 but not really", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0"]
)
def test_what_is_not_an_image_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(data)
    assert reason(tmp_path / "a.png").startswith(("not an image", "cannot be decoded"))


def test_empty_missing_and_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert reason(tmp_path / "empty.png") == "empty file"
    assert reason(tmp_path / "missing.png") == "cannot be read (No such file or directory)"
    assert reason(tmp_path) == "cannot be read (Is a directory)"


def test_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions do not stop root, who runs many a test suite, so the refusal is played."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "a.png")

    path = saved(even("L", 0), tmp_path / "a.png")
    monkeypatch.setattr(Path, "open", refuse)
    assert reason(path) == "cannot be read (Permission denied)"


def bomb(side_px: int) -> bytes:
    """A tiny PNG whose header promises a huge image."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side_px", [9_600, 60_000])  # Pillow itself would warn of the first and refuse the second
def test_bomb_is_refused_by_its_header_without_a_warning(side_px: int, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bomb(side_px))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = reason(tmp_path / "a.png", 90_000_000)
    assert message == f"{side_px} x {side_px} pixels is more than data.max_pixels = 90000000"


def test_max_pixels_may_exceed_pillows_own_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = saved(noise(), tmp_path / "a.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_rgb(path, None, 64 * 64).shape == (64, 64, 3)
    assert "more than data.max_pixels = 4095" in reason(path, 64 * 64 - 1)


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.png", "a.webp"])
def test_several_frames_are_refused(name: str, tmp_path: Path) -> None:
    frames = [noise().rotate(90 * turn) for turn in range(3)]
    path = saved(frames[0], tmp_path / name, save_all=True, append_images=frames[1:])
    assert reason(path) == "has 3 frames; split it into single images"


def test_camera_jpeg_with_a_preview_gives_the_photograph(tmp_path: Path) -> None:
    path = saved(even("RGB", WHITE), tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[even("RGB", RED)])
    assert pixel(path) == WHITE


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow grumbles about damaged TIFF tags
@pytest.mark.parametrize("name", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"])
def test_damaged_bytes_give_a_reason_and_nothing_else(name: str, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    whole = BytesIO()
    noise().resize((16, 16)).save(whole, name)
    for _ in range(60):
        damaged = np.frombuffer(whole.getvalue(), np.uint8).copy()
        damaged[random.integers(0, min(len(damaged), 300), 3)] = random.integers(0, 256, 3)
        (tmp_path / "damaged").write_bytes(damaged.tobytes())
        with suppress(UnreadableImage):
            assert read_rgb(tmp_path / "damaged", 8, LIMIT).shape == (8, 8, 3)


def test_threads_agree(tmp_path: Path) -> None:
    path = saved(noise(), tmp_path / "a.webp", lossless=True)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: read_rgb(path, 32, LIMIT).tobytes(), range(64)))
    assert len(set(results)) == 1


@pytest.mark.parametrize("name", ["large.jpg", "large.png", "large.webp"])
def test_a_thumbnail_is_upright_and_all_but_the_whole_image_made_small(name: str, tmp_path: Path) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    path = saved(Image.fromarray(coarse).resize((800, 600)), tmp_path / name, exif=exif)
    expected = Image.fromarray(read_rgb(path, None, LIMIT))
    expected.thumbnail((80, 80))
    found = read_thumbnail(path, 80, LIMIT)
    assert (found.mode, found.size) == ("RGB", (60, 80))
    assert np.abs(np.asarray(found, float) - np.asarray(expected, float)).max() <= 6
    with pytest.raises(UnreadableImage, match=r"more than data\.max_pixels"):
        read_thumbnail(path, 80, 800 * 600 - 1)


def test_a_small_image_is_its_own_thumbnail(tmp_path: Path) -> None:
    path = saved(noise(), tmp_path / "small.jpg")
    assert np.array_equal(np.asarray(read_thumbnail(path, 320, LIMIT)), read_rgb(path, None, LIMIT))


def test_content_id_is_128_bits_of_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert content_id(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()[:32]
    with pytest.raises(UnreadableImage, match="No such file"):
        content_id(tmp_path / "missing")


def corner(mode: str, defect: object, background: object) -> Image.Image:
    image = even(mode, background)
    image.putpixel((0, 0), defect)  # type: ignore[arg-type]
    return image


def red_and_black() -> Image.Image:
    image = corner("P", 0, 1)  # the palette, not the index, says which is black
    image.putpalette([255, 0, 0, 0, 0, 0])
    return image


@pytest.mark.parametrize(
    "make",
    [
        lambda: corner("L", 1, 0),
        lambda: corner("1", 1, 0),
        lambda: corner("RGB", (0, 0, 1), BLACK),
        lambda: corner("RGBA", (255, 0, 0, 255), (255, 255, 255, 0)),
        lambda: corner("I;16", 1, 0),
        lambda: corner("I", 1, 0),
        lambda: corner("F", 0.001, 0.0),
        red_and_black,
    ],
)
def test_mask_is_whatever_is_not_black(make: Callable[[], Image.Image], tmp_path: Path) -> None:
    mask_HW = read_mask(saved(make(), tmp_path / "a.tif"), None, LIMIT)
    assert mask_HW.dtype == np.bool_
    assert mask_HW.shape == (6, 8)
    assert np.argwhere(mask_HW).tolist() == [[0, 0]]


def test_mask_is_resized_by_nearest_neighbour(tmp_path: Path) -> None:
    image = even("L", 0)
    image.paste(255, (0, 0, 4, 6))
    mask_HW = read_mask(saved(image, tmp_path / "a.png"), 4, LIMIT)
    assert mask_HW.tolist() == [[True, True, False, False]] * 4


def test_unusable_mask_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"m\.png: not a usable mask \(not an image.*\); replace or delete it"):
        read_mask(tmp_path / "m.png", 8, LIMIT)
