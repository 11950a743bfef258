"""The form that every adapter gives a data set's tables: columns, the origin of each row, and problems."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa

from llb_ray.data.listing import LISTING, nearest
from llb_ray.data.listing_problems import Problem
from llb_ray.data.manifest import TEST, TRAIN, path_text
from llb_ray.errors import DataError

ORIGIN = pa.schema([pa.field("source", pa.string()), pa.field("number", pa.int64())])


class Entry(NamedTuple):
    """One image as a table lists it; paths are as the file system spells them, relative to the part's base."""

    number: int | None  # of the line or entry, from 1
    path: str
    category: str
    split: str
    label: int | None = None
    defect_type: str | None = None
    mask_path: str | None = None
    group: str | None = None
    image_id: str | None = None


@dataclass(frozen=True)
class Part:
    """The content of one source: rows, as in `LISTING`, their origins, and what of it cannot be rows."""

    table: pa.Table
    origin: pa.Table
    problems: Sequence[Problem]

    @classmethod
    def of(cls, source: str, items: Iterable[Entry | Problem], base: str = "") -> "Part":
        """The entries, their paths below `base`; those that leave the root or have no known split are problems.

        Of a problem, too, the path is as the file system spells it.
        """
        rows, numbers, problems = list[tuple[Any, ...]](), list[int | None](), list[Problem]()
        for item in items:
            entry = item if isinstance(item, Problem) else _checked(source, item)
            if isinstance(entry, Problem):
                problems.append(entry._replace(path=path_text(entry.path)))
            else:
                rows.append(_row(entry, base))
                numbers.append(entry.number)
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(LISTING)
        table = pa.table(
            [pa.array(column, field.type) for column, field in zip(columns, LISTING, strict=True)], LISTING
        )
        origin = pa.table([pa.array([source] * len(rows), pa.string()), pa.array(numbers, pa.int64())], ORIGIN)
        return cls(table, origin, problems)


@dataclass(frozen=True)
class Draft:
    """A data set as its tables list it, before anybody has looked for the files."""

    root: Path
    parts: Sequence[Part]
    sources: Mapping[str, str] = field(default_factory=dict)  # files read, and their sha256
    notes: Sequence[str] = ()  # messages for the user, a sentence each


def pick_categories(root: Path, found: Iterable[str], wanted: Sequence[str]) -> list[str]:
    """The categories to read: those wanted, or all; raises DataError naming the nearest for an unknown one."""
    known = sorted(found)
    for name in wanted:
        if name not in known:
            raise DataError(f"{root}: no category {name!r} is there; {nearest(name, known)}")
    return sorted(set(wanted)) or known


def _checked(source: str, entry: Entry) -> Entry | Problem:
    if entry.split not in (TRAIN, TEST):
        what = f"unknown split {entry.split!r}; use train or test"
        return Problem(source, entry.number, entry.path, what)
    for path in (entry.path, entry.mask_path):
        if path is not None and (what := _misplaced(path)):
            return Problem(source, entry.number, path, what)
    return entry


def _is_plain(path: str) -> bool:
    """True if there is nothing to look at closely: neither empty parts nor any that begin with a dot."""
    return not (path[:1] in ("", "/", ".") or path[-1:] == "/" or "//" in path or "/." in path or "\0" in path)


def _misplaced(path: str) -> str:
    """Problem of a relative path, if any; links inside a data set are its owner's, and are followed."""
    if _is_plain(path):
        return ""
    if path.startswith("/"):
        return "is an absolute path; it has to be relative to the root"
    parts = path.split("/")
    if ".." in parts:
        return "leaves the root"
    return "is no name that a file can have" if "\0" in path or parts[-1] in ("", ".") else ""


def _row(entry: Entry, base: str) -> tuple[Any, ...]:
    mask = None if entry.mask_path is None else _below(base, entry.mask_path)
    known = entry.label, entry.defect_type, mask, entry.image_id
    return _below(base, entry.path), entry.category, entry.group, entry.split, *known


def _below(base: str, path: str) -> str:
    """The path below the base as `path_text` writes it, without empty parts and dots."""
    return path_text(base + (path if _is_plain(path) else PurePosixPath(path).as_posix()))
