"""Decisions by hand: users' decisions on single images, which replace the filter's.

A word on an image is ``keep``, ``reject`` or ``unsure``; ``unsure`` leaves the image to the filter, and is recorded.
The scores, the aggregate and the rank of an image stay what they were, so that the rule can still be derived again.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.data.lists import read_records
from llb_ray.ensemble.decision import KEPT, REJECTED
from llb_ray.ensemble.trust import TRUSTED, UNTRUSTED
from llb_ray.errors import DataError
from llb_ray.names import from_cell

KEEP, REJECT, UNSURE = WORDS = ("keep", "reject", "unsure")
OVERRIDES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("decision", pa.string(), nullable=False),  # one of `WORDS`
        pa.field("by", pa.string(), nullable=False),  # the author; empty where none was named
        pa.field("note", pa.string(), nullable=False),
    ]
)
_COLUMNS = ("image_id", "decision")  # that the file must have; path and note may be left out
_DONE = {KEEP: KEPT, REJECT: REJECTED}


class _Row(NamedTuple):
    line: int
    image_id: str
    path: str
    decision: str
    note: str


def read_overrides(path: Path, purified: pa.Table, by: str = "") -> pa.Table:
    """The decisions in the CSV file that report.html gives out (schema `OVERRIDES`, in image_id order).

    `purified` is the table that they are about (schema `purified_dataset.PURIFIED`).  Raises DataError, naming the
    line, for an image that is not in it, under another path or twice, and for any other word.  A note without a
    decision is left out.
    """
    rows = list(_rows(path))
    if not rows:
        raise DataError(f"{path}: holds no decision; make some in the run's report.html and download the file there")
    named = dict(zip(purified["image_id"].to_pylist(), purified["path"].to_pylist(), strict=True))
    for row in rows:
        _check(f"{path}, line {row.line}", row, named)
    twice = [image_id for image_id, times in Counter(row.image_id for row in rows).items() if times > 1]
    if twice:
        raise DataError(f"{path}: image {twice[0]} is there twice; leave one row for every image")
    said = [[row.image_id, row.decision, by, row.note] for row in sorted(rows, key=lambda row: row.image_id)]
    return pa.table([list(column) for column in zip(*said, strict=True)], schema=OVERRIDES)


def merge_overrides(earlier: pa.Table, later: pa.Table) -> pa.Table:
    """Both tables as one (schema `OVERRIDES`): the later word on an image counts."""
    unchanged = earlier.filter(pc.invert(pc.is_in(earlier["image_id"], later["image_id"].combine_chunks())))
    return pa.concat_tables([unchanged, later]).sort_by("image_id").combine_chunks()


def apply_overrides(purified: pa.Table, overrides: pa.Table) -> pa.Table:
    """`purified`, as the filter made it, with the decisions, reasons and trust of `overrides` (schema `OVERRIDES`).

    Raises DataError for an image that is not in it, and where nothing would be kept.
    """
    place = {image_id: row for row, image_id in enumerate(purified["image_id"].to_pylist())}
    decisions, reasons, trust = (purified[name].to_pylist() for name in ("decision", "reason", "trust"))
    for said in overrides.to_pylist():
        row = place.get(said["image_id"])
        if row is None:
            raise DataError(f"overrides: image {said['image_id']} is not among the training images of this run")
        if said["decision"] != UNSURE:
            found, decisions[row] = decisions[row], _DONE[said["decision"]]
            reasons[row] = _reason(said["by"], decisions[row], found, reasons[row])
            trust[row] = TRUSTED if decisions[row] == KEPT else UNTRUSTED
    if KEPT not in decisions:
        raise DataError("overrides: every image is rejected, and the final detector needs some; keep a few")
    for name, values in {"decision": decisions, "reason": reasons, "trust": trust}.items():
        purified = _set(purified, name, values)
    return purified


def rejected_by_hand(overrides: pa.Table | None) -> set[str]:
    """The images rejected by hand (schema `OVERRIDES`)."""
    said = [] if overrides is None else overrides.to_pylist()
    return {row["image_id"] for row in said if row["decision"] == REJECT}


def _reason(by: str, decided: str, found: str, reason: str) -> str:
    who = f"{decided} by hand ({by})" if by else f"{decided} by hand"
    return f"{who}, as by the filter ({reason})" if decided == found else f"{who}: the filter had {found} it ({reason})"


def _set(table: pa.Table, name: str, values: Sequence[str] | Sequence[float]) -> pa.Table:
    index = table.schema.get_field_index(name)
    field = table.schema.field(index)
    return table.set_column(index, field, pa.array(values, field.type))


def _rows(path: Path) -> Iterator[_Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark in front
            reader = read_records(file)
            lacking = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if lacking:
                raise DataError(
                    f"{path}: has no column {lacking[0]}; download overrides.csv from the run's report.html, "
                    "or write image_id,decision and a row for each image"
                )
            for row in reader:
                image_id, named, decision, note = ((row.get(name) or "").strip() for name in _Row._fields[1:])
                if note and not decision:  # of a review that goes on
                    continue
                # The page writes ./ before names that a spreadsheet would take for a formula.
                yield _Row(reader.line_num, image_id, named.removeprefix("./").strip(), decision, from_cell(note))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: not a readable CSV file ({reason})") from error


def _check(where: str, row: _Row, named: dict[str, str]) -> None:
    """`named` has the path of every image that there is."""
    if row.image_id not in named:
        raise DataError(f"{where}: image {row.image_id!r} is not among the training images of this run; drop the row")
    if row.path and row.path != named[row.image_id].strip():
        raise DataError(
            f"{where}: image {row.image_id} is {named[row.image_id]!r} in this run, not {row.path!r}; "
            "were the columns sorted apart?"
        )
    if row.decision not in WORDS:
        raise DataError(f"{where}: decision {row.decision!r} is not one of {', '.join(WORDS)}")
