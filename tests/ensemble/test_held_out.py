"""Held-out scores: joined by id, on the scale of the final detector, and blind to what a member has seen."""

import numpy as np
import pyarrow as pa
import pytest

from llb_ray.ensemble.held_out_scores import (
    HELD_OUT,
    by_folds,
    by_members,
    of_bulk,
    of_images,
    with_rejected,
)
from llb_ray.ensemble.score_matrix import SCORES

COUNT, KEPT = 300, 240
IDS = [f"{number:04d}" for number in range(COUNT)]
TRUTH = np.sort(np.random.default_rng(0).gamma(4, size=COUNT))  # the most abnormal ones are rejected
IN_FOLD = np.random.default_rng(1).integers(0, 3, COUNT)


def _purified() -> pa.Table:
    return pa.table({"image_id": IDS, "decision": ["kept"] * KEPT + ["rejected"] * (COUNT - KEPT)})


def _matrix(noise: float, seen: float = -50.0) -> pa.Table:
    score_NK = TRUTH[:, None] + noise * np.random.default_rng(2).normal(size=(COUNT, 3))
    score_NK[np.arange(COUNT), IN_FOLD] = seen
    return pa.table([IDS, IN_FOLD, score_NK.astype(np.float32).tolist()], schema=SCORES)


def _final(noise: float) -> pa.Table:
    """Another scale; what it has seen it finds far too normal."""
    noise_N = noise * np.random.default_rng(3).normal(size=COUNT)
    score = np.where(np.arange(COUNT) < KEPT, -99.0, 3 + 0.5 * TRUTH + noise_N)
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


@pytest.mark.parametrize(
    ("num_rejected", "num_compared"),
    [(60, 30), (15, 10), (8, 8), (2200, 1000)],  # half of them, but at least ten where there are, and at most 1000
)
def test_the_scale_is_that_of_the_rejected_images_which_are_most_like_kept_ones(
    num_rejected: int, num_compared: int
) -> None:
    """Those further up are on another line, which must not count, not even as noise."""
    ids = [f"{number:04d}" for number in range(20 + num_rejected)]
    member_N = np.linspace(1, 9, len(ids))
    final_N = np.where(np.arange(len(ids)) < 20 + num_compared, 3 + 0.5 * member_N, 500 - member_N)
    decisions = ["kept"] * 20 + ["rejected"] * num_rejected
    order = np.random.default_rng(0).permutation(len(ids))
    scores = [[0.0, float(score)] for score in member_N]
    matrix = pa.table([ids, [0] * len(ids), scores], schema=SCORES).take(order)
    final = pa.table({"image_id": ids, "score": final_N}).take(order)
    found = by_members(pa.table({"image_id": ids, "decision": decisions}), matrix, final)
    assert found["score"].to_numpy() == pytest.approx(final_N[:20], abs=1e-4)


def test_what_the_line_leaves_over_is_noise_of_kept_images_too() -> None:
    """Rejected images are one above and one below the line, and so are the kept ones, in an order that is theirs."""
    ids = [f"{number:04d}" for number in range(400)]
    final_N = np.linspace(5, 9, 400) + np.where(np.arange(400) % 2, 1, -1)
    matrix = pa.table([ids, [0] * 400, [[0.0, score] for score in np.linspace(1, 5, 400)]], schema=SCORES)
    purified = pa.table({"image_id": ids, "decision": ["kept"] * 200 + ["rejected"] * 200})
    found = by_members(purified, matrix, pa.table({"image_id": ids, "score": final_N}))["score"].to_numpy()
    off_N = found - np.linspace(5, 9, 400)[:200]
    assert np.abs(off_N) == pytest.approx(1, abs=0.1)
    assert abs(np.mean(off_N > 0) - 0.5) < 0.15
    assert not np.array_equal(off_N > 0, np.arange(200) % 2 == 1)


def test_all_images_have_the_held_out_score_or_that_of_a_detector_which_has_not_seen_them() -> None:
    purified = pa.table({"image_id": ["a", "b", "c"], "decision": ["kept", "rejected", "rejected"]})
    final = pa.table({"image_id": ["c", "a", "b"], "score": [30.0, 10.0, 20.0]})
    held_out = pa.table([["c", "a"], [3.0, 1.0]], schema=HELD_OUT)
    found = with_rejected(held_out, purified, final)
    assert found.schema == HELD_OUT
    assert found.to_pydict() == {"image_id": ["c", "a", "b"], "score": [3.0, 1.0, 20.0]}
    assert of_images(found, ["b", "c"]).to_pydict() == {"image_id": ["c", "b"], "score": [3.0, 20.0]}
    assert of_images(found, []).num_rows == 0


def test_the_order_of_rows_means_nothing() -> None:
    matrix, final = _matrix(0), _final(0)
    order = np.random.default_rng(4).permutation(COUNT)
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


@pytest.mark.parametrize(("count", "left"), [(10, 10), (9, 10)])
def test_a_bulk_has_ten_images_at_least(count: int, left: int) -> None:
    assert of_bulk(_held_out(*np.linspace(1, 2, count), 1e6)).num_rows == left
