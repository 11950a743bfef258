"""The order in which a review asks: large groups and borderline images first, one image for a group."""

import pytest

from llb_ray.report.asking_order import worth_of


def _order(families: list[int | None], num_near: int = 2) -> list[int]:
    worth = worth_of(families, num_near)
    return sorted(range(len(worth)), key=lambda at: -worth[at])


@pytest.mark.parametrize(
    ("families", "first"),
    [
        ([None, None, None], [0, 1, 2]),  # nearest to the cut
        ([None, None, 7, 7, 7], [2]),  # three at once
        ([0, 1, 1, 0, 0], [0]),
        ([None] * 12 + [3, 3], [0]),  # a pair that is far from the cut is no border case
    ],
)
def test_what_changes_most_is_asked_first(families: list[int | None], first: list[int]) -> None:
    assert _order(families)[: len(first)] == first


def test_a_group_is_asked_about_once() -> None:
    worth = worth_of([5, None, 5, 5], 2)
    assert worth[0] == 3.0
    assert worth[2] == worth[3] == 0.0


@pytest.mark.parametrize("num_near", [0, 1, 100])
def test_no_image_is_without_a_place(num_near: int) -> None:
    assert sorted(_order([0, None, 0, 1], num_near)) == [0, 1, 2, 3]
