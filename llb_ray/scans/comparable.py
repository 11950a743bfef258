"""The categories that filters can be compared over: those of which none of them lacks a seed.

Else the filter whose hardest job failed would have the best mean.
"""

from collections.abc import Iterator, Sequence
from typing import Any

Row = dict[str, Any]


def comparable(rows: Sequence[Row], column: str | None = None) -> set[str]:
    """The categories that every filter and seed of the rows has, and has a figure in `column` for, if that is given.

    A filter or seed that has no figure at all is not asked.
    """
    by_run: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        if column is None or row[column] is not None:
            by_run.setdefault((row["filter"], row["seed"]), set()).add(row["category"])
    return set.intersection(*by_run.values()) if by_run else set()


def left_out(rows: Sequence[Row], columns: Sequence[str]) -> Iterator[tuple[list[str], set[str]]]:
    """The categories that no mean is over, with no columns, and those that the means of some columns are not over."""
    everything, whole = {row["category"] for row in rows}, comparable(rows)
    if everything - whole:
        yield [], everything - whole
    lacking: dict[frozenset[str], list[str]] = {}
    for column in columns:
        if any(row[column] is not None for row in rows) and (missing := whole - comparable(rows, column)):
            lacking.setdefault(frozenset(missing), []).append(column)
    yield from ((names, set(missing)) for missing, names in lacking.items())
