"""Held-out scores: joined by id, on the scale of the final detector, and blind to what a member has seen."""

import numpy as np
import pyarrow as pa
import pytest

from llb_ray.ensemble.held_out_scores import HELD_OUT, by_folds, by_members, of_bulk
from llb_ray.ensemble.score_matrix import SCORES

COUNT, KEPT = 300, 240
IDS = [f"{number:04d}" for number in range(COUNT)]
RANDOM = np.random.default_rng(0)
TRUTH = np.sort(RANDOM.gamma(4, size=COUNT))  # the most abnormal ones are rejected
IN_FOLD = RANDOM.integers(0, 3, COUNT)


def _purified() -> pa.Table:
    return pa.table({"image_id": IDS, "decision": ["kept"] * KEPT + ["rejected"] * (COUNT - KEPT)})


def _matrix(noise: float, seen: float = -50.0) -> pa.Table:
    score_NK = TRUTH[:, None] + noise * RANDOM.normal(size=(COUNT, 3))
    score_NK[np.arange(COUNT), IN_FOLD] = seen
    return pa.table([IDS, IN_FOLD, score_NK.astype(np.float32).tolist()], schema=SCORES)


def _final(noise: float) -> pa.Table:
    """Another scale; what it has seen it finds far too normal."""
    score = np.where(np.arange(COUNT) < KEPT, -99.0, 3 + 0.5 * TRUTH + noise * RANDOM.normal(size=COUNT))
    return pa.table({"image_id": IDS, "score": score})


def _scores(table: pa.Table) -> np.ndarray:
    assert table["image_id"].to_pylist() == IDS[:KEPT]
    return np.asarray(table["score"].to_numpy())


def test_without_noise_the_scale_is_found_exactly() -> None:
    assert _scores(by_members(_purified(), _matrix(0), _final(0))) == pytest.approx(3 + 0.5 * TRUTH[:KEPT], abs=1e-3)


def test_with_noise_the_spread_is_that_of_the_final_detector() -> None:
    found = _scores(by_members(_purified(), _matrix(0.02), _final(0.1)))
    assert np.quantile(found, 0.95) == pytest.approx(np.quantile(3 + 0.5 * TRUTH[:KEPT], 0.95), abs=0.15)
    assert np.std(found - (3 + 0.5 * TRUTH[:KEPT])) == pytest.approx(0.1, abs=0.05)


def test_the_order_of_rows_means_nothing() -> None:
    matrix, final = _matrix(0), _final(0)
    order = RANDOM.permutation(COUNT)
    expected = by_members(_purified(), matrix, final)
    assert by_members(_purified(), matrix.take(order), final.take(order)).equals(expected)


def test_folds_are_put_together_by_id() -> None:
    scores = pa.table({"image_id": ["b", "c", "a"], "scores": [[2.0], [3.0], [1.0]]})
    assert by_folds(scores).to_pydict() == {"image_id": ["a", "b", "c"], "score": [1.0, 2.0, 3.0]}


def _held_out(*scores: float) -> pa.Table:
    return pa.table([[f"{number:04d}" for number in range(len(scores))], list(scores)], schema=HELD_OUT)


def test_what_stands_out_is_not_of_the_bulk() -> None:
    normal_N = np.random.default_rng(1).normal(size=200)
    found = of_bulk(_held_out(*normal_N, 9.0, 10.0))
    assert found.num_rows >= 195
    assert max(found["score"].to_pylist()) < 9
    assert found["image_id"].to_pylist() == sorted(found["image_id"].to_pylist())


@pytest.mark.parametrize("scores", [(1.0, 2.0), (3.0,) * 30, (0.0,) * 5 + (1.0,) * 3 + (50.0,)])
def test_from_too_few_or_equal_scores_nothing_stands_out(scores: tuple[float, ...]) -> None:
    assert of_bulk(_held_out(*scores)).num_rows == len(scores)
