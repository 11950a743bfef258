"""Objectives: they rise when the detector is better, and contaminated held-back images do not fool the default."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import with_overrides
from llb_ray.data.tables import read_table, write_table
from llb_ray.disk import file_digest, write_json
from llb_ray.errors import ArtifactError, DataError
from llb_ray.search.canary import with_canaries
from llb_ray.search.objective import (
    OBJECTIVES,
    canary,
    canary_recall,
    canary_scores,
    label_free_facts,
    separation,
    split_half,
    val_auroc,
)


@pytest.fixture(scope="module")
def searched(photos: Path, tiny: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on canaries, 14 held back."""
    out = tmp_path_factory.mktemp("searched")
    manifest = with_canaries(llb_ray.read_folder(photos, tiny), out / "canaries", tiny, seed=0, share=0.3)
    llb_ray.run(tiny, manifest, out=out / "run", executor="serial")
    return out / "run"


@pytest.fixture
def run(searched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(searched, tmp_path / "run"))


def _rescored(run: Path, held_back: np.ndarray, canaries: np.ndarray) -> Path:
    """The run with other final scores."""
    path = run / "image_scores.arrow"
    table = pa.table(read_table(path).to_pydict(), schema=read_table(path).schema)
    (record,) = (read_table(p) for p in Path(_canary_folder(run)).glob("canaries.arrow"))
    score = dict(zip(record["source"].to_pylist(), held_back.tolist(), strict=True))
    score |= dict(zip(record["image_id"].to_pylist(), canaries.tolist(), strict=True))
    scores = [score.get(image_id, 0.0) for image_id in table["image_id"].to_pylist()]
    column = table.column_names.index("score")
    write_table(path, table.set_column(column, table.schema.field("score"), pa.array(scores, pa.float32())))
    return run


def _canary_folder(run: Path) -> Path:
    absolute = [path for path in read_table(run / "image_scores.arrow")["path"].to_pylist() if path.startswith("/")]
    return Path(absolute[0]).parent


def test_every_label_free_objective_is_defined_on_a_plain_run(searched: Path) -> None:
    facts = label_free_facts(searched)
    assert set(facts) == {"canary", "canary_recall", "split_half", "separation"}
    assert 0 <= facts["canary_recall"] <= 1
    assert -1 <= facts["split_half"] <= 1
    assert np.isfinite(list(facts.values())).all()
    assert facts["split_half"] == OBJECTIVES["split_half"](searched)


def test_scores_come_in_pairs(run: Path) -> None:
    held_back, canaries = np.arange(14.0), 100 + np.arange(14.0)
    found = canary_scores(_rescored(run, held_back, canaries))
    np.testing.assert_array_equal(found, [held_back, canaries])


def test_held_back_defects_that_score_high_do_not_count_against_a_detector(run: Path) -> None:
    normal = np.linspace(1, 2, 14)
    clean = canary(_rescored(run, normal, normal + 3))
    assert clean == canary_recall(run) == 1
    contaminated = np.where(np.arange(14) < 3, 9.0, normal)
    assert canary(_rescored(run, contaminated, contaminated + 3)) == pytest.approx(clean, rel=0.25)
    assert canary_recall(run) == 1
    assert canary(_rescored(run, normal, normal)) == 0.5
    assert canary_recall(_rescored(run, normal, normal - 1)) == 0


def test_more_canaries_that_rise_and_rise_above_others_are_better(run: Path) -> None:
    normal = np.linspace(1, 2, 14)
    rises = [canary(_rescored(run, normal, normal + rise)) for rise in (-2, -0.05, 0.05, 0.5, 2)]
    assert rises == sorted(rises)
    assert (rises[0], rises[-1]) == (0, 1)


@pytest.mark.parametrize("change", [np.log, np.square, lambda score: 1000 * score + 5, lambda score: -1 / score])
def test_only_the_order_of_scores_matters(run: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    random = np.random.default_rng(0)
    normal, canaries = random.gamma(3, size=14), random.gamma(5, size=14)
    before = canary(_rescored(run, normal, canaries))
    assert 0 < before < 1
    assert canary(_rescored(run, change(normal), change(canaries))) == before


def test_separation_rises_with_a_gap_at_the_cut_and_not_with_the_cut(searched: Path, run: Path) -> None:
    """Half-normal noise about two levels: the cut between the levels beats cuts elsewhere, whatever their share."""
    path = run / "scores.arrow"
    matrix = read_table(path)
    purified = {row["image_id"]: row["decision"] for row in read_table(run / "purified" / "part-0.arrow").to_pylist()}
    num_members = len(matrix["scores"][0])
    noise = np.random.default_rng(0).normal(0, 0.1, (matrix.num_rows, num_members))
    rejected = np.array([purified[image_id] == "rejected" for image_id in matrix["image_id"].to_pylist()])
    column = matrix.column_names.index("scores")

    def with_scores(log_score: np.ndarray) -> float:
        scores = pa.array(np.exp(log_score).tolist(), matrix.schema.field("scores").type)
        write_table(
            path, pa.table(matrix.set_column(column, matrix.schema.field("scores"), scores).to_pydict(), matrix.schema)
        )
        index = json.loads((run / "run.json").read_text())
        index["published"]["scores.arrow"] = file_digest(path)
        write_json(run / "run.json", index)
        return separation(run)

    without_gap, with_gap = with_scores(noise), with_scores(noise + rejected[:, None])
    assert with_gap > 0.2 > without_gap


def test_val_auroc_is_the_labelled_one_or_refused(finished: Path, searched: Path) -> None:
    assert val_auroc(finished) == json.loads((finished / "metrics.json").read_text())["i_auroc"]
    with pytest.raises(DataError, match="val_auroc needs validation images of both kinds"):
        val_auroc(searched)


def test_what_a_run_does_not_allow_is_refused_in_a_sentence(
    finished: Path, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="scored no canaries"):
        canary(finished)
    with pytest.raises(ArtifactError, match="no finished run here"):
        canary(tmp_path)
    manifest = llb_ray.read_folder(photos, tiny)
    two = with_overrides(tiny, ["members.count=2"])
    llb_ray.run(two, manifest, out=tmp_path / "two", executor="serial")
    with pytest.raises(DataError, match="at least 3 members, this run has 2"):
        split_half(tmp_path / "two")
    everyone = with_overrides(tiny, ["purify.filter=none"])
    llb_ray.run(everyone, manifest, out=tmp_path / "none", executor="serial")
    with pytest.raises(DataError, match="no members to compare"):
        separation(tmp_path / "none")
    assert label_free_facts(tmp_path / "none") == {}


def test_keeping_everything_separates_nothing(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    config = with_overrides(tiny, ["purify.keep_ratio=1"])
    llb_ray.run(config, llb_ray.read_folder(photos, tiny), out=tmp_path / "run", executor="serial")
    assert separation(tmp_path / "run") == 0.0
