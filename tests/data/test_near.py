"""Near duplicates: copies and second shots are found whatever was done to them, and parts that look alike are none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageEnhance

from llb_ray.config import DataConfig
from llb_ray.data.folder import read_folder
from llb_ray.data.manifest import Manifest
from llb_ray.data.near_duplicates import near_duplicates, near_sentences, near_with_paths, signature

Change = Callable[[Image.Image, Path], None]


def part(seed: int) -> Image.Image:
    """A part of a kind that all look much alike: one disc with a stain of its own, and the noise of a sensor."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :128]
    grey = 90 + 70.0 * ((x - 64) ** 2 + (y - 48) ** 2 < 40**2)
    for _ in range(12):
        cx, cy, sigma = rng.uniform(20, 108), rng.uniform(10, 86), rng.uniform(4, 14)
        grey += rng.uniform(-25, 25) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
    return _noisy(grey, rng)


def _noisy(grey: np.ndarray, rng: np.random.Generator) -> Image.Image:  # type: ignore[type-arg]
    return Image.fromarray(np.clip(grey + rng.normal(0, 3, grey.shape), 0, 255).astype(np.uint8))


CHANGES: dict[str, Change] = {
    "saved as JPEG": lambda image, path: image.save(path.with_suffix(".jpg"), quality=50),
    "saved again": lambda image, path: image.save(path, optimize=True, pnginfo=_info()),
    "in colour": lambda image, path: image.convert("RGB").save(path),
    "half as large": lambda image, path: image.resize((64, 48)).save(path),
    "brighter": lambda image, path: ImageEnhance.Brightness(image).enhance(1.2).save(path),
    "less contrast": lambda image, path: ImageEnhance.Contrast(image).enhance(0.6).save(path),
    "another exposure": lambda image, path: _noisy(0.7 * np.asarray(image), np.random.default_rng(1)).save(path),
    "with a scratch": lambda image, path: _scratched(image).save(path),
}


def _info() -> object:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("by", "a tool")
    return info


def _scratched(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.paste(190, (60, 30, 61, 40))
    return image


def _tree(root: Path) -> Path:
    for place, seeds in (("train/good", range(20)), ("test/good", range(50, 60))):
        (root / place).mkdir(parents=True)
        for seed in seeds:
            part(seed).save(root / place / f"{seed:03d}.png")
    return root


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _tree(tmp_path_factory.mktemp("parts") / "tree")


def test_parts_that_look_alike_are_no_duplicates(parts: Path) -> None:
    manifest = read_folder(parts, DataConfig())
    assert manifest.near.num_rows == 0
    assert near_sentences(manifest) == []


@pytest.mark.parametrize("change", CHANGES)
def test_test_images_that_training_has_too_are_named(change: str, tmp_path: Path) -> None:
    root = _tree(tmp_path / "tree")
    (root / "test/bad").mkdir()
    CHANGES[change](part(7), root / "test/bad/copy.png")
    manifest = read_folder(root, DataConfig())
    (row,) = [row for row in near_with_paths(manifest).to_pylist() if row["split"] == "test"]
    assert (Path(row["path"]).stem, row["near_path"]) == ("copy", "train/good/007.png")
    leak, twice = [*near_sentences(manifest), ""][:2]
    assert leak.startswith("1 of 11 test images are near duplicates of training images")
    assert "~ train/good/007.png" in leak
    assert twice == "", "the image that was copied is no second shot of another training image"


@pytest.mark.parametrize("shots", [2, 3])
def test_sets_of_which_everything_was_photographed_twice_are_found(shots: int, tmp_path: Path) -> None:
    for seed in range(12):
        for shot in range(shots):
            shown = np.asarray(part(seed), np.float64)
            _noisy(shown, np.random.default_rng((seed, shot))).save(tmp_path / f"{seed:02d}_{shot}.png")
    manifest = read_folder(tmp_path, DataConfig())
    assert manifest.near.num_rows == 12 * shots
    assert {row["path"][:2] == row["near_path"][:2] for row in near_with_paths(manifest).to_pylist()} == {True}
    (sentence,) = near_sentences(manifest)
    assert sentence.startswith(f"{12 * shots} of {12 * shots} training images are near duplicates of others")
    grouped = read_folder(tmp_path, DataConfig(group_pattern=r"(\d+)_"))
    assert grouped.near.num_rows == 0, "shots of one object are meant to be there"


def test_labels_change_nothing_and_a_manifest_keeps_what_was_found(tmp_path: Path) -> None:
    root = _tree(tmp_path / "tree")
    part(7).save(root / "test/good/copy.jpg")
    first = read_folder(root, DataConfig())
    (root / "train/good").rename(root / "train/scrap")
    (root / "test/good").rename(root / "test/ok")
    assert read_folder(root, DataConfig()).near == first.near
    first.save(tmp_path / "m.arrow")
    assert Manifest.load(tmp_path / "m.arrow", root) == first
    without = Manifest.of(root, first.table.filter(pa.array([False] * len(first.table))), first.quarantine, first.near)
    assert without.near.num_rows == 0, "pairs of images that are not there"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images_and_even_ones(count: int) -> None:
    rows = [{"image_id": f"{n:032x}", "group": str(n), "split": "train"} for n in range(count)]
    even = signature(np.full((9, 7, 3), 40, np.uint8))
    assert not any(even)
    table = pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in ("image_id", "group", "split")]))
    assert near_duplicates(table, {row["image_id"]: even for row in rows}).num_rows == 0
    shown = signature(np.asarray(part(1).convert("RGB")))
    found = near_duplicates(table, {row["image_id"]: shown for row in rows})
    assert found.num_rows == (2 if count == 2 else 0)
