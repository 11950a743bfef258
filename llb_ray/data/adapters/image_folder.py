"""Folders of Hugging Face's `datasets` (its builder imagefolder): images, and a table `metadata` beside them.

The table is metadata.csv, .jsonl or .parquet in the root or in a folder of it, and names files by `file_name`.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from llb_ray.config import DatasetConfig
from llb_ray.data.adapters.base import Adapter
from llb_ray.data.adapters.entries import Draft, Entry, Part
from llb_ray.data.adapters.image_list import label_of
from llb_ray.data.adapters.table_files import Source
from llb_ray.data.groups import Grouping
from llb_ray.data.listing_problems import Problem
from llb_ray.data.manifest import TEST, TRAIN, path_text
from llb_ray.data.name_conventions import NORMAL_EXAMPLES
from llb_ray.data.tables import DAMAGED, validate
from llb_ray.errors import DataError

_TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_NAME = "file_name"
SPLITS = {
    "train": TRAIN,
    "training": TRAIN,
    "test": TEST,
    "testing": TEST,
    "validation": TEST,
    "valid": TEST,
    "val": TEST,
}
Row = Mapping[str, Any]


class ImageFolder(Adapter):
    """Hugging Face's imagefolder, with its metadata table."""

    options = frozenset({"group_pattern"})

    def read(self, config: DatasetConfig) -> Draft:
        """Every row of every table; a split is the column's, else the folder's, else train."""
        grouping, parts, sources = Grouping.of(config.group_pattern, "group_pattern"), list[Part](), dict[str, str]()
        for path in _tables(config.root):
            source = Source.read(config.root, path.relative_to(config.root))
            rows = list(_rows(source))
            folder, name = path.parent.relative_to(config.root), path_text(config.root.name or "images")
            base = "" if folder == Path() else f"{folder.as_posix()}/"
            usual = {"category": name, "split": SPLITS.get(folder.name.lower(), TRAIN)}
            entries = (_entry(source.name, number, row, usual, grouping) for number, row in enumerate(rows, 1))
            parts.append(Part.of(source.name, entries, base))
            sources[source.name] = source.sha256
        return Draft(config.root, parts, sources)


def _tables(root: Path) -> list[Path]:
    """The first table of the root and of each of its folders; raises DataError where there is none."""
    folders = [root, *sorted(path for path in root.glob("*") if path.is_dir())]
    found = [next((folder / name for name in _TABLES if (folder / name).is_file()), None) for folder in folders]
    tables = [path for path in found if path is not None]
    if not tables:
        raise DataError(f"{root}: has none of {', '.join(_TABLES)}, nor have its folders; a tree without is kind mvtec")
    return tables


def _rows(source: Source) -> Iterator[Row]:
    """The rows of a table; raises DataError where it cannot be read or names no files."""
    try:
        rows = _parsed(source)
    except (*DAMAGED, csv.Error, ValueError) as error:
        raise DataError(f"{source.path}: not readable ({str(error).splitlines()[0]}); save it again") from error
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get(_NAME), str):
            raise DataError(f"{source.path}: has a row without {_NAME}, by which imagefolder names an image")
        yield row


def _parsed(source: Source) -> Sequence[Any]:
    suffix = source.path.suffix
    if suffix == ".parquet":
        table: Sequence[Any] = validate(parquet.read_table(pa.BufferReader(source.content))).to_pylist()
        return table
    if suffix == ".csv":
        return list(csv.DictReader(io.StringIO(source.text(), newline="")))
    return [json.loads(line) for line in source.text().splitlines() if line.strip()]


def _entry(source: str, number: int, row: Row, usual: Row, grouping: Grouping) -> Entry | Problem:
    path, label = row[_NAME], _text(row, "label")
    known = None if label is None else label_of(label)
    if label is not None and known is None:
        what = f"unknown label {label!r}; use 0 or {NORMAL_EXAMPLES}, 1 or anomalous, bad"
        return Problem(source, number, path, what)
    category, split = _text(row, "category") or usual["category"], _text(row, "split") or usual["split"]
    return Entry(
        number=number,
        path=path,
        category=category,
        split=SPLITS.get(split.lower(), split),
        label=known,
        defect_type=_text(row, "defect_type"),
        mask_path=_text(row, "mask_file_name") or _text(row, "mask_path"),
        group=_text(row, "group") or grouping.group(category, path),
    )


def _text(row: Row, name: str) -> str | None:
    value = row.get(name)
    return None if value in (None, "") else str(value)
