"""Canaries: training images held back, and copies of them with a planted defect, to judge a detector without labels.

The held-back originals are as contaminated as the rest of the training set; an objective has to bear that.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from llb_ray.artifacts import Recipe, Store, digest
from llb_ray.config import RunConfig
from llb_ray.data.decoding import content_id, read_rgb
from llb_ray.data.levels import Levels
from llb_ray.data.manifest import MANIFEST, TEST, TRAIN, Manifest, path_from_text, path_text
from llb_ray.data.tables import read_table, write_table
from llb_ray.data.unreadable_files import UnreadableImage
from llb_ray.engine.features.measured_levels import measure_levels
from llb_ray.engine.rundir.output_guard import refuse_inside
from llb_ray.errors import ConfigError, DataError
from llb_ray.search.synthetic_defects import KINDS, plant_defect
from llb_ray.seeding import stream

RECORD = "canaries.arrow"  # beside the pictures
CANARIES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # image_id of the held-back original
        pa.field("file", pa.string(), nullable=False),  # in the record's own folder
        pa.field("kind", pa.string(), nullable=False),
    ]
)
LEAST_HELD_BACK = 8
_VERSION = 1  # raise it when the same images would get other defects


def with_canaries(manifest: Manifest, out: Path, config: RunConfig, seed: int, share: float = 0.15) -> Manifest:
    """The training images less a `share` held back; as test split, those and a defective copy of each.  No labels.

    Whole groups are held back, drawn by `seed`.  The copies and their record (schema `CANARIES`) are in an artifact
    under `out`, made once: a second call with the same images reuses it.  Nothing of the manifest's test split is left.
    Raises DataError if there are too few images to hold any back, or one changed since the manifest was made, and
    ConfigError for images of several bands.
    """
    if config.data.bands is not None:
        raise ConfigError(
            f"data.bands={config.data.bands}: the objective canary plants defects in RGB photographs alone; choose "
            "--objective split_half, separation or val_auroc"
        )
    refuse_inside(manifest.root, out)
    train = without_test(manifest).table
    held_back = _held_back(train, seed, share)
    rows = train.filter(pc.is_in(train["image_id"], pa.array(sorted(held_back)))).to_pylist()
    levels = _levels(manifest.root, train, config)
    settings = {"seed": seed, "version": _VERSION, **({} if levels is None else {"levels": asdict(levels)})}
    recipe = Recipe("canaries", settings, {"images": digest([row["image_id"] for row in rows])})
    folder = Path(out).absolute()
    read = partial(_read, max_pixels=config.data.max_pixels, levels=levels)
    made = Store(folder).make(recipe, lambda path: _plant(path, manifest.root, rows, read, seed)).path
    tested = [{**row, "split": TEST} for row in [*rows, *_copies(made, rows)]]
    kept = [row for row in train.to_pylist() if row["image_id"] not in held_back]
    return Manifest.of(manifest.root, pa.Table.from_pylist(kept + tested, MANIFEST), without_test(manifest).quarantine)


def without_test(manifest: Manifest) -> Manifest:
    """The training images alone, without a label: all that a search may see of a manifest."""
    nothing = dict.fromkeys(set(MANIFEST.names) - set(manifest.unlabelled().column_names))
    images, quarantine = manifest.unlabelled(), manifest.quarantine
    rows = [{**row, **nothing} for row in images.filter(pc.equal(images["split"], TRAIN)).to_pylist()]
    aside = quarantine.filter(pc.equal(quarantine["split"], TRAIN))
    return Manifest.of(manifest.root, pa.Table.from_pylist(rows, MANIFEST), aside)


def _held_back(train: pa.Table, seed: int, share: float) -> set[str]:
    """The image ids of as many random groups as it takes for `share` of the images."""
    groups = defaultdict[str, list[str]](list)
    for image_id, group in zip(train["image_id"].to_pylist(), train["group"].to_pylist(), strict=True):
        groups[group].append(image_id)
    ordered = sorted(groups.values())  # by image_id: the spelling of a group's name must not matter
    wanted, chosen = round(share * train.num_rows), set[str]()
    for row in stream(seed, "canary", "held back").permutation(len(ordered)):
        if len(chosen) >= wanted:
            break
        chosen.update(ordered[row])
    if wanted < LEAST_HELD_BACK or len(chosen) == train.num_rows:
        raise DataError(
            f"{train.num_rows} training images in {len(ordered)} groups: too few to hold {LEAST_HELD_BACK} back for "
            "planted defects; add images or choose another objective"
        )
    return chosen


def _levels(root: Path, train: pa.Table, config: RunConfig) -> Levels | None:
    """The levels that a run on these images reads them on: the copies have 8 bits."""
    paths = dict(zip(train["image_id"].to_pylist(), train["path"].to_pylist(), strict=True))
    return measure_levels(root, paths, config.data.max_pixels)


def _plant(folder: Path, root: Path, rows: Sequence[dict[str, Any]], read: Callable[..., Any], seed: int) -> None:
    """Write a picture for each of `rows` and the record of all."""
    order = stream(seed, "canary", "kinds").permutation(len(rows))
    records = []
    for row, turn in zip(rows, order, strict=True):
        source = row["image_id"]
        image_HW3 = read(root / path_from_text(row["path"]), source)
        damaged_HW3, kind = plant_defect(image_HW3, KINDS[turn % len(KINDS)], stream(seed, "canary", source))
        file = f"{source}.png"
        Image.fromarray(damaged_HW3).save(folder / file)
        records.append({"image_id": content_id(folder / file), "source": source, "file": file, "kind": kind})
    write_table(folder / RECORD, pa.Table.from_pylist(records, CANARIES))


def _read(path: Path, image_id: str, max_pixels: int, levels: Levels | None) -> Any:
    try:
        if content_id(path) == image_id:
            return read_rgb(path, None, max_pixels, levels)
        problem = "its content changed since the manifest was made"
    except UnreadableImage as error:
        problem = error.reason
    raise DataError(f"{path}: {problem}; run the same command again to reread the folder")


def _copies(folder: Path, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Manifest rows of the pictures: their source's category and group, and an absolute path."""
    source = {row["image_id"]: row for row in rows}
    return [
        {**source[record["source"]], "image_id": record["image_id"], "path": path_text(str(folder / record["file"]))}
        for record in read_table(folder / RECORD).to_pylist()
    ]
