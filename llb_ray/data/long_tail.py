"""Long tails of normals: some patterns of the normal look are frequent, others rare.

Which pattern an image shows is a column of the listing (`llb-ray manifest --columns`).
"""

from collections.abc import Mapping, Sequence, Set

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.config import TailConfig
from llb_ray.data.listing import nearest
from llb_ray.data.manifest import TRAIN
from llb_ray.data.photographed_objects import Objects, draw_names
from llb_ray.errors import DataError

Tail = Mapping[str, Sequence[str]]  # pattern -> objects


def tail_patterns(table: pa.Table, tail: TailConfig, seed: int, where: str) -> list[str]:
    """The patterns of the tail: those named, or the sorted patterns of the training split from number `seed` on.

    So each pattern is the rare one in its turn.  Raises DataError if the column or a pattern is not there.
    """
    if tail.column not in table.column_names:
        raise DataError(
            f"{where}: has no column {tail.column!r} of patterns; {nearest(tail.column, table.column_names)}"
        )
    not_anomalous = pc.fill_null(pc.not_equal(table["label"], 1), True)
    training = _patterns(table.filter(pc.and_(pc.equal(table["split"], TRAIN), not_anomalous)), tail)
    known = sorted({pattern for pattern in training if pattern is not None})
    named = tail.names()
    for name in named or ():
        if name not in known:
            raise DataError(f"{where}: no training image is of pattern {name!r}; {nearest(name, known)}")
    if len(tail.amounts()) > len(known):
        raise DataError(
            f"{where}: {len(tail.amounts())} patterns are asked for and {len(known)} are there ({', '.join(known)})"
        )
    return list(named or (known[(seed + place) % len(known)] for place in range(len(tail.amounts()))))


def with_tail_labels(table: pa.Table, tail: TailConfig, patterns: Sequence[str]) -> pa.Table:
    """The table with what `tail.rest` says about images of other patterns: they are anomalous, or are dropped.

    An anomaly stays one whatever its pattern, and nothing is said of an image whose pattern is not known.
    """
    pattern = pa.array(_patterns(table, tail), pa.string())
    inside = pc.is_in(pattern, pa.array(patterns, pa.string()))
    if tail.rest == "dropped":
        return table.filter(pc.or_(inside, pc.fill_null(pc.equal(table["label"], 1), False)))
    known, elsewhere = pattern.is_valid(), pc.and_(pattern.is_valid(), pc.invert(inside))
    label = pc.if_else(known, pc.if_else(elsewhere, 1, pc.fill_null(table["label"], 0)), table["label"])
    defect = pc.if_else(elsewhere, pc.coalesce(table["defect_type"], pattern), table["defect_type"])
    for name, column in (("label", label.cast(pa.int8())), ("defect_type", defect)):
        index = table.column_names.index(name)
        table = table.set_column(index, table.schema.field(name), column)
    return table


def draw_tail(
    objects: Objects, names: Sequence[str], table: pa.Table, tail: TailConfig, patterns: Sequence[str], seed: int
) -> Tail:
    """The normal training objects of each pattern, as many as the tail says; raises DataError if there are fewer."""
    normal = _normal(objects, names, _patterns(table, tail), patterns)
    amounts = dict(zip(patterns, tail.amounts(), strict=True))
    counts = {name: tail.count(amount, len(normal[name])) for name, amount in amounts.items()}
    if any(count > len(normal[name]) for name, count in counts.items()):
        wanted = ", ".join(f"{name}={count}" for name, count in counts.items())
        possible = ", ".join(f"{name}={len(found)}" for name, found in normal.items())
        raise DataError(
            f"{objects.where}: a tail of {wanted} needs more normal training objects than are there; "
            f"the most possible is {possible}"
        )
    return {name: draw_names(normal[name], count, seed, "tail", name) for name, count in counts.items()}


def _normal(
    objects: Objects, names: Sequence[str], pattern_of: Sequence[str | None], patterns: Sequence[str]
) -> dict[str, Set[str]]:
    """The normal training objects of each pattern; raises DataError for an object of two patterns."""
    seen: dict[str, str | None] = {}
    for name, pattern in zip(names, pattern_of, strict=True):
        if seen.setdefault(name, pattern) != pattern and name in objects.normal:
            raise DataError(
                f"{objects.where}: object {name} shows the patterns {seen[name]} and {pattern}; it needs one"
            )
    return {name: {item for item in objects.normal if seen[item] == name} for name in patterns}


def _patterns(table: pa.Table, tail: TailConfig) -> list[str | None]:
    patterns: list[str | None] = table[tail.column].cast(pa.string()).to_pylist()
    return patterns
