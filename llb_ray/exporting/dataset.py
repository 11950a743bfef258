"""The purified images as a data set that other tools read: kept ones to train on, labelled test images to test with.

Every layout has the same tree below it, MVTec's, in which the paths of a table or list are relative::

    train/good/<name>   test/good/<name>   test/<defect>/<name>   ground_truth/<defect>/<stem>_mask.png

Kept images count as good, which is what they were trained on as.  Files are hard links unless copies are asked for:
tools that resolve symbolic links would look for the neighbours of the original.  A base name that another file of the
same folder has, whatever its ending or case, gets the first digits of the image's id.
"""

import csv
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as parquet

from llb_ray.data.files import GOOD
from llb_ray.data.layout import MASKS
from llb_ray.data.manifest import IMAGES, MANIFEST, TEST, TRAIN, path_from_text
from llb_ray.data.tables import joined, read_table
from llb_ray.disk import json_bytes
from llb_ray.engine import files
from llb_ray.engine.finished import FinishedRun
from llb_ray.ensemble.held_out import split
from llb_ray.errors import DataError

Layout = Literal["anomalib-csv", "mvtec-tree", "real-iad-json", "parquet"]
_ID_DIGITS = 8  # enough to tell files of one name apart


@dataclass(frozen=True)
class Item:
    """An image of the data set: where it is, and where it goes."""

    row: dict[str, Any]  # image_id, path, category, split, label, defect_type, mask_path
    name: str  # base name in the tree

    @property
    def kind(self) -> str:
        """``good``, or the defect's type as the run's folders spelt it."""
        return GOOD if not self.row["label"] else path_from_text(self.row["defect_type"] or "anomalous")

    @property
    def image(self) -> str:
        """The image's path in the tree."""
        return f"{self.row['split']}/{self.kind}/{self.name}"

    @property
    def mask(self) -> str | None:
        """The path of its mask in the tree, if it has one."""
        return f"{MASKS}/{self.kind}/{PurePosixPath(self.name).stem}_mask.png" if self.row["mask_path"] else None


@dataclass(frozen=True)
class ExportedSet:
    """What was written."""

    path: Path  # the table or list; the folder, of a layout that has none
    num_train: int
    num_test: int

    def sentence(self) -> str:
        """What was done, for people."""
        return f"{self.path}: {self.num_train} kept images to train on, {self.num_test} labelled to test"


def export_set(run: FinishedRun, layout: Layout, out: Path, copy: bool = False) -> ExportedSet:
    """Write the purified data set to the new or empty folder `out`.

    Raises DataError if `out` holds files, an image of the run is gone, or links cannot be made there.
    """
    if out.is_dir() and any(out.iterdir()):
        raise DataError(f"{out}: holds files already; choose a new or empty folder for --out")
    items = _named(_rows(run))
    tree = out / path_from_text(items[0].row["category"]) if layout == "real-iad-json" else out
    for item in items:
        _place(run.root / path_from_text(item.row["path"]), tree / item.image, copy)
        if item.mask:
            _place(run.root / path_from_text(item.row["mask_path"]), tree / item.mask, copy)
    num_train = sum(item.row["split"] == TRAIN for item in items)
    return ExportedSet(_INDEX[layout](tree, items), num_train, len(items) - num_train)


def _rows(run: FinishedRun) -> list[dict[str, Any]]:
    """The kept images, as good ones, and the test images with a label."""
    kept, _ = split(run.purified)
    labels = read_table(run.made.labels.file(files.LABELS))
    test = joined(run.images, labels).filter((pc.field("split") == TEST) & pc.field("label").is_valid())
    nothing = {"label": 0, "defect_type": None, "mask_path": None}
    rows = [row | nothing for row in kept.select(IMAGES.names).to_pylist()]
    return rows + list(test.select(MANIFEST.names).to_pylist())


def _named(rows: Sequence[dict[str, Any]]) -> list[Item]:
    """The rows with names that are unique in their folders."""
    items = [Item(row, PurePosixPath(path_from_text(row["path"])).name) for row in rows]
    times = Counter(_stem(item) for item in items)
    return [item if times[_stem(item)] == 1 else Item(item.row, _with_id(item)) for item in items]


def _stem(item: Item) -> tuple[str, str, str]:
    """What must be unique: masks have the stem alone, and some file systems do not tell cases apart."""
    return item.row["split"], item.kind.lower(), PurePosixPath(item.name).stem.lower()


def _with_id(item: Item) -> str:
    name = PurePosixPath(item.name)
    return f"{name.stem}-{item.row['image_id'][:_ID_DIGITS]}{name.suffix}"


def _place(source: Path, target: Path, copy: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if copy:
            shutil.copyfile(source, target)
        else:
            os.link(os.path.realpath(source), target)
    except FileNotFoundError as error:
        raise DataError(f"{source}: the image is gone; name its new place with --data") from error
    except OSError as error:
        if copy:
            raise
        raise DataError(f"{target}: no link can be made there ({error.strerror}); take --copy") from error


def _as_tree(tree: Path, items: Sequence[Item]) -> Path:
    return tree


def _as_csv(tree: Path, items: Sequence[Item]) -> Path:
    """What anomalib's `Tabular` reads."""
    with (tree / "dataset.csv").open("w", newline="", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["image_path", "label_index", "split", "mask_path"])
        writer.writerows([item.image, item.row["label"], item.row["split"], item.mask or ""] for item in items)
    return tree / "dataset.csv"


def _as_json(tree: Path, items: Sequence[Item]) -> Path:
    """A category's file of Real-IAD's official splits."""
    entries: dict[str, list[dict[str, Any]]] = {TRAIN: [], TEST: []}
    for item in items:
        kind = item.kind if item.row["label"] else "OK"
        paths = {"image_path": item.image, "mask_path": item.mask}
        entries[item.row["split"]].append({"category": tree.name, "anomaly_class": kind, **paths})
    meta = {"prefix": f"{tree.name}/", "normal_class": "OK", "pre_transform": False}
    path = tree.with_name(f"{tree.name}.json")
    path.write_bytes(json_bytes({"meta": meta, **entries}))
    return path


def _as_parquet(tree: Path, items: Sequence[Item]) -> Path:
    """The table that Hugging Face's `imagefolder` looks for."""
    rows = [{"file_name": item.image, **item.row, "mask_path": item.mask} for item in items]
    parquet.write_table(pa.Table.from_pylist(rows, _PARQUET), tree / "metadata.parquet")
    return tree / "metadata.parquet"


_PARQUET = pa.schema([pa.field("file_name", pa.string(), nullable=False), *MANIFEST])
_INDEX: dict[Layout, Callable[[Path, Sequence[Item]], Path]] = {
    "anomalib-csv": _as_csv,
    "mvtec-tree": _as_tree,
    "real-iad-json": _as_json,
    "parquet": _as_parquet,
}
