"""The stages of what goes into a run: its images and labels, their partition, and what they are measured by and with.

All of them are quick, and come before the long stages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.artifacts import Artifact, Recipe, digest
from llb_ray.config import RunConfig
from llb_ray.data.ignored_regions import Ignored
from llb_ray.data.image_masks import IgnoredPixels
from llb_ray.data.manifest import LABELS, TRAIN, Manifest
from llb_ray.data.mask_folders import MaskFolders
from llb_ray.data.near_duplicates import near_with_paths
from llb_ray.data.tables import read_table, write_table
from llb_ray.engine import filenames
from llb_ray.engine.features.ignored_pixels import (
    DrawnMasks,
    ignored_recipe,
    masks_recipe,
    read_ignored,
    refuse_common_cells,
    write_ignored,
)
from llb_ray.engine.features.measured_bands import scale_recipe, write_scale
from llb_ray.engine.features.measured_levels import have_16_bits, levels_recipe, read_levels, write_levels
from llb_ray.engine.pipeline.recipes import (
    extended_recipe,
    labels_recipe,
    lot_recipe,
    manifest_recipe,
    partition_recipe,
)
from llb_ray.engine.rundir.stage_timer import StageTimer
from llb_ray.ensemble.partition import extend_partition, partition
from llb_ray.errors import DataError


@dataclass(frozen=True)
class Base:
    """The part of a run that stays in the runs that update it: what its members learnt from, and its scales."""

    lots: Sequence[pa.Table]  # images (schema `IMAGES`), the first those of the run, and then each update's
    partition: Artifact | None  # of the first
    bands: Artifact | None
    levels: Artifact | None


@dataclass(frozen=True)
class InputStages:
    """The input stages of one run."""

    config: RunConfig
    manifest: Manifest
    timer: StageTimer
    drawn_from: pa.Table | None = None  # the pool of images (schema `IMAGES`) that this run and others draw theirs from
    base: Base | None = None  # of a run that was updated

    def images(self) -> Artifact:
        """The images that take part, without labels, and the quarantined files."""
        images, quarantine = self.manifest.unlabelled(), self.manifest.quarantine

        def build(folder: Path) -> None:
            write_table(folder / filenames.IMAGES, images)
            write_table(folder / filenames.QUARANTINE, quarantine)

        return self.timer.make(manifest_recipe(images, quarantine), build)

    def near(self) -> Artifact | None:
        """Near duplicates with their paths; None where there are none."""
        near = near_with_paths(self.manifest)
        if not near.num_rows:
            return None
        recipe = Recipe("near-duplicates", {}, {"near": digest(near.to_pylist())})
        return self.timer.make(recipe, lambda folder: write_table(folder / filenames.NEAR, near))

    def pool(self) -> Artifact | None:
        """The images that this run and others draw theirs from, if they do: it says how features are cut."""
        pool = self.drawn_from
        if pool is None:
            return None
        recipe = Recipe("pool", {}, {"images": digest(pool.to_pylist())})
        return self.timer.make(recipe, lambda folder: write_table(folder / filenames.IMAGES, pool))

    def labels(self) -> Artifact:
        """Known labels; read by `evaluate` and by the oracle alone."""
        labels = self.manifest.table.select(["image_id", "split", *LABELS.names])
        return self.timer.make(labels_recipe(labels), lambda folder: write_table(folder / filenames.LABELS, labels))

    def partition(self) -> Artifact:
        """Each training image's member."""
        image_ids, groups = (self.train_images[name].to_pylist() for name in ("image_id", "group"))
        if self.base is not None and self.base.partition is not None:
            return self._extended(self.base.partition, image_ids, groups)
        recipe = partition_recipe(self.config, image_ids, groups)

        def build(folder: Path) -> None:
            table = partition(image_ids, groups, self.config.num_members, self.config.seed)
            write_table(folder / filenames.PARTITION, table)

        return self.timer.make(recipe, build)

    def _extended(self, base: Artifact, image_ids: Sequence[str], groups: Sequence[str]) -> Artifact:
        def build(folder: Path) -> None:
            table = extend_partition(read_table(base.file(filenames.PARTITION)), image_ids, groups)
            write_table(folder / filenames.PARTITION, table)

        return self.timer.make(extended_recipe(self.config, base, image_ids, groups), build)

    def lots(self) -> list[Artifact]:
        """The images by the time that they came; none of a run that was not updated."""

        def build(folder: Path, lot: pa.Table) -> None:
            write_table(folder / filenames.IMAGES, lot)

        lots = self.base.lots if self.base else ()
        return [self.timer.make(lot_recipe(lot), partial(build, lot=lot)) for lot in lots]

    def bands(self) -> Artifact | None:
        """The scale of each band over the training images; None where these are photographs."""
        if self.base is not None:
            return self.base.bands
        data, paths = self.config.data, self._train_paths
        if data.bands is None:
            return None
        build = partial(write_scale, root=self.manifest.root, paths=paths, bands=data.bands, max_pixels=data.max_pixels)
        return self.timer.make(scale_recipe(data.bands, list(paths)), build)

    def levels(self) -> Artifact | None:
        """The black and white point of 16-bit training images; None where none has 16 bits, and for bands."""
        if self.base is not None:
            return self._base_levels(self.base)
        paths, root = self._train_paths, self.manifest.root
        if self.config.data.bands is not None or not have_16_bits(root, paths):
            return None
        build = partial(write_levels, root=root, paths=paths, max_pixels=self.config.data.max_pixels)
        made = self.timer.make(levels_recipe(list(paths)), build)
        levels = read_levels(made)
        if levels is not None:
            self.timer.tell(f"note: {levels.note()}")
        return made

    def _base_levels(self, base: Base) -> Artifact | None:
        photographs = self.config.data.bands is None
        if base.levels is None and photographs and have_16_bits(self.manifest.root, self._train_paths):
            raise DataError("some new images have 16 bits, and the run has no levels for such; make a new run of all")
        return base.levels

    @cached_property
    def ignored(self) -> Artifact | None:
        """The pixels that are not looked at, of all photographs or of each, kept with the run; None where all are."""
        config, size = self.config, self.config.detector.size
        if (folders := MaskFolders.of(config.data, size)) is not None:
            return self._masks(folders)
        if (ignored := Ignored.of(config.data, size)) is None:
            return None
        return self.timer.make(ignored_recipe(ignored), partial(write_ignored, ignored=ignored))

    def _masks(self, folders: MaskFolders) -> Artifact:
        refuse_common_cells(self.config)
        drawn = DrawnMasks(folders, self.manifest.unlabelled() if self.drawn_from is None else self.drawn_from)
        drawn.refuse_unlike_copies(self.manifest.root, self.manifest.quarantine["path"].to_pylist())
        if drawn.num_whole:
            self.timer.tell(
                f"note: {drawn.num_whole} photographs have no mask in {folders.names} and are looked at whole"
            )
        return self.timer.make(masks_recipe(drawn.keys), drawn.write)

    @cached_property
    def ignored_pixels(self) -> IgnoredPixels | None:
        """The same, ready to be used."""
        return read_ignored(self.ignored, self.config)

    @cached_property
    def train_images(self) -> pa.Table:
        """The training split without labels: all that the stages before `evaluate` ever see."""
        images = self.manifest.unlabelled()
        return images.filter(pc.equal(images["split"], TRAIN))

    @cached_property
    def _train_paths(self) -> dict[str, str]:
        """The path of each training image."""
        images = self.train_images
        return dict(zip(images["image_id"].to_pylist(), images["path"].to_pylist(), strict=True))
