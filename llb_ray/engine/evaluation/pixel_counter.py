"""Maps against masks: at once where a test set is small, else by workers who count, so that no one holds all maps.

Pixels are counted by kind of defect: those of all kinds add up to the whole, those of one kind and of the normal images
to what is said of that kind.

An anomalous image without a mask, or whose mask is empty, has an unknown pixel truth and is left out.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.artifacts import Artifact, Recipe, digest
from llb_ray.data.mask_files import read_mask
from llb_ray.data.tables import read_batches, read_table, write_table
from llb_ray.detectors.base import row_batches
from llb_ray.engine import filenames
from llb_ray.engine.evaluation.ground_truth import NORMAL, KnownImage
from llb_ray.engine.execution.heartbeat import Heartbeat
from llb_ray.engine.execution.protocols import WorkerContext, owned_threads
from llb_ray.engine.pixel_grid import PixelGrid
from llb_ray.metrics.streaming_pixel import PixelCounts

SHARD_PIXELS = 2**27  # counted together: some twenty seconds of work, and at most 28 MiB of counts of each kind
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """The pixels on which maps and masks are compared."""

    of_maps: PixelGrid
    max_pixels: int  # of a mask's file

    def pixels(self, known: Sequence[KnownImage], map_NHW: Floats) -> "Pixels":
        """Pixels of these images to compare; raises DataError for a mask that is not readable."""
        masks = [self._mask(image) for image in known]
        rows = [row for row, image in enumerate(known) if masks[row].any() or image.kind == NORMAL]
        used = set(rows)
        left_out = [image.image_id for row, image in enumerate(known) if row not in used]
        if not rows:
            return Pixels(*self._none(), [], left_out, None)
        image_ids, kinds = [known[row].image_id for row in rows], [known[row].kind for row in rows]
        map_NHW, mask_NHW = self.of_maps.smooth_each(image_ids, map_NHW[rows]), np.stack([masks[row] for row in rows])
        return Pixels(map_NHW, mask_NHW, kinds, left_out, self.of_maps.seen(image_ids))

    def _none(self) -> tuple[Floats, Bools]:
        """Maps and masks of no image."""
        nothing_NHW = np.zeros((0, *self.of_maps.size), np.float32)
        return nothing_NHW, nothing_NHW.astype(bool)

    def _mask(self, image: KnownImage) -> Bools:
        if image.mask is None:
            return np.zeros(self.of_maps.size, dtype=bool)
        mask_HW = read_mask(image.mask, self.of_maps.size, self.max_pixels)
        return self.of_maps.of_image(image.image_id).inspected(mask_HW)


@dataclass(frozen=True)
class Pixels:
    """Smoothed maps and masks of the images whose pixel truth is known, and the ids of the others."""

    map_NHW: Floats
    mask_NHW: Bools
    kinds: list[str]  # of defects, one for each image
    left_out: list[str]
    seen_NHW: Bools | None  # the pixels that are compared; None: all

    def by_kind(self) -> Iterator[tuple[str, Floats, Bools, Bools | None]]:
        """Each kind, the maps and masks of its images, and the pixels that are compared."""
        for kind in sorted(set(self.kinds)):
            chosen_N = np.array(self.kinds) == kind
            seen_NHW = None if self.seen_NHW is None else self.seen_NHW[chosen_N]
            yield kind, self.map_NHW[chosen_N], self.mask_NHW[chosen_N], seen_NHW


@dataclass(frozen=True)
class PixelShard:
    """Some test images, the score shards that hold their maps, and the artifact that holds the counts."""

    known: Mapping[str, KnownImage]  # by image_id
    scored: tuple[Artifact, ...]
    recipe: Recipe


def pixel_shards(known: Mapping[str, KnownImage], scored: Sequence[Artifact], grid: Grid) -> Iterator[PixelShard]:
    """The score shards with known images in them, as many together as have `SHARD_PIXELS`."""
    images: dict[str, KnownImage] = {}
    holders: list[Artifact] = []
    for artifact in scored:
        ids = read_table(artifact.file(filenames.SCORES))["image_id"].to_pylist()
        here = {image_id: known[image_id] for image_id in ids if image_id in known}
        if here:
            images |= here
            holders.append(artifact)
        if len(images) * grid.of_maps.num_pixels >= SHARD_PIXELS:
            yield _shard(images, holders, grid)
            images, holders = {}, []
    if images:
        yield _shard(images, holders, grid)


def _shard(images: Mapping[str, KnownImage], holders: Sequence[Artifact], grid: Grid) -> PixelShard:
    truth = {image_id: [image.kind, image.mask_digest] for image_id, image in images.items()}
    inputs = {f"scores-{index:03d}": artifact.content for index, artifact in enumerate(holders)}
    if grid.of_maps.masks is not None:  # of these images alone
        inputs |= grid.of_maps.masks.inputs(images)
    settings = replace(grid.of_maps, masks=None).settings
    recipe = Recipe("pixels", settings, inputs | {"truth": digest(truth)})
    return PixelShard(images, tuple(holders), recipe)


@dataclass(frozen=True)
class EvaluatorSpec:
    """One worker's part of the comparison."""

    name: str
    context: WorkerContext
    grid: Grid
    shards: tuple[PixelShard, ...]

    @property
    def title(self) -> str:
        return self.name


class Evaluator:
    """Counts the pixels of some shards of test images; needs no GPU."""

    STEPS: ClassVar[tuple[str, ...]] = ("count",)

    def __init__(self, spec: EvaluatorSpec) -> None:
        self._spec = spec
        self._store = spec.context.store
        self._heartbeat = Heartbeat(spec.context, spec.name)

    def __repr__(self) -> str:
        return f"Evaluator({self._spec.name})"

    def count(self) -> None:
        """Every shard of this worker is a finished artifact afterwards; an unreadable mask is a DataError."""
        todo = [shard for shard in self._spec.shards if self._store.find(shard.recipe) is None]
        if not todo:
            return
        total, done = sum(len(shard.known) for shard in todo), 0
        report = partial(self._heartbeat.report("count"), total=total, unit="images")
        with owned_threads(self._spec.context.resources):
            for shard in todo:
                with self._store.building(shard.recipe) as folder:
                    if folder is not None:
                        self._write(folder, shard, done, report)
                done += len(shard.known)
                report(done)

    def _write(self, folder: Path, shard: PixelShard, done: int, report: Callable[[int], None]) -> None:
        counts, left_out = defaultdict(PixelCounts, {NORMAL: PixelCounts()}), list[str]()
        for known, raw_NHW in _batches(shard, self._spec.grid.of_maps.images_at_once):
            pixels = self._spec.grid.pixels(known, raw_NHW)
            for kind, map_NHW, mask_NHW, seen_NHW in pixels.by_kind():
                counts[kind].add(map_NHW, mask_NHW, seen_NHW)
            left_out += pixels.left_out
            done += len(known)
            report(done)
        write_table(folder / filenames.PIXEL_COUNTS, pa.concat_tables(starmap(_named, sorted(counts.items()))))
        write_table(folder / filenames.LEFT_OUT, pa.table({"image_id": pa.array(left_out, pa.string())}))


def _batches(shard: PixelShard, size: int) -> Iterator[tuple[list[KnownImage], Floats]]:
    """The images of a shard with their maps, `size` at a time."""
    for artifact in shard.scored:
        for batch in read_batches(artifact.file(filenames.SCORES)):
            ids = batch.column("image_id").to_pylist()
            known_rows = np.array([row for row, image_id in enumerate(ids) if image_id in shard.known])
            map_NHW = batch.column("map").to_numpy_ndarray()
            for chosen in row_batches(len(known_rows), size):
                rows = known_rows[chosen]
                yield [shard.known[ids[row]] for row in rows], map_NHW[rows]


def _named(kind: str, counts: PixelCounts) -> pa.Table:
    table = counts.to_table()
    return table.append_column("kind", pa.repeat(kind, len(table)))


def merge_counts(counted: Sequence[Artifact]) -> tuple[dict[str, PixelCounts], int]:
    """The counts of all shards by kind of defect, and how many images were left out."""
    counts, num_left_out = defaultdict[str, PixelCounts](PixelCounts), 0
    for artifact in counted:
        table = read_table(artifact.file(filenames.PIXEL_COUNTS))
        for kind in pc.unique(table["kind"]).to_pylist():
            counts[kind].merge(PixelCounts.of_table(table.filter(pc.field("kind") == kind)))
        num_left_out += read_table(artifact.file(filenames.LEFT_OUT)).num_rows
    return counts, num_left_out
