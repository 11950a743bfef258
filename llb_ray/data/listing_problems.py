"""Problems of the entries of a data set: found all at once, and reported together."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv as csv

from llb_ray.data.streaming_writers import guard_column
from llb_ray.errors import DataError

_NAMED = 3


class Problem(NamedTuple):
    """One thing that is wrong: in which file, with which entry of it, about which path."""

    source: str  # the table that lists the image; empty where a folder itself is read
    number: int | None  # of the line or entry, from 1
    path: str  # as `path_text` writes it
    what: str

    def __str__(self) -> str:
        entry = "" if self.number is None else f" {self.number}"
        where = " ".join(part for part in (f"{self.source}{entry}".strip(), self.path) if part)
        return f"{where}: {self.what}"


class BadEntries(DataError):
    """Some entries of a data set cannot be used; `problems` has all of them."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)  # alone, so that the error is unpickled as every other: see `llb_ray.errors`
        self.problems = tuple(problems)

    @classmethod
    def of(cls, root: Path, problems: Sequence[Problem], report: Path | None = None) -> "BadEntries":
        """The error of one sentence about all these problems, which are in the file `report` if it is given."""
        first = "; ".join(map(str, problems[:_NAMED]))
        more = "" if len(problems) <= _NAMED else f"; and {len(problems) - _NAMED} more"
        named = "" if report is None else f"; {report} has them all"
        return cls(
            f"{root}: {_counted(len(problems))} with the listed images ({first}{more}){named}; "
            "fix that, or leave those images out (skip_bad, --skip-bad)",
            problems,
        )


def _counted(count: int) -> str:
    return f"{count:,} problem{'s' if count > 1 else ''}"


def problems_file(listed: Path) -> Path:
    """Path of the report about the data set that is listed in the manifest file `listed`."""
    return listed.with_suffix(".problems.csv")


def write_problems(path: Path, problems: Sequence[Problem]) -> None:
    """Write the report as CSV: source, number, path, what."""
    schema = pa.schema([("source", pa.string()), ("number", pa.int64()), ("path", pa.string()), ("what", pa.string())])
    columns = [guard_column(name, [getattr(problem, name) for problem in problems]) for name in schema.names]
    path.parent.mkdir(parents=True, exist_ok=True)
    csv.write_csv(pa.table(columns, schema=schema), path)
