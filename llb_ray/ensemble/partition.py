"""Dealing the images to K members: disjoint, balanced, and never splitting a photographed object."""

from collections import defaultdict
from collections.abc import Sequence

import pyarrow as pa

from llb_ray.errors import DataError
from llb_ray.seeding import stream

PARTITION = pa.schema(
    [pa.field("image_id", pa.string(), nullable=False), pa.field("member", pa.int16(), nullable=False)]
)


def partition(image_ids: Sequence[str], groups: Sequence[str], num_members: int, seed: int) -> pa.Table:
    """Each image's member (schema `PARTITION`, in image_id order); arXiv 2508.07441, stage 1, step 1.

    Every image has exactly one member and a group stays together.  Without groups the shares differ by at most one
    image (the paper gives the whole remainder to the last); with groups, by at most the largest group.  A pure
    function of ids, groups, K and seed: neither the order of the rows nor the spelling of the group names matters.
    Raises DataError when there are fewer groups than members.
    """
    members = defaultdict[str, list[str]](list)
    for image_id, group in sorted(zip(image_ids, groups, strict=True)):
        members[group].append(image_id)
    if len(members) < num_members:
        raise DataError(
            f"{len(image_ids)} training images in {len(members)} groups cannot be divided among {num_members} members; "
            "lower members.count or add images"
        )
    owner = {
        image_id: member
        for member, share in enumerate(_deal(list(members.values()), num_members, seed))
        for image_id in share
    }
    ordered = sorted(owner)
    return pa.table([ordered, [owner[image_id] for image_id in ordered]], schema=PARTITION)


def extend_partition(table: pa.Table, image_ids: Sequence[str], groups: Sequence[str]) -> pa.Table:
    """The partition `table` with further images among `image_ids` (schema `PARTITION`, in image_id order).

    An image of a known group has that group's member; every other group has one by the lowest id in it, whatever the
    other groups are.
    """
    home = dict(zip(table["image_id"].to_pylist(), table["member"].to_pylist(), strict=True))
    num_members = max(home.values()) + 1
    owner: dict[str, int] = {}
    for image_id, group in sorted(zip(image_ids, groups, strict=True), key=lambda row: (row[0] not in home, row)):
        owner.setdefault(group, home.get(image_id, int(image_id, 16) % num_members))
    placed = [(image_id, owner[group]) for image_id, group in sorted(zip(image_ids, groups, strict=True))]
    ids, members = zip(*placed, strict=True)
    return pa.table([list(ids), list(members)], schema=PARTITION)


def _deal(groups: list[list[str]], num_members: int, seed: int) -> list[list[str]]:
    """Groups assigned largest first, each to the emptiest share; groups of one size are in random order."""
    groups = sorted(groups, key=lambda group: group[0])
    shuffled = [groups[row] for row in stream(seed, "partition").permutation(len(groups))]
    shares: list[list[str]] = [[] for _ in range(num_members)]
    for group in sorted(shuffled, key=len, reverse=True):
        min(shares, key=len).extend(group)
    return shares


def shares(table: pa.Table) -> list[list[str]]:
    """The image ids of member 0, 1, ..., each in image_id order."""
    owned = defaultdict[int, list[str]](list)
    for image_id, member in zip(table["image_id"].to_pylist(), table["member"].to_pylist(), strict=True):
        owned[member].append(image_id)
    return [sorted(owned[member]) for member in sorted(owned)]
