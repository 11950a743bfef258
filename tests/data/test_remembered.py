"""The cache of good images: it saves the reading, and never changes what a reading finds."""

import logging
import os
import sqlite3
from pathlib import Path

import pytest

from llb_ray.config import DataConfig
from llb_ray.data import candidate_files, decode_cache
from llb_ray.data.folder import read_folder
from tests.support import photo


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of this test alone, for which no file is too young."""
    monkeypatch.setenv("LLB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(decode_cache, "_SETTLED_S", -1e9)
    return tmp_path / "cache" / "images-3.sqlite"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were decoded."""
    seen: list[str] = []

    def spied(path: Path, size_px: int | None, max_pixels: int) -> object:
        seen.append(path.name)
        return read_rgb(path, size_px, max_pixels)

    read_rgb = candidate_files.read_rgb
    monkeypatch.setattr(candidate_files, "read_rgb", spied)
    return seen


def _photos(root: Path) -> Path:
    for number in range(3):
        photo(root / f"{number}.png", number)
    (root / "bad.png").write_text("no image")
    return root


def test_good_images_are_decoded_once_and_bad_ones_are_looked_at_again(
    cache: Path, decoded: list[str], tmp_path: Path
) -> None:
    root = _photos(tmp_path / "r")
    first = read_folder(root, DataConfig())
    assert sorted(decoded) == ["0.png", "1.png", "2.png", "bad.png"]
    decoded.clear()
    assert read_folder(root, DataConfig()) == first
    assert decoded == ["bad.png"]
    assert cache.is_file()


def test_a_changed_file_is_read_even_if_its_size_and_time_are_the_same(
    cache: Path, decoded: list[str], tmp_path: Path
) -> None:
    root = _photos(tmp_path / "r")
    before = os.stat(root / "0.png")
    first = read_folder(root, DataConfig())
    content = bytearray((root / "0.png").read_bytes())
    (root / "0.png").write_bytes(bytes(content[:-12]) + b"\0" * 12)  # the end chunk: still an image, other bytes
    os.utime(root / "0.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    decoded.clear()
    second = read_folder(root, DataConfig())
    assert "0.png" in decoded
    assert first.table["image_id"].to_pylist() != second.table["image_id"].to_pylist()


def test_a_lower_limit_is_asked_anew(cache: Path, tmp_path: Path) -> None:
    root = _photos(tmp_path / "r")
    read_folder(root, DataConfig())
    photo(root / "small.png", 9, 2, 2)
    reasons = read_folder(root, DataConfig(max_pixels=20)).quarantine["reason"].to_pylist()
    assert reasons.count("8 x 6 pixels is more than data.max_pixels = 20") == 3


def test_a_young_file_is_not_remembered(
    cache: Path, decoded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_cache, "_SETTLED_S", 1e6)
    root = _photos(tmp_path / "r")
    read_folder(root, DataConfig())
    decoded.clear()
    read_folder(root, DataConfig())
    assert len(decoded) == 4


def test_a_damaged_cache_is_said_and_done_without(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = _photos(tmp_path / "r")
    cache.parent.mkdir()
    cache.write_text("no data base, but long enough to be read as one" * 100)
    with caplog.at_level(logging.WARNING):
        assert len(read_folder(root, DataConfig()).table) == 3
    assert "cannot be used, so images are read again" in caplog.text
    cache.unlink()
    cache.mkdir()
    assert len(read_folder(root, DataConfig()).table) == 3


def test_a_cache_that_fails_later_is_done_without(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = _photos(tmp_path / "r")
    read_folder(root, DataConfig())
    with sqlite3.connect(cache) as connection:
        connection.execute("DROP TABLE image")
        connection.execute("CREATE TABLE image (path BLOB)")
    connection.close()
    with caplog.at_level(logging.WARNING):
        assert len(read_folder(root, DataConfig()).table) == 3
    assert "cannot be used" in caplog.text
