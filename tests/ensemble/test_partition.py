"""Shares are exact, balanced, group-aware, and depend on nothing but ids, groups, K and seed."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb_ray.ensemble.partition import PARTITION, extend_partition, partition, shares
from llb_ray.errors import DataError


def _ids(count: int) -> list[str]:
    return [f"{number * 7919 % 100_003:032x}" for number in range(count)]


@given(count=st.integers(2, 120), members=st.integers(2, 12), seed=st.integers(0, 99))
def test_shares_are_disjoint_complete_and_balanced_within_one(count: int, members: int, seed: int) -> None:
    ids = _ids(count)
    if count < members:
        with pytest.raises(DataError, match="lower members.count"):
            partition(ids, ids, members, seed)
        return
    owned = shares(partition(ids, ids, members, seed))
    assert sorted(image_id for share in owned for image_id in share) == sorted(ids)
    sizes = [len(share) for share in owned]
    assert len(sizes) == members
    assert max(sizes) - min(sizes) <= 1


@given(sizes=st.lists(st.integers(1, 6), min_size=4, max_size=40), members=st.integers(2, 4), seed=st.integers(0, 9))
def test_a_group_is_never_split(sizes: list[int], members: int, seed: int) -> None:
    groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
    ids = _ids(len(groups))
    owned = shares(partition(ids, groups, members, seed))
    group = dict(zip(ids, groups, strict=True))
    homes = [{group[image_id] for image_id in share} for share in owned]
    assert sum(len(home) for home in homes) == len(sizes)
    lengths = [len(share) for share in owned]
    assert max(lengths) - min(lengths) <= max(sizes)


def test_neither_row_order_nor_group_names_matter() -> None:
    ids = _ids(60)
    groups = [f"g{number // 3}" for number in range(60)]
    rows = list(zip(ids, groups, strict=True))
    random.Random(0).shuffle(rows)
    shuffled_ids, shuffled_groups = zip(*rows, strict=True)
    renamed = [f"another {hash(group)}" for group in shuffled_groups]
    assert partition(ids, groups, 4, 1).equals(partition(shuffled_ids, renamed, 4, 1))


def test_the_seed_matters() -> None:
    ids = _ids(60)
    assert not partition(ids, ids, 4, 1).equals(partition(ids, ids, 4, 2))


def test_further_images_leave_the_known_ones_where_they_are() -> None:
    """They go where their group is, or where the lowest id of a new group says."""
    ids = _ids(30)
    before = partition(ids, [f"g{number // 3}" for number in range(30)], 4, 1)
    home = dict(zip(*before.to_pydict().values(), strict=True))
    more = {f"{number:032x}": group for number, group in ((1, "g4"), (6, "new"), (9, "new"), (11, "alone"))}
    groups = [f"g{number // 3}" for number in range(30)] + list(more.values())
    after = extend_partition(before, [*ids, *more], groups)
    assert after.schema == PARTITION
    found = dict(zip(*after.to_pydict().values(), strict=True))
    assert list(found) == sorted([*ids, *more])
    assert {image_id: found[image_id] for image_id in ids} == home
    assert [found[image_id] for image_id in more] == [home[ids[12]], 6 % 4, 6 % 4, 11 % 4]
    assert extend_partition(after, [*ids, *more], groups).equals(after)
