"""Synthetic photographs: what is promised of counts, names, contamination, masks and repeatability."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from llb_ray.config import DataConfig
from llb_ray.data.defects import DEFECTS
from llb_ray.data.folder import read_folder
from llb_ray.data.synthetic import CATEGORIES, GOOD, RARE_SHARE, SyntheticConfig, objects, write_synthetic
from llb_ray.errors import ConfigError, DataError

SMALL = SyntheticConfig(("gear",), train_objects=40, test_objects=14, alpha=0.25, size_px=64)


@pytest.fixture(scope="module")
def gear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gear"), SMALL)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same recipe without contamination."""
    return write(tmp_path_factory.mktemp("clean"), with_alpha(0.0))


def write(folder: Path, recipe: SyntheticConfig) -> Path:
    write_synthetic(folder, recipe)
    return folder / recipe.categories[0]


def with_alpha(alpha: float) -> SyntheticConfig:
    return SyntheticConfig(SMALL.categories, SMALL.train_objects, SMALL.test_objects, alpha, SMALL.seed, SMALL.size_px)


def pictures(tree: Path, split: str) -> list[Path]:
    return sorted((tree / split).rglob("*.png"))


def numbers_of(paths: list[Path]) -> set[str]:
    return {path.name[:7] for path in paths}


def contents(tree: Path, folder: str) -> dict[str, bytes]:
    return {path.relative_to(tree).as_posix(): path.read_bytes() for path in sorted((tree / folder).rglob("*.png"))}


def pixels(path: Path) -> npt.NDArray[np.int16]:
    return np.asarray(Image.open(path)).astype(np.int16)


def mask_of(picture: Path) -> Path:
    return picture.parents[2] / "ground_truth" / picture.parent.name / f"{picture.stem}_mask.png"


def test_every_object_is_photographed_from_every_view(gear: Path) -> None:
    for split, count in (("train", SMALL.train_objects), ("test", SMALL.test_objects)):
        names = [path.name for path in pictures(gear, split)]
        assert all(re.fullmatch(r"obj\d{4}(_rare)?_view\d\.png", name) for name in names)
        assert set(Counter(name[:7] for name in names).values()) == {SMALL.views}
        assert len(names) == count * SMALL.views


def test_stems_are_unique_in_the_category_so_that_masks_cannot_collide(gear: Path) -> None:
    stems = [path.stem for split in ("train", "test") for path in pictures(gear, split)]
    assert len(set(stems)) == len(stems)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.25, 0.4])
def test_alpha_is_the_exact_share_of_anomalous_training_objects(alpha: float) -> None:
    made = [thing for thing in objects(with_alpha(alpha), "gear") if thing.split == "train"]
    assert sum(thing.defect != GOOD for thing in made) == alpha * SMALL.train_objects
    assert len(made) == SMALL.train_objects


def test_every_defect_type_is_tested_and_contaminates(gear: Path) -> None:
    for split in ("train", "test"):
        assert {path.parent.name for path in pictures(gear, split)} == {GOOD, *DEFECTS}


def test_the_test_set_is_the_same_bytes_whatever_the_contamination(gear: Path, clean: Path) -> None:
    assert contents(gear, "test") == contents(clean, "test")


def test_more_contamination_spoils_more_objects_and_spares_the_rest(gear: Path, clean: Path) -> None:
    before, after = contents(clean, "train/good"), contents(gear, "train/good")
    same = [name for name in after if "_rare" not in name and name in before]
    assert len(same) > 0.5 * len(after)
    assert all(before[name] == after[name] for name in same)


def test_a_mask_is_exactly_where_the_flawless_object_looks_different(gear: Path, clean: Path) -> None:
    spoilt = [path for path in pictures(gear, "train") if path.parent.name != GOOD]
    pairs = [(path, clean / "train" / GOOD / path.name) for path in spoilt]
    assert len(pairs) == SMALL.alpha * SMALL.train_objects * SMALL.views
    for path, flawless in pairs:
        differs_HW = (pixels(path) != pixels(flawless)).any(axis=2)
        mask_HW = pixels(mask_of(path)) == 255
        assert mask_HW.any(), path
        assert not (differs_HW & ~mask_HW).any(), path
        assert differs_HW[mask_HW].mean() > 0.8, path


def test_normals_have_no_mask_and_every_defect_has_one(gear: Path) -> None:
    spoilt = [path for split in ("train", "test") for path in pictures(gear, split) if path.parent.name != GOOD]
    assert sorted(map(mask_of, spoilt)) == sorted((gear / "ground_truth").rglob("*.png"))
    assert all(set(np.unique(pixels(mask_of(path)))) <= {0, 255} for path in spoilt)


def test_a_few_normals_are_the_rare_variant(gear: Path) -> None:
    for split, normals in (("train", 30), ("test", 7)):
        rare = [path for path in pictures(gear, split) if "_rare_" in path.name]
        assert all(path.parent.name == GOOD for path in rare)
        assert len(numbers_of(rare)) == round(RARE_SHARE * normals)


def test_the_number_of_an_object_does_not_tell_whether_it_is_anomalous() -> None:
    numbers = [thing.number for thing in objects(SyntheticConfig(train_objects=400), "wood") if thing.defect != GOOD]
    train = np.array([number for number in numbers if number >= 60])
    assert abs(train.mean() - 260) < 40  # 80 of 400 numbers from 60 to 459: standard error 12


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_is_varied_and_the_same_again(category: str, tmp_path: Path) -> None:
    recipe = SyntheticConfig((category,), train_objects=4, test_objects=2, alpha=0.25, seed=3, size_px=48)
    first, second = (contents(write(tmp_path / name, recipe), ".") for name in ("a", "b"))
    assert first == second
    assert len(set(first.values())) == len(first)
    other = contents(write(tmp_path / "c", SyntheticConfig((category,), 4, 2, 0.25, seed=4, size_px=48)), ".")
    assert not set(first.values()) & set(other.values())


def test_views_of_an_object_are_much_alike_and_not_the_same(gear: Path) -> None:
    first, second = (pixels(gear / "train" / GOOD / path) for path in two_views(gear))
    assert 0 < abs(first - second).mean() < 25


def two_views(tree: Path) -> list[str]:
    names = sorted(path.name for path in (tree / "train" / GOOD).iterdir())
    return [name for name in names if name.startswith(names[0][:7])]


def test_a_tree_reads_as_a_manifest_with_labels_groups_and_masks(gear: Path) -> None:
    rows = read_folder(gear, DataConfig(group_pattern=r"(obj\d+)")).table.to_pylist()
    assert len(rows) == (SMALL.train_objects + SMALL.test_objects) * SMALL.views
    assert all(row["label"] == (row["mask_path"] is not None) for row in rows)
    train = [row for row in rows if row["split"] == "train"]
    assert len({row["group"] for row in train}) == SMALL.train_objects
    assert sum(row["label"] for row in train) == SMALL.alpha * len(train)


@pytest.mark.parametrize(
    "recipe",
    [
        SyntheticConfig(alpha=1.0),
        SyntheticConfig(alpha=-0.1),
        SyntheticConfig(alpha=float("nan")),
        SyntheticConfig(categories=("gaer",)),
        SyntheticConfig(categories=()),
        SyntheticConfig(train_objects=0),
        SyntheticConfig(size_px=16),
    ],
)
def test_a_bad_recipe_is_refused_before_anything_is_written(recipe: SyntheticConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        write_synthetic(tmp_path / "new", recipe)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="already holds something"):
        write_synthetic(tmp_path, SMALL)
    with pytest.raises(DataError, match="already holds something"):
        write_synthetic(tmp_path / "mine.txt", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
