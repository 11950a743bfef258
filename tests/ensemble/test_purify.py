"""Purification: known answers on hand-made matrices, and what must not matter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb_ray.config import PurifyConfig
from llb_ray.ensemble.decision import KEPT, REJECTED
from llb_ray.ensemble.filters.base import Evidence, filter_of
from llb_ray.ensemble.purify import aggregate, num_kept
from llb_ray.ensemble.score_matrix import ScoreMatrix
from llb_ray.errors import DataError

RULES = ["mean", "median", "min", "max", "max_var", "trimmed_mean"]
NORMALIZE = ["none", "rank", "robust_z"]


def _matrix(num_images: int = 24, num_members: int = 4, seed: int = 0) -> ScoreMatrix:
    rng = np.random.default_rng(seed)
    home = np.arange(num_images) % num_members
    in_fold = home[:, None] == np.arange(num_members)
    ids = [f"{number:03d}" for number in range(num_images)]
    return ScoreMatrix(ids, range(num_members), rng.gamma(2, size=in_fold.shape), in_fold)


def _kept(config: PurifyConfig, matrix: ScoreMatrix) -> set[str]:
    table = filter_of(config).decide(Evidence(matrix.image_ids, 0, matrix)).table
    return {row["image_id"] for row in table.to_pylist() if row["decision"] == KEPT}


# Three members; image 0 is in the fold of member 0, and so on.
HAND = ScoreMatrix(
    ["a", "b", "c"], [0, 1, 2], np.array([[9.0, 1.0, 3.0], [2.0, 9.0, 8.0], [5.0, 4.0, 9.0]]), np.eye(3, dtype=bool)
)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"aggregate": "mean"}, [2, 5, 4.5]),
        ({"aggregate": "median"}, [2, 5, 4.5]),
        ({"aggregate": "min"}, [1, 2, 4]),
        ({"aggregate": "max"}, [3, 8, 5]),
        ({"aggregate": "max_var"}, [3 * 1, 8 * 9, 5 * 0.25]),
        ({"aggregate": "mean", "members": "all"}, [13 / 3, 19 / 3, 6]),
        ({"aggregate": "trimmed_mean", "members": "all", "trim": 0.34}, [3, 8, 5]),
        ({"aggregate": "mean", "normalize": "rank"}, [(1 / 2 + 1 / 2) / 2, (1 / 2 + 1) / 2, 1]),
    ],
)
def test_aggregation_by_hand(settings: dict[str, object], expected: list[float]) -> None:
    config = PurifyConfig.model_validate({"normalize": "none", **settings})
    assert aggregate(config, HAND) == pytest.approx(expected)


def test_robust_z_by_hand() -> None:
    scores = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])
    in_fold = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=bool)
    matrix = ScoreMatrix(["a", "b", "c", "d"], [0, 1], scores, in_fold)
    got = aggregate(PurifyConfig(normalize="robust_z", members="all"), matrix)
    z = (np.array([1, 2, 3, 4]) - 2.5) / (1.0 * 1.4826)
    assert got == pytest.approx(z, rel=1e-3)


def test_robust_z_is_refused_where_it_is_undefined() -> None:
    matrix = _matrix()
    flat = ScoreMatrix(matrix.image_ids, matrix.members, np.ones_like(matrix.score_NK), matrix.in_fold_NK)
    with pytest.raises(DataError, match="member 0 gives more than half"):
        aggregate(PurifyConfig(normalize="robust_z"), flat)


@pytest.mark.parametrize(
    ("ratio", "images", "kept"), [(0.8, 10, 8), (0.29, 100, 29), (0.7, 10, 7), (0.999, 10, 9), (0.01, 5, 1), (1, 7, 7)]
)
def test_the_number_kept_is_the_floor(ratio: float, images: int, kept: int) -> None:
    assert num_kept(ratio, images) == kept


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("normalize", NORMALIZE)
@given(seed=st.integers(0, 20))
def test_held_out_never_uses_an_in_fold_score(rule: str, normalize: str, seed: int) -> None:
    matrix = _matrix(seed=seed)
    if rule == "max_var" and normalize == "robust_z":
        return  # refused, see below
    config = PurifyConfig.model_validate({"aggregate": rule, "normalize": normalize, "trim": 0.34})
    changed = np.where(matrix.in_fold_NK, 1e6 * matrix.score_NK, matrix.score_NK)
    other = ScoreMatrix(matrix.image_ids, matrix.members, changed, matrix.in_fold_NK)
    assert np.array_equal(aggregate(config, matrix), aggregate(config, other))


def test_max_var_is_refused_where_it_would_turn_round() -> None:
    with pytest.raises(DataError, match="max_var is undefined for negative scores"):
        aggregate(PurifyConfig(aggregate="max_var", normalize="robust_z"), _matrix())


def test_an_image_in_two_folds_is_refused() -> None:
    matrix = _matrix(num_images=3, num_members=3)
    in_fold = matrix.in_fold_NK.copy()
    in_fold[0], in_fold[1] = [True, True, False], [False, False, False]
    with pytest.raises(DataError, match="image 000 is in the training shares of two members"):
        ScoreMatrix(matrix.image_ids, matrix.members, matrix.score_NK, in_fold)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("members", ["held_out", "all"])
@pytest.mark.parametrize("normalize", ["none", "rank"])
def test_row_order_and_member_labels_do_not_matter(rule: str, members: str, normalize: str) -> None:
    matrix = _matrix()
    settings = {"aggregate": rule, "members": members, "normalize": normalize, "keep_ratio": 0.6, "trim": 0.34}
    config = PurifyConfig.model_validate(settings)
    rows, columns = np.random.default_rng(1).permutation(24), np.array([2, 0, 3, 1])
    other = ScoreMatrix(
        [matrix.image_ids[row] for row in rows],
        matrix.members,
        matrix.score_NK[np.ix_(rows, columns)],
        matrix.in_fold_NK[np.ix_(rows, columns)],
    )
    assert _kept(config, matrix) == _kept(config, other)


@pytest.mark.parametrize("members", ["held_out", "all"])
def test_with_ranks_a_member_may_use_any_increasing_scale(members: str) -> None:
    matrix = _matrix()
    scaled = matrix.score_NK.copy()
    scaled[:, 1] = np.exp(3 * scaled[:, 1])
    other = ScoreMatrix(matrix.image_ids, matrix.members, scaled, matrix.in_fold_NK)
    config = PurifyConfig.model_validate({"members": members, "keep_ratio": 0.5})
    assert np.array_equal(aggregate(config, matrix), aggregate(config, other))


def test_ties_are_broken_by_image_id() -> None:
    matrix = _matrix(num_images=8)
    flat = ScoreMatrix(matrix.image_ids[::-1], matrix.members, np.ones_like(matrix.score_NK), matrix.in_fold_NK)
    assert _kept(PurifyConfig(keep_ratio=0.5), flat) == {"000", "001", "002", "003"}


def test_every_decision_has_a_rank_and_a_reason() -> None:
    matrix = _matrix()
    table = filter_of(PurifyConfig(keep_ratio=0.75)).decide(Evidence(matrix.image_ids, 0, matrix)).table
    assert sorted(table["rank"].to_pylist()) == list(range(1, 25))
    assert table["decision"].to_pylist().count(REJECTED) == 6
    assert all("the 18 most normal of 24 are kept" in reason for reason in table["reason"].to_pylist())


def test_the_matrix_must_be_of_the_same_images() -> None:
    matrix = _matrix()
    with pytest.raises(DataError, match="not the same set"):
        filter_of(PurifyConfig()).decide(Evidence([*matrix.image_ids, "new"], 0, matrix))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("members", ["held_out", "all"])
def test_images_of_a_lost_member_are_judged_by_all_the_others(rule: str, members: str) -> None:
    """As if each image had been asked for alone: its number is the rule's on the scores that it has."""
    whole = _matrix()
    left = [0, 1, 3]
    matrix = ScoreMatrix(whole.image_ids, left, whole.score_NK[:, left], whole.in_fold_NK[:, left])
    settings = {"aggregate": rule, "normalize": "none", "members": members, "trim": 0.34}
    config = PurifyConfig.model_validate(settings)
    values = aggregate(config, matrix)
    for row, image_id in enumerate(matrix.image_ids):
        used = ~matrix.in_fold_NK[row] if members == "held_out" else slice(None)
        scores = matrix.score_NK[row, used][None]
        alone = ScoreMatrix([image_id], range(scores.shape[1]), scores, np.zeros_like(scores, dtype=bool))
        assert values[row] == pytest.approx(aggregate(config, alone)[0])


def test_controls() -> None:
    ids = [f"{number:02d}" for number in range(20)]
    everything = filter_of(PurifyConfig(filter="none")).decide(Evidence(ids, 0)).table
    assert set(everything["decision"].to_pylist()) == {KEPT}
    labels = {image_id: int(number < 4) for number, image_id in enumerate(ids)}
    oracle = filter_of(PurifyConfig(filter="oracle")).decide(Evidence(ids, 0, labels=labels)).table
    assert [row["decision"] for row in oracle.to_pylist()] == [REJECTED] * 4 + [KEPT] * 16
    blind = PurifyConfig(filter="random", keep_ratio=0.75)
    drawn = filter_of(blind).decide(Evidence(ids, 0)).table
    assert drawn["decision"].to_pylist().count(KEPT) == 15
    assert drawn.equals(filter_of(blind).decide(Evidence(ids[::-1], 0)).table)
    assert not drawn.equals(filter_of(blind).decide(Evidence(ids, 1)).table)


def test_the_oracle_needs_labels() -> None:
    with pytest.raises(DataError, match="1 of 2 training images have none"):
        filter_of(PurifyConfig(filter="oracle")).decide(Evidence(["a", "b"], 0, labels={"a": 0, "b": None}))
