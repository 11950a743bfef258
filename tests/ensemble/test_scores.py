"""The score matrix is joined by id and complete, or refused with the cell named."""

import numpy as np
import pyarrow as pa
import pytest

from llb_ray.ensemble.scores import SCORES, assemble, dense, member_scores
from llb_ray.errors import DataError


def _matrix() -> pa.Table:
    ids = ["c", "a", "b"]
    tables = [
        member_scores(ids, 0, np.array([3, 1, 2], np.float32), ["a"]),
        member_scores(ids[::-1], 1, np.array([20, 10, 30], np.float32), ["b", "c"]),
    ]
    return assemble(tables)


def test_scores_are_joined_by_id() -> None:
    matrix = dense(_matrix())
    assert list(matrix.image_ids) == ["a", "b", "c"]
    assert matrix.score_NK.tolist() == [[1, 10], [2, 20], [3, 30]]
    assert matrix.in_fold_NK.tolist() == [[True, False], [False, True], [False, True]]


def test_row_order_is_irrelevant() -> None:
    table = _matrix()
    shuffled = table.take([5, 0, 3, 2, 4, 1])
    assert np.array_equal(dense(table).score_NK, dense(shuffled).score_NK)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([0, 1, 2, 3, 4], "has 0 scores by member 1"),
        ([0, 1, 2, 3, 4, 5, 5], "has 2 scores by member 1"),
    ],
)
def test_a_missing_or_doubled_score_is_named(rows: list[int], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        dense(_matrix().take(rows))


def test_an_image_must_have_been_in_one_fold() -> None:
    table = _matrix()
    flags = pa.array([False] * 6)
    with pytest.raises(DataError, match="exactly one member"):
        dense(table.set_column(3, SCORES.field("in_fold"), flags))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_no_number_never_enters(bad: float) -> None:
    tables = [
        member_scores(["a", "b"], member, np.array([0, bad], np.float32), [own]) for member, own in ((0, "a"), (1, "b"))
    ]
    with pytest.raises(DataError, match="image b has 1 scores by member 0"):
        dense(assemble(tables))
