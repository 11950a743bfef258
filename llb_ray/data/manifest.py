"""The manifest: which images there are, their ids, and what was quarantined.

An `image_id` is the first 128 bits of the sha256 of the file's bytes, in hex.  Rows are kept in `image_id`
order, which neither the names nor the labels of the files can influence.  Labels, defect types and masks live in
the same table for the user's convenience, but everything before evaluation is handed `unlabelled()`.

Paths are POSIX and relative to the root.  A byte of a name that is not UTF-8 is written ``\\xNN`` and a literal
backslash ``\\\\``, so every name survives the trip through Arrow, CSV and HTML (`path_text`, `path_from_text`).
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather

from llb_ray.data.tables import DAMAGED, validate
from llb_ray.errors import DataError

TRAIN, TEST = "train", "test"

IMAGES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),  # one photographed object; never split over members
        pa.field("split", pa.string(), nullable=False),  # "train" or "test"
    ]
)
LABELS = pa.schema(
    [
        pa.field("label", pa.int8()),  # 0 normal, 1 anomalous, null unknown
        pa.field("defect_type", pa.string()),
        pa.field("mask_path", pa.string()),
    ]
)
MANIFEST = pa.schema([*IMAGES, *LABELS])
_LEAVING = "(^|/)[.][.](/|$)|\\x00"
QUARANTINE = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)

NEAR = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("near_id", pa.string(), nullable=False),  # the image that it is a near duplicate of
        pa.field("distance", pa.float64(), nullable=False),  # of their signatures (`llb_ray.data.near_duplicates`)
    ]
)


def path_text(path: str) -> str:
    r"""The path as Arrow text: bytes that are not UTF-8 become ``\xNN``, a backslash becomes two.

    >>> path_text("a\\b") == "a\\\\b" and path_text("caf\udce9.png") == "caf\\xe9.png"
    True
    """
    if path.isascii() and "\\" not in path:
        return path  # nearly all: a data set has a hundred thousand
    escaped = path.replace("\\", "\\\\")
    return os.fsencode(escaped).decode("utf-8", "backslashreplace")


def path_from_text(text: str) -> str:
    """The file-system path that `path_text` wrote as `text`."""
    return re.sub(
        r"\\(\\|x([89a-f][0-9a-f]))",
        lambda match: "\\" if match[2] is None else chr(0xDC00 + int(match[2], 16)),
        text,
    )


def without_normal(table: pa.Table) -> list[str]:
    """A sentence for every category of a table with labels whose training images are none of them labelled as normal.

    None for one in which nothing is labelled: that is how photographs usually come.
    """
    labels = dict[str, set[int]]()
    train = table.filter(pc.and_(pc.equal(table["split"], TRAIN), pc.is_valid(table["label"])))
    for category, label in zip(train["category"].to_pylist(), train["label"].to_pylist(), strict=True):
        labels.setdefault(category, set()).add(label)
    return [
        f"{category}: all labelled training images are anomalous, none is normal; check the names of the folders, or "
        "the labels in the table"
        for category, found in sorted(labels.items())
        if 0 not in found
    ]


def refuse_leaving(where: Path, table: pa.Table) -> None:
    """Raise DataError for a path in the table of the file `where` that leaves the folder which it is relative to.

    A test image's may be absolute: a search is judged by images from anywhere.
    """
    elsewhere = pc.equal(table["split"], TEST) if "split" in table.column_names else pa.scalar(False)
    for name, may_be_absolute in (("path", elsewhere), ("mask_path", pa.scalar(False))):
        if name in table.column_names:
            absolute = pc.and_not(pc.starts_with(table[name], "/"), may_be_absolute)
            leaving = table[name].filter(pc.or_(absolute, pc.match_substring_regex(table[name], _LEAVING)))
            if len(leaving):
                raise DataError(f"{where}: {leaving[0].as_py()!r} leaves the images' folder; do not use this file")


@dataclass(frozen=True)
class Manifest:
    """The images under `root` (schema `MANIFEST`, in image_id order), what was quarantined (`QUARANTINE`), and which of
    the images are near duplicates (`NEAR`)."""

    root: Path
    table: pa.Table
    quarantine: pa.Table
    near: pa.Table

    @classmethod
    def of(
        cls, root: Path, table: pa.Table, quarantine: pa.Table | None = None, near: pa.Table | None = None
    ) -> "Manifest":
        """A checked manifest in canonical order; raises DataError for duplicate ids or unknown splits."""
        table = table.select(MANIFEST.names).cast(MANIFEST).sort_by("image_id").combine_chunks()
        ids = table["image_id"]
        if pc.count_distinct(ids).as_py() != len(ids):
            raise DataError(f"{root}: the manifest names an image_id twice; keep one row per distinct content")
        unknown = set(table["split"].to_pylist()) - {TRAIN, TEST}
        if unknown:
            raise DataError(f"{root}: unknown split {sorted(unknown)[0]!r} in the manifest; use 'train' or 'test'")
        if set(table["label"].unique().to_pylist()) - {0, 1, None}:
            raise DataError(f"{root}: a label in the manifest is neither 0, 1 nor empty; correct it")
        aside = QUARANTINE.empty_table() if quarantine is None else quarantine.cast(QUARANTINE)
        aside = aside.sort_by([("split", "ascending"), ("path", "ascending")])
        alike = NEAR.empty_table() if near is None else near.cast(NEAR)
        here = pc.and_(*(pc.is_in(alike[name], ids.combine_chunks()) for name in ("image_id", "near_id")))
        return cls(Path(root), table, aside, alike.filter(here).sort_by("image_id").combine_chunks())

    def split(self, name: str) -> pa.Table:
        """The rows of one split, labels and all."""
        return self.table.filter(pc.equal(self.table["split"], name))

    def image_ids(self, split: str) -> list[str]:
        """The ids of one split, in canonical order."""
        ids: list[str] = self.split(split)["image_id"].to_pylist()
        return ids

    def unlabelled(self) -> pa.Table:
        """The table that purification and training may see: no label, no defect type, no mask."""
        return self.table.select(IMAGES.names)

    def save(self, path: Path) -> None:
        """Write the images table, with quarantine and near duplicates beside it, as Arrow files any tool can open."""
        feather.write_feather(self.table, path, compression="uncompressed")
        for table, suffix in ((self.quarantine, ".quarantine.arrow"), (self.near, ".near.arrow")):
            feather.write_feather(table, path.with_suffix(suffix), compression="uncompressed")

    @classmethod
    def load(cls, path: Path, root: Path) -> "Manifest":
        """The manifest that `save` wrote; raises DataError if the file is not one."""
        try:
            suffixes = ".quarantine.arrow", ".near.arrow"
            table = validate(feather.read_table(path))
            quarantine, near = (validate(feather.read_table(path.with_suffix(suffix))) for suffix in suffixes)
        except (OSError, *DAMAGED) as error:
            raise DataError(f"{path}: not a readable manifest ({error})") from error
        if (table.schema, quarantine.schema, near.schema) != (MANIFEST, QUARANTINE, NEAR):
            raise DataError(f"{path}: not a manifest of this version (its columns differ); build it again")
        return cls.of(root, table, quarantine, near)
