"""Scores of several categories on one scale."""

import numpy as np
import pyarrow as pa
import pytest

from llb_ray.ensemble.categories import comparable_matrix, comparable_scores
from llb_ray.ensemble.held_out_scores import HELD_OUT
from llb_ray.ensemble.score_matrix import ScoreMatrix

IDS = [f"{number:02d}" for number in range(40)]
CATEGORIES = ["rough", "smooth"] * 20
IMAGES = pa.table({"image_id": IDS, "category": CATEGORIES})


def _scores(factor: float, power: float) -> np.ndarray:  # type: ignore[type-arg]
    """Scores of two categories that differ by a factor and in spread; the last of each stands out alike."""
    base_N = np.random.default_rng(0).lognormal(0, 0.2, 20)
    base_N[-1] = 8
    score_N = np.empty(40)
    score_N[::2], score_N[1::2] = base_N, factor * base_N**power
    return score_N


@pytest.mark.parametrize(("factor", "power"), [(1, 1), (10, 1), (0.01, 1), (3, 0.2)])
def test_what_stands_out_of_its_category_stands_out_of_all(factor: float, power: float) -> None:
    table = pa.table([IDS, _scores(factor, power)], schema=HELD_OUT)
    scaled_N = comparable_scores(table, IMAGES)["score"].to_numpy()
    assert scaled_N[::2] == pytest.approx(scaled_N[1::2])
    assert sorted(np.argsort(scaled_N)[-2:]) == [38, 39]


@pytest.mark.parametrize("score_N", [np.linspace(-1, 1, 40), np.ones(40), np.r_[0, np.ones(39)]])
def test_scores_without_logarithm_or_spread_stay_finite(score_N: np.ndarray) -> None:  # type: ignore[type-arg]
    scaled = comparable_scores(pa.table([IDS, score_N], schema=HELD_OUT), IMAGES)
    assert np.isfinite(scaled["score"].to_numpy()).all()
    assert scaled.schema == HELD_OUT


@pytest.mark.parametrize("lowest", [0, -1])
def test_scores_that_have_no_logarithm_are_moved_and_stretched_as_they_are(lowest: float) -> None:
    score_N = np.empty(40)
    score_N[::2] = np.linspace(lowest, 1, 20) ** 3
    score_N[1::2] = 3 + 2 * score_N[::2]
    scaled_N = comparable_scores(pa.table([IDS, score_N], schema=HELD_OUT), IMAGES)["score"].to_numpy()
    assert scaled_N[::2] == pytest.approx(scaled_N[1::2])


def test_a_category_without_spread_is_moved_and_not_stretched() -> None:
    score_N = np.linspace(-1, 1, 40)
    score_N[1::2] = 5
    score_N[39] = 7
    scaled_N = comparable_scores(pa.table([IDS, score_N], schema=HELD_OUT), IMAGES)["score"].to_numpy()
    assert scaled_N[39] - scaled_N[1] == pytest.approx(2)


def test_one_category_is_left_as_it_is() -> None:
    table = pa.table([IDS, _scores(10, 1)], schema=HELD_OUT)
    assert comparable_scores(table, pa.table({"image_id": IDS, "category": ["a"] * 40})) is table


def test_the_scale_of_a_member_does_not_depend_on_what_it_has_learnt_from() -> None:
    in_fold_NK = np.arange(40)[:, None] // 10 == np.arange(4)
    score_NK = np.stack([_scores(10, 1)] * 4, axis=1)
    memorised_NK = np.where(in_fold_NK, score_NK / 1000, score_NK)
    one, other = (
        comparable_matrix(ScoreMatrix(IDS, range(4), some, in_fold_NK), IMAGES).score_NK
        for some in (score_NK, memorised_NK)
    )
    assert one[~in_fold_NK] == pytest.approx(other[~in_fold_NK])
