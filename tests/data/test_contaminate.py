"""The FUIAD rule: fixed size, alpha in objects, one test set for every alpha, nothing in both."""

import itertools
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb_ray.config import ContaminateConfig
from llb_ray.data.contaminate import contaminate_manifest, from_listing
from llb_ray.data.listing import LISTING, Listing
from llb_ray.data.manifest import MANIFEST, Manifest
from llb_ray.errors import ConfigError, DataError


def _row(number: int, split: str, label: int, views: int = 2) -> dict[str, object]:
    group, defect = f"object{number // views}", "crack" if label else None
    path = f"{split}/{number}.png"
    return dict(zip(MANIFEST.names, [f"{number:032x}", path, "c", group, split, label, defect, None], strict=True))


@pytest.fixture
def labelled() -> Manifest:
    """60 normal training objects, 10 normal and 30 anomalous test objects, two views each."""
    splits = [("train", 0)] * 120 + [("test", 0)] * 20 + [("test", 1)] * 60
    rows = [_row(number, split, label) for number, (split, label) in enumerate(splits)]
    return Manifest.of(Path("/data"), pa.Table.from_pylist(rows, MANIFEST))


@pytest.mark.parametrize("alpha", [0, 0.1, 0.2, 0.4])
def test_size_and_share_are_exact(labelled: Manifest, alpha: float) -> None:
    train = contaminate_manifest(labelled, 50, alpha, seed=1).split("train")
    assert len(set(train["group"].to_pylist())) == 50
    assert sum(train["label"].to_pylist()) == 2 * round(alpha * 50)


def test_the_test_set_is_fixed_and_disjoint(labelled: Manifest) -> None:
    made = [contaminate_manifest(labelled, 50, alpha, seed=1) for alpha in (0, 0.1, 0.4)]
    assert made[0].image_ids("test") == made[1].image_ids("test") == made[2].image_ids("test")
    assert len(made[0].image_ids("test")) == 2 * (10 + 30 - 20)
    for manifest in made:
        assert not set(manifest.split("train")["group"].to_pylist()) & set(manifest.split("test")["group"].to_pylist())


def test_the_seed_decides_and_repeats(labelled: Manifest) -> None:
    first, again, other = (contaminate_manifest(labelled, 50, 0.2, seed=seed) for seed in (1, 1, 2))
    assert first.table.equals(again.table)
    assert not first.table.equals(other.table)


@pytest.mark.parametrize(
    ("objects", "alpha", "sentence"),
    [(100, 0.4, "largest alpha possible is 0.3"), (50, 0.5, "largest alpha possible is 0.4"), (70, 0, "60 are there")],
)
def test_too_few_objects_are_refused_with_what_is_possible(
    labelled: Manifest, objects: int, alpha: float, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        contaminate_manifest(labelled, objects, alpha, seed=0)


def test_without_a_number_it_is_the_largest_that_leaves_half_of_the_anomalies_to_the_test_set(
    labelled: Manifest,
) -> None:
    for alpha in (0, 0.4):
        assert len(set(contaminate_manifest(labelled, None, alpha, seed=0).split("train")["group"].to_pylist())) == 38
        # 15 of the 30 anomalous objects are 60 % of 25, not of 26 (rounded) or more
        largest = contaminate_manifest(labelled, None, alpha, seed=0, max_alpha=0.6).split("train")
        assert len(set(largest["group"].to_pylist())) == 25


def test_a_share_that_is_not_one_object_is_refused(labelled: Manifest) -> None:
    with pytest.raises(DataError, match="alpha 0.001 of 50 objects is not one anomalous object"):
        contaminate_manifest(labelled, 50, 0.001, seed=0)


def test_an_object_in_both_splits_is_refused(labelled: Manifest) -> None:
    rows = [
        {**row, "group": "both"} if row["path"] in ("train/0.png", "test/130.png") else row
        for row in labelled.table.to_pylist()
    ]
    with pytest.raises(DataError, match="object both is in both splits"):
        contaminate_manifest(Manifest.of(Path("/data"), pa.Table.from_pylist(rows, MANIFEST)), 20, 0.1, seed=0)


def listing(num_normal: int, num_anomalous: int, views: int = 2, category: str = "c", shuffle: int = 0) -> Listing:
    """So many objects for training and testing, every third image with a group of its own; the last view is normal."""
    rows: list[dict[str, Any]] = []
    for split, label, count in (("train", 0, num_normal), ("test", 0, 3), ("test", 1, num_anomalous)):
        for number in range(count):
            name = f"{category}/{split}{label}/{number:03d}"
            alone = number % 3 == 0
            for view in range(1 if alone else views):
                shown = label if view == 0 else 0
                group = None if alone else name
                pattern = f"p{number % 3}"
                rows.append(
                    {
                        "path": f"{name}_{view}.png",
                        "category": category,
                        "group": group,
                        "split": split,
                        "label": shown,
                        "pattern": pattern,
                    }
                )
    random.Random(shuffle).shuffle(rows)
    return Listing.of(Path("/r"), pa.Table.from_pylist(rows, pa.schema([*LISTING, ("pattern", pa.string())])))


def made(images: Listing, **recipe: Any) -> list[Listing]:
    return [found for _, found in from_listing(images, ContaminateConfig.model_validate(recipe))]


def objects(images: Listing, split: str, label: int | None = None) -> set[str]:
    """The objects of a split; with a label, those whose worst view has it."""
    worst: dict[str, int] = {}
    for row in images.table.to_pylist():
        if row["split"] == split:
            name = row["group"] or row["path"]
            worst[name] = max(worst.get(name, 0), row["label"])
    return {name for name, found in worst.items() if label in (None, found)}


@given(
    num_normal=st.integers(10, 40),
    num_anomalous=st.integers(8, 30),
    seed=st.integers(0, 5),
    alphas=st.lists(st.sampled_from([0, 0.1, 0.2, 0.3, 0.4]), min_size=2, max_size=4, unique=True).map(sorted),
)
def test_any_contaminated_listing_obeys_the_rule(
    num_normal: int, num_anomalous: int, seed: int, alphas: list[float]
) -> None:
    images = listing(num_normal, num_anomalous)
    sets = made(images, alphas=alphas, seeds=[seed], max_alpha=0.4)
    size = len(objects(sets[0], "train"))
    assert size <= num_normal
    assert size == num_normal or 2 * round(0.4 * (size + 1)) > num_anomalous, "not as many as possible"
    for alpha, found in zip(alphas, sets, strict=True):
        assert len(objects(found, "train")) == size
        assert len(objects(found, "train", 1)) == round(alpha * size)
        assert objects(found, "test") == objects(sets[0], "test")
        assert not objects(found, "train") & objects(found, "test")
    for fewer, more in itertools.pairwise(sets):
        assert objects(fewer, "train", 1) <= objects(more, "train", 1)
        assert objects(fewer, "train", 0) >= objects(more, "train", 0)
    again = made(listing(num_normal, num_anomalous, shuffle=7), alphas=alphas, seeds=[seed], max_alpha=0.4)
    assert again == sets


@given(counts=st.lists(st.integers(3, 8), min_size=1, max_size=3), seed=st.integers(0, 5))
def test_any_tail_keeps_its_counts_at_every_alpha(counts: list[int], seed: int) -> None:
    images = listing(30, 30)
    sets = made(images, alphas=[0, 0.2, 0.4], seeds=[seed], tail={"counts": counts})
    for alpha, found in zip([0, 0.2, 0.4], sets, strict=True):
        normal = objects(found, "train", 0)
        pattern = {row["group"] or row["path"]: row["pattern"] for row in found.table.to_pylist()}
        order = [f"p{(seed + place) % 3}" for place in range(len(counts))]
        assert [sum(pattern[name] == kind for name in normal) for kind in order] == counts
        assert len(objects(found, "train", 1)) == round(alpha / (1 - alpha) * sum(counts))
        assert normal == objects(sets[0], "train", 0)
        assert objects(found, "test") == objects(sets[0], "test")
        assert not objects(found, "train") & objects(found, "test")


def test_categories_are_contaminated_one_by_one_and_the_recipe_is_kept(tmp_path: Path) -> None:
    both = [listing(20, 20, category=name) for name in ("a", "b")]
    images = Listing.of(Path("/r"), pa.concat_tables([one.table for one in both]), {"kind": "table"})
    (found,) = made(images, alphas=[0.25], seeds=[3], num_objects=20)
    found.save(tmp_path / "m.arrow")
    about = Listing.load(tmp_path / "m.arrow").about
    assert about["recipe"] == {"alpha": 0.25, "seed": 3, "num_objects": 20, "max_alpha": 0.25, "tail": None}
    assert about["training"] == {name: {"normal": 15, "anomalous": 5} for name in ("a", "b")}
    assert about["of"] == {"kind": "table"}


def test_shares_and_names_and_what_becomes_of_the_rest() -> None:
    images = listing(30, 10)
    (found,) = made(images, alphas=[0], tail={"shares": {"p1": 1, "p2": 0.2}})
    assert found.about["training"]["c"] == {"normal": 12, "anomalous": 0, "pattern p1": 10, "pattern p2": 2}
    kinds = {(row["split"], row["label"], row["pattern"]) for row in found.table.to_pylist()}
    assert ("test", 0, "p0") not in kinds, "a normal that was never to be seen is no test of normals"
    assert ("test", 1, "p0") in kinds


def test_unlabelled_patterns_are_normal_by_the_tail_and_the_others_anomalous() -> None:
    images = listing(30, 12, views=1)
    table = images.table.set_column(4, LISTING.field("label"), pa.nulls(len(images.table), pa.int8()))
    unlabelled = Listing.of(Path("/r"), table)
    (found,) = made(unlabelled, alphas=[0.2], tail={"counts": {"p0": 6, "p1": 2}, "rest": "anomalous"})
    rows = found.table.to_pylist()
    assert {(row["label"], row["defect_type"]) for row in rows if row["pattern"] == "p2"} == {(1, "p2")}
    assert {row["label"] for row in rows if row["pattern"] != "p2"} == {0}
    assert found.about["training"]["c"] == {"normal": 8, "anomalous": 2, "pattern p0": 6, "pattern p1": 2}
    with pytest.raises(DataError, match="no training image is labelled as normal"):
        made(unlabelled)


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ({"tail": {"counts": [11, 2]}}, "a tail of p0=11, p1=2 needs more .*; the most possible is p0=10, p1=10"),
        ({"tail": {"counts": {"p9": 1}}}, "no training image is of pattern 'p9'; known are p0, p1, p2"),
        ({"tail": {"counts": [1, 1, 1, 1]}}, "4 patterns are asked for and 3 are there .p0, p1, p2."),
        ({"tail": {"counts": [1], "column": "lot"}}, "has no column 'lot' of patterns"),
        ({"tail": {"counts": [10, 10]}, "alphas": [0.5]}, "20 normal objects at alpha 0.5 .* the largest .* is 0.333"),
        ({"num_objects": 30, "alphas": [0.5]}, "need 15 anomalous objects and 10 are there; .* possible is 0.333"),
        ({"num_objects": 90, "alphas": [0.1]}, "need 81 normal objects and 30 are there; ask for fewer"),
    ],
)
def test_what_there_is_too_little_of_is_refused(recipe: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        made(listing(30, 10), **recipe)


def test_an_object_of_two_patterns_is_refused() -> None:
    rows = [
        {**row, "pattern": "p1"} if row["path"] == "c/train0/002_1.png" else row
        for row in listing(30, 10).table.to_pylist()
    ]
    images = Listing.of(Path("/r"), pa.Table.from_pylist(rows, pa.schema([*LISTING, ("pattern", pa.string())])))
    with pytest.raises(DataError, match="object c/train0/002 shows the patterns p2 and p1; it needs one"):
        made(images, tail={"counts": [2, 2, 2]})


def test_official_lists_are_real_iads_alone() -> None:
    with pytest.raises(DataError, match="was not read from a data set"):
        made(listing(30, 10), given=True)
    read = Listing(Path("/r"), listing(30, 10).table, {"kind": "mvtec", "read_from": "/r", "options": {}})
    with pytest.raises(ConfigError, match="official contaminated lists are Real-IAD's, and the data set is of kind mv"):
        made(read, given=True)
