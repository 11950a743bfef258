"""The score matrix is joined by id and complete, or refused with the cell named."""

import numpy as np
import pyarrow as pa
import pytest

from llb_ray.ensemble.partition import PARTITION
from llb_ray.ensemble.scores import SCORES, assemble, dense
from llb_ray.errors import DataError


def _scores(member: int, score: dict[str, float]) -> pa.Table:
    members = pa.array([member] * len(score), pa.int16())
    return pa.table({"image_id": list(score), "member": members, "score": pa.array(score.values(), pa.float32())})


def _home(member: dict[str, int]) -> pa.Table:
    return pa.table([list(member), list(member.values())], schema=PARTITION)


def _matrix() -> pa.Table:
    scores = [_scores(1, {"b": 20, "a": 10, "c": 30}), _scores(0, {"c": 3, "a": 1, "b": 2})]
    return assemble(pa.concat_tables(scores), _home({"c": 1, "a": 0, "b": 1}))


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
    scores = pa.concat_tables([_scores(member, {"a": 0, "b": bad}) for member in (0, 1)])
    with pytest.raises(DataError, match="image b has 1 scores by member 0"):
        dense(assemble(scores, _home({"a": 0, "b": 1})))
