"""The FUIAD rule: fixed size, alpha in objects, one test set for every alpha, nothing in both."""

from pathlib import Path

import pyarrow as pa
import pytest

from llb_ray.data.contaminate import contaminated
from llb_ray.data.manifest import MANIFEST, Manifest
from llb_ray.errors import DataError


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
    train = contaminated(labelled, 50, alpha, seed=1).split("train")
    assert len(set(train["group"].to_pylist())) == 50
    assert sum(train["label"].to_pylist()) == 2 * round(alpha * 50)


def test_the_test_set_is_fixed_and_disjoint(labelled: Manifest) -> None:
    made = [contaminated(labelled, 50, alpha, seed=1) for alpha in (0, 0.1, 0.4)]
    assert made[0].image_ids("test") == made[1].image_ids("test") == made[2].image_ids("test")
    assert len(made[0].image_ids("test")) == 2 * (10 + 30 - 20)
    for manifest in made:
        assert not set(manifest.split("train")["group"].to_pylist()) & set(manifest.split("test")["group"].to_pylist())


def test_the_seed_decides_and_repeats(labelled: Manifest) -> None:
    first, again, other = (contaminated(labelled, 50, 0.2, seed=seed) for seed in (1, 1, 2))
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
        contaminated(labelled, objects, alpha, seed=0)
