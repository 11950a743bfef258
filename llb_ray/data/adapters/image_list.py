"""Any list of images (`llb_ray.data.lists`): the columns of a listing where it has them, and others."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from llb_ray.config import DatasetConfig
from llb_ray.data.adapters.base import Adapter
from llb_ray.data.adapters.entries import Draft, Entry, Part, pick_categories
from llb_ray.data.adapters.table_files import Source
from llb_ray.data.listing import LISTING
from llb_ray.data.listing_problems import Problem
from llb_ray.data.lists import read_list, resolve_spelling
from llb_ray.data.manifest import TRAIN, path_text
from llb_ray.data.name_conventions import NORMAL_EXAMPLES, means_anomalous, means_normal
from llb_ray.errors import DataError

_LABELS = {"0": 0, "1": 1, "false": 0, "true": 1}


class ImageList(Adapter):
    """Any list: CSV, TSV or Parquet with a column `path`, or a text file of paths."""

    options = frozenset({"categories", "table"})
    needs: ClassVar[Mapping[str, str]] = {"table": "the CSV, TSV, Parquet or text file that lists the images"}

    def read(self, config: DatasetConfig) -> Draft:
        """Every row whose category is asked for; what is not said is unknown, a split that is not said is train."""
        assert config.table is not None, "DatasetConfig requires it"
        source = Source.read(config.root, config.table)
        table = read_columns(source)
        category = path_text(config.root.name or "images")
        rows = _Rows(config.root, source.name, {name: _texts(table, name) for name in LISTING.names}, category)
        chosen = set(pick_categories(config.root, {rows.category(row) for row in range(len(table))}, config.categories))
        part = Part.of(source.name, (rows.entry(row) for row in range(len(table)) if rows.category(row) in chosen))
        own = [name for name in table.column_names if name not in LISTING.names]
        return Draft(config.root, [_with(part, table.select(own))], {source.name: source.sha256})


def read_columns(source: Source) -> pa.Table:
    """The table in a list of images (`llb_ray.data.lists`); raises DataError for anything else."""
    batches = list(read_list(source.path))
    if not batches:
        raise DataError(f"{source.path}: lists no images")
    return pa.concat_tables(batches)


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


def label_of(said: str) -> int | None:
    """0 for normal, 1 for anomalous, by number or name; None for what is neither."""
    if said.lower() in _LABELS:
        return _LABELS[said.lower()]
    return 0 if means_normal(said) else 1 if means_anomalous(said) else None


class _Rows:
    """The columns of a listing as the table has them, as text."""

    def __init__(self, root: Path, source: str, columns: dict[str, Sequence[str | None]], category: str) -> None:
        self._root = root
        self._source = source
        self._columns = columns
        self._category = category

    def category(self, row: int) -> str:
        """The category of a row; the folder's name where the table has none."""
        return self._columns["category"][row] or self._category

    def entry(self, row: int) -> Entry | Problem:
        """The entry of a row."""
        said = {name: column[row] for name, column in self._columns.items()}
        path, label, mask = said["path"] or "", said["label"], said["mask_path"] or None
        meant = None if label is None else label_of(label)
        if label is not None and meant is None:
            what = f"unknown label {label!r}; use 0 or {NORMAL_EXAMPLES}, 1 or anomalous, bad, or nothing"
            return Problem(self._source, row + 1, path, what)
        return Entry(
            number=row + 1,
            path=resolve_spelling(self._root, path),
            category=self.category(row),
            split=said["split"] or TRAIN,
            label=meant,
            defect_type=said["defect_type"],
            mask_path=None if mask is None else resolve_spelling(self._root, mask),
            group=said["group"],
            image_id=said["image_id"],
        )
