"""VisA (Zou et al., ECCV 2022): official CSV files with the columns object, split, label, image and mask."""

import csv
from pathlib import Path

from llb_ray.config import DatasetConfig
from llb_ray.data.adapters.base import Adapter
from llb_ray.data.adapters.entries import Draft, Entry, Part, pick_categories
from llb_ray.data.adapters.table_files import Source
from llb_ray.data.groups import Grouping
from llb_ray.data.listing_problems import Problem
from llb_ray.errors import DataError

_OFFICIAL = Path("split_csv", "1cls.csv")
_COLUMNS = ("object", "split", "label", "image", "mask")
_LABELS = {"normal": 0, "anomaly": 1}


class Visa(Adapter):
    """VisA, by split_csv/1cls.csv or another CSV of that form."""

    options = frozenset({"categories", "group_pattern", "table"})

    def read(self, config: DatasetConfig) -> Draft:
        """Every image of the official one-class split, or of another CSV of the same form."""
        source = Source.read(config.root, config.table or _OFFICIAL)
        reader = csv.DictReader(source.text().splitlines())
        lacking = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if lacking:
            raise DataError(f"{source.path}: has no column {lacking[0]!r}; VisA's files have {', '.join(_COLUMNS)}")
        rows = [(reader.line_num, row) for row in reader]
        chosen = set(pick_categories(config.root, {row["object"] for _, row in rows}, config.categories))
        grouping = Grouping.of(config.group_pattern, "group_pattern")
        grouping.require_match(config.root, [row["image"] for _, row in rows])
        entries = (_entry(source.name, line, row, grouping) for line, row in rows if row["object"] in chosen)
        return Draft(config.root, [Part.of(source.name, entries)], {source.name: source.sha256})


def _entry(source: str, line: int, row: dict[str, str | None], grouping: Grouping) -> Entry | Problem:
    category, split, label, image, mask = (row[name] or "" for name in _COLUMNS)
    if label not in _LABELS:
        return Problem(source, line, image, f"unknown label {label!r}; VisA's are normal and anomaly")
    known = _LABELS[label], None, mask or None
    return Entry(line, image, category, split, *known, grouping.group(category, image))
