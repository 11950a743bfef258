"""The score matrix is joined by id and complete, or refused with the cell named."""

import numpy as np
import pyarrow as pa
import pytest

from llb_ray.ensemble.partition import PARTITION
from llb_ray.ensemble.score_matrix import SCORES, assemble, dense
from llb_ray.errors import DataError


def _scores(scores: dict[str, list[float]]) -> pa.Table:
    return pa.table({"image_id": list(scores), "scores": pa.array(scores.values(), pa.list_(pa.float32()))})


def _home(member: dict[str, int]) -> pa.Table:
    return pa.table([list(member), list(member.values())], schema=PARTITION)


def _matrix() -> pa.Table:
    scores = {"b": [2, 20], "a": [1, 10], "c": [3, 30]}
    return assemble(_scores(scores), _home({"c": 1, "a": 0, "b": 1}), [0, 1])


def test_scores_are_joined_by_id() -> None:
    assert _matrix().schema == SCORES
    matrix = dense(_matrix())
    assert list(matrix.image_ids) == ["a", "b", "c"]
    assert matrix.score_NK.tolist() == [[1, 10], [2, 20], [3, 30]]
    assert matrix.in_fold_NK.tolist() == [[True, False], [False, True], [False, True]]


def test_row_order_is_irrelevant() -> None:
    table = _matrix()
    shuffled = table.take([2, 0, 1])
    assert np.array_equal(dense(table).score_NK, dense(shuffled).score_NK)
    assert np.array_equal(dense(table).in_fold_NK, dense(shuffled).in_fold_NK)


def test_an_image_is_there_once() -> None:
    with pytest.raises(DataError, match="image c is there twice"):
        dense(_matrix().take([0, 1, 2, 2]))


def test_a_missing_score_is_named() -> None:
    scores = _scores({"a": [1, 2], "b": [1]})
    with pytest.raises(DataError, match="image b has 1 scores, others have 2"):
        dense(assemble(scores, _home({"a": 0, "b": 1}), [0, 1]))


@pytest.mark.parametrize("fold", [7, 2, -1])
def test_an_image_must_have_been_in_one_fold(fold: int) -> None:
    folds = pa.array([0, fold, 1], SCORES.field("in_fold").type)
    with pytest.raises(DataError, match="image b is not in the training share of exactly one member"):
        dense(_matrix().set_column(1, SCORES.field("in_fold"), folds))


def test_the_scores_of_a_lost_member_are_null_and_all_others_hold_its_images_out() -> None:
    home = {"a": 0, "b": 1, "c": 2, "d": 1}
    table = assemble(_scores({"a": [1, 10], "b": [2, 20], "c": [3, 30], "d": [4, 40]}), _home(home), [0, 2])
    assert table["scores"].to_pylist() == [[1, None, 10], [2, None, 20], [3, None, 30], [4, None, 40]]
    assert table["in_fold"].to_pylist() == [0, 1, 2, 1]
    matrix = dense(table)
    assert matrix.members == [0, 2]
    assert matrix.score_NK.tolist() == [[1, 10], [2, 20], [3, 30], [4, 40]]
    assert matrix.in_fold_NK.tolist() == [[True, False], [False, False], [False, True], [False, False]]


def test_a_member_whose_every_score_is_nan_is_not_taken_for_a_lost_one() -> None:
    scores = pa.table({"image_id": ["a", "b"], "scores": pa.array([[0, np.nan]] * 2, pa.list_(pa.float32()))})
    with pytest.raises(DataError, match="image a has the score nan by member 1"):
        dense(assemble(scores, _home({"a": 0, "b": 1}), [0, 1]))


def test_an_image_of_no_share_is_named() -> None:
    with pytest.raises(DataError, match="image b is in no member's training share"):
        assemble(_scores({"a": [1], "b": [2]}), _home({"a": 0}), [0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, None])
def test_a_score_that_is_no_number_never_enters(bad: float | None) -> None:
    scores = pa.table({"image_id": ["a", "b"], "scores": pa.array([[0, 0], [bad, 0]], pa.list_(pa.float32()))})
    with pytest.raises(DataError, match="image b has the score (nan|inf) by member 0"):
        dense(assemble(scores, _home({"a": 0, "b": 1}), [0, 1]))
