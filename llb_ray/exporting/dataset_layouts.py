"""The purified images as a data set that other tools read: kept ones to train on, labelled test images to test with.

Every layout has the same tree below it, MVTec's, in which the paths of a table or list are relative::

    train/good/<name>   test/good/<name>   test/<defect>/<name>   ground_truth/<defect>/<stem>_mask.png

Kept images count as good, which is what they were trained on as.  Files are hard links unless copies are asked for:
tools that resolve symbolic links would look for the neighbours of the original.  A base name that another file of the
same folder has, whatever its ending or case, gets the first digits of the image's id; what cannot be a name on every
file system, or would leave the tree, is spelt otherwise (`names.component`).  The folder is filled under another name
beside it and renamed at the end: it is complete or absent, and an export that was stopped is simply run again.
"""

import contextlib
import csv
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as parquet

from llb_ray.data.candidate_files import GOOD
from llb_ray.data.decoding import content_id
from llb_ray.data.layout import MASKS
from llb_ray.data.manifest import IMAGES, MANIFEST, TEST, TRAIN, path_from_text
from llb_ray.data.tables import join_by_image
from llb_ray.disk import json_bytes
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.ensemble.held_out_scores import split
from llb_ray.errors import DataError
from llb_ray.names import component

Layout = Literal["anomalib-csv", "mvtec-tree", "real-iad-json", "parquet"]
_ID_DIGITS = 8  # enough to tell files of one name apart
_OK = "OK"  # what Real-IAD calls good
_UNFINISHED = ".llb-export"


@dataclass(frozen=True)
class Item:
    """An image of the data set: where it is, and where it goes."""

    row: dict[str, Any]  # image_id, path, category, split, label, defect_type, mask_path
    name: str  # base name in the tree

    @property
    def kind(self) -> str:
        """``good``, or the defect's type as the run's folders spelt it, as far as a folder may be called that."""
        if not self.row["label"]:
            return GOOD
        return component(path_from_text(self.row["defect_type"] or "anomalous"), reserved=(GOOD, _OK.lower()))

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
    """Outcome of an export."""

    path: Path  # the table or list; the folder, of a layout that has none
    num_train: int
    num_test: int

    def sentence(self) -> str:
        """Summary of the export in one sentence."""
        return f"{self.path}: {self.num_train} kept images to train on, {self.num_test} labelled to test"


def export_set(run: FinishedRun, layout: Layout, out: Path, copy: bool = False) -> ExportedSet:
    """Write the purified data set to the new or empty folder `out`.

    Raises DataError if `out` holds files, an image of the run is gone, or links cannot be made there.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: holds files already; choose a new or empty folder for --out")
    items = _named(_rows(run))
    with _made_whole(out) as unfinished:
        category = component(path_from_text(items[0].row["category"]))
        tree = unfinished / category if layout == "real-iad-json" else unfinished
        for item in items:
            _fill(run.root, item, tree, copy)
        index = _INDEX[layout](tree, items)
    num_train = sum(item.row["split"] == TRAIN for item in items)
    return ExportedSet(out / index.relative_to(unfinished), num_train, len(items) - num_train)


@contextlib.contextmanager
def _made_whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` at the end; what a killed export left there is removed."""
    out = Path(os.path.abspath(out))
    unfinished = out.with_name(f".{out.name}{_UNFINISHED}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        os.rename(unfinished, out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _fill(root: Path, item: Item, tree: Path, copy: bool) -> None:
    """Have the image, and its mask, in the tree; raises DataError for an image that is not the run's any more."""
    source = root / path_from_text(item.row["path"])
    if source.is_file() and content_id(source) != item.row["image_id"]:
        raise DataError(f"{source}: the image changed since the run; put it back, or run again")
    _place(source, tree / item.image, copy)
    if item.mask:
        _place(root / path_from_text(item.row["mask_path"]), tree / item.mask, copy)


def _rows(run: FinishedRun) -> list[dict[str, Any]]:
    """The kept images, as good ones, and the test images with a label."""
    kept, _ = split(run.purified)
    test = join_by_image(run.images, run.labels).filter((pc.field("split") == TEST) & pc.field("label").is_valid())
    nothing = {"label": 0, "defect_type": None, "mask_path": None}
    rows = [row | nothing for row in kept.select(IMAGES.names).to_pylist()]
    return rows + list(test.select(MANIFEST.names).to_pylist())


def _named(rows: Sequence[dict[str, Any]]) -> list[Item]:
    """The rows with names that are unique in their folders."""
    items = [Item(row, component(PurePosixPath(path_from_text(row["path"])).name)) for row in rows]
    times = Counter(_stem(item) for item in items)
    return [item if times[_stem(item)] == 1 else Item(item.row, _with_id(item)) for item in items]


def _stem(item: Item) -> tuple[str, str, str]:
    """Unique part of a file name: masks have the stem alone, and some file systems ignore case."""
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
    """Table that anomalib's `Tabular` reads."""
    with (tree / "dataset.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image_path", "label_index", "split", "mask_path"])
        rows = ([item.image, item.row["label"], item.row["split"], item.mask or ""] for item in items)
        writer.writerows(rows)
    return tree / "dataset.csv"


def _as_json(tree: Path, items: Sequence[Item]) -> Path:
    """A category's file of Real-IAD's official splits."""
    entries: dict[str, list[dict[str, Any]]] = {TRAIN: [], TEST: []}
    for item in items:
        kind = item.kind if item.row["label"] else _OK
        paths = {"image_path": item.image, "mask_path": item.mask}
        entries[item.row["split"]].append({"category": tree.name, "anomaly_class": kind, **paths})
    meta = {"prefix": f"{tree.name}/", "normal_class": _OK, "pre_transform": False}
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
