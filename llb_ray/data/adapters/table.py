"""Any table of images: CSV or Parquet with a column `path`, the columns of a listing where it has them, and others.

A CSV's own columns are kept as text: `007` is a lot, not a number.
"""

import csv
import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from llb_ray.config import DatasetConfig
from llb_ray.data.adapters.entries import Draft, Entry, Part, asked_for
from llb_ray.data.adapters.sources import Source
from llb_ray.data.listing import LISTING
from llb_ray.data.manifest import TRAIN, path_from_text, path_text
from llb_ray.data.problems import Problem
from llb_ray.errors import DataError

_LABELS = {"0": 0, "normal": 0, "good": 0, "1": 1, "anomalous": 1, "anomaly": 1}


def read(config: DatasetConfig) -> Draft:
    """Every row whose category is asked for; what is not said is unknown, a split that is not said is train."""
    assert config.table is not None, "DatasetConfig requires it"
    source = Source.read(config.root, config.table)
    table = read_columns(source)
    category = path_text(config.root.name or "images")
    rows = _Rows(source.name, {name: _texts(table, name) for name in LISTING.names}, category)
    chosen = set(asked_for(config.root, {rows.category(row) for row in range(len(table))}, config.categories))
    part = Part.of(source.name, (rows.entry(row) for row in range(len(table)) if rows.category(row) in chosen))
    own = [name for name in table.column_names if name not in LISTING.names]
    return Draft(config.root, [_with(part, table.select(own))], {source.name: source.sha256})


def read_columns(source: Source) -> pa.Table:
    """The table in a CSV or Parquet file that has a column `path`; raises DataError for anything else."""
    is_csv = source.path.suffix.lower() == ".csv"
    try:
        table = _csv(source) if is_csv else pyarrow.parquet.read_table(pa.BufferReader(source.content))
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{source.path}: not a {'CSV' if is_csv else 'Parquet'} file ({reason})") from error
    if "path" not in table.column_names:
        raise DataError(f"{source.path}: has no column 'path', only {', '.join(table.column_names)}")
    if len(set(table.column_names)) != len(table.column_names):
        raise DataError(f"{source.path}: has two columns of one name; rename one")
    return table


def _csv(source: Source) -> pa.Table:
    names = next(csv.reader(io.StringIO(source.text())), [])
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
    )
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    return pyarrow.csv.read_csv(pa.BufferReader(source.content), parse_options=parse, convert_options=convert)


def _texts(table: pa.Table, name: str) -> list[str | None]:
    if name not in table.column_names:
        return [None] * len(table)
    texts: list[str | None] = table[name].cast(pa.string()).to_pylist()
    return texts


def _with(part: Part, own: pa.Table) -> Part:
    """The part with the user's columns, row by row as they were numbered."""
    table = part.table
    rows = own.take(pa.array([number - 1 for number in part.origin["number"].to_pylist()], pa.int64()))
    for name in own.column_names:
        table = table.append_column(own.schema.field(name), rows[name])
    return Part(table, part.origin, part.problems)


class _Rows:
    """The columns of a listing as the table has them, as text."""

    def __init__(self, source: str, columns: dict[str, Sequence[str | None]], category: str) -> None:
        self._source = source
        self._columns = columns
        self._category = category

    def category(self, row: int) -> str:
        """The category of a row; the folder's name where the table has none."""
        return self._columns["category"][row] or self._category

    def entry(self, row: int) -> Entry | Problem:
        """What a row says."""
        said = {name: column[row] for name, column in self._columns.items()}
        path, label, mask = said["path"] or "", said["label"], said["mask_path"] or None
        if label is not None and label.lower() not in _LABELS:
            return Problem(
                self._source, row + 1, path, f"unknown label {label!r}; use {', '.join(_LABELS)}, or nothing"
            )
        return Entry(
            number=row + 1,
            path=path_from_text(path),
            category=self.category(row),
            split=said["split"] or TRAIN,
            label=None if label is None else _LABELS[label.lower()],
            defect_type=said["defect_type"],
            mask_path=None if mask is None else path_from_text(mask),
            group=said["group"],
            image_id=said["image_id"],
        )
