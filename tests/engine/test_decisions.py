"""Decisions on tied scores: a given keep ratio needs no estimate; and what a run says where nothing is rejected."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from llb_ray.artifacts import Artifact, Recipe, Store
from llb_ray.config import PurifyConfig, RunConfig
from llb_ray.data.manifest import IMAGES
from llb_ray.data.tables import read_table, write_table
from llb_ray.engine import filenames
from llb_ray.engine.pipeline.decision_stages import Decisions, kept_all_notices
from llb_ray.ensemble.contamination import KEEP_ALL, NOT_CLEARLY
from llb_ray.ensemble.purified_dataset import kept_ids
from llb_ray.ensemble.score_matrix import SCORES
from llb_ray.errors import DataError

COUNT = 20
IDS = [f"{number:04d}" for number in range(COUNT)]


def _decisions(store: Store, keep_ratio: float | str) -> Decisions:
    config = RunConfig.model_validate({"purify": {"keep_ratio": keep_ratio}})
    return Decisions(config, pa.table([IDS, IDS, ["weave"] * COUNT, IDS, IDS], schema=IMAGES), store)


def _scores(store: Store, stage: str, table: pa.Table) -> Artifact:
    return store.make(Recipe(stage, {}, {}), lambda folder: write_table(folder / filenames.SCORES, table))


def _purify(store: Store, keep_ratio: float | str, num_tied: int) -> Artifact:
    """By two members that give so many of the images the same score."""
    score_N = np.r_[np.zeros(num_tied), np.arange(1.0, COUNT - num_tied + 1)]
    columns = [IDS, np.arange(COUNT) % 2, [[score, score] for score in score_N]]
    matrix = _scores(store, "scores", pa.table(columns, schema=SCORES))
    return _decisions(store, keep_ratio).purify(matrix, matrix, matrix)


def _purify_again(store: Store, keep_ratio: float | str, num_tied: int) -> Artifact:
    score_N = np.r_[np.zeros(num_tied), np.arange(1.0, COUNT - num_tied + 1)]
    lists = pa.array([[score] for score in score_N], pa.list_(pa.float32()))
    folds = _scores(store, "score", pa.table({"image_id": IDS, "scores": lists}))
    return _decisions(store, keep_ratio).purify_again(2, _purify(store, 0.5, 0), [folds])


STAGES = pytest.mark.parametrize(
    ("stage", "num_tied"),
    [(_purify, 15), (_purify, COUNT), (_purify_again, COUNT)],
    ids=["most", "all", "all held out"],
)


@STAGES
@pytest.mark.parametrize("keep_ratio", [0.5, 1.0])
def test_tied_scores_do_where_the_keep_ratio_is_given(stage, num_tied, keep_ratio, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    made = stage(Store(tmp_path), keep_ratio, num_tied)
    assert len(kept_ids(read_table(made.file(filenames.PURIFIED)))) == keep_ratio * COUNT
    assert filenames.CONTAMINATION not in made.files


@STAGES
def test_tied_scores_are_refused_where_it_is_to_be_estimated(stage, num_tied, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match="keep_ratio"):
        stage(Store(tmp_path), "auto", num_tied)


@pytest.mark.parametrize(
    ("filter_name", "estimate", "said"),
    [
        ("llb", {"share": 0.0, "clearly": 0.0}, [KEEP_ALL]),
        ("random", {"share": 0.0, "clearly": 0.0}, [KEEP_ALL]),
        ("llb", {"share": 0.01, "clearly": 0.01}, []),
        ("llb", {"share": 0.4, "clearly": 0.0}, [NOT_CLEARLY]),
        ("llb", {"share": 0.4, "clearly": 0.1}, [NOT_CLEARLY]),
        ("llb", {}, []),  # the ratio was given
        ("srr", {"share": 0.0, "clearly": 0.0}, []),  # has a rule of its own
    ],
)
def test_a_run_says_why_all_images_are_kept(filter_name: str, estimate: Mapping[str, float], said: list[str]) -> None:
    config = PurifyConfig.model_validate({"filter": filter_name})
    assert kept_all_notices(config, estimate) == said
