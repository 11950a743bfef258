"""The stages of a run; `stage_order.run_in_order` says in which order.

A stage reads the manifest and earlier artifacts, writes one, and is skipped where the artifact that its recipe names
is already there.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.artifacts import Artifact, Recipe, digest
from llb_ray.config import RunConfig
from llb_ray.data.ignored_regions import Ignored
from llb_ray.data.image_masks import Hidden
from llb_ray.data.manifest import LABELS, TRAIN, Manifest
from llb_ray.data.mask_folders import MaskFolders
from llb_ray.data.near_duplicates import near_with_paths
from llb_ray.data.tables import join_by_image, read_table, write_table
from llb_ray.disk import write_json
from llb_ray.engine import filenames
from llb_ray.engine.evaluation.evaluate import compute_metrics, evaluate_recipe, grid, image_scores, shards_to_count
from llb_ray.engine.evaluation.ground_truth import GroundTruth
from llb_ray.engine.evaluation.held_out_maps import HeldOutMaps, assign_images, mapping_detectors
from llb_ray.engine.features.cache_budget import Features
from llb_ray.engine.features.ignored_pixels import (
    DrawnMasks,
    ignored_recipe,
    masks_recipe,
    read_ignored,
    refuse_common_cells,
    write_ignored,
)
from llb_ray.engine.features.measured_bands import read_scale, scale_recipe, write_scale
from llb_ray.engine.features.measured_levels import have_16_bits, levels_recipe, read_levels, write_levels
from llb_ray.engine.pipeline.decision_stages import Decisions
from llb_ray.engine.pipeline.parallel_stages import ParallelStages
from llb_ray.engine.pipeline.recipes import (
    extended_recipe,
    labels_recipe,
    lot_recipe,
    manifest_recipe,
    matrix_recipe,
    partition_recipe,
)
from llb_ray.engine.pipeline.training_set import fold_ids, training_images, why_folds, without_fold
from llb_ray.engine.rundir.run_artifacts import DecisionArtifacts, MemberArtifacts
from llb_ray.engine.rundir.stage_timer import StageTimer
from llb_ray.engine.stage_keys import fit_settings
from llb_ray.engine.workers.fitter import member_name
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.ensemble.partition import extend_partition, partition, shares
from llb_ray.ensemble.score_matrix import assemble
from llb_ray.ensemble.trust import TRUSTED
from llb_ray.errors import DataError

FINAL = "final"  # the name of the final detector


class Folds(NamedTuple):
    """Detectors that are fitted without a fold each, and the scores of every training image by the one without it."""

    fitted: list[Artifact]
    scores: list[Artifact]


@dataclass(frozen=True)
class Base:
    """The part of a run that stays in the runs that update it: what its members learnt from, and its scales."""

    lots: Sequence[pa.Table]  # images (schema `IMAGES`), the first those of the run, and then each update's
    partition: Artifact | None  # of the first
    bands: Artifact | None
    levels: Artifact | None


@dataclass
class Stages:
    """The stages of one run; `parallel` runs the heavy ones."""

    config: RunConfig
    manifest: Manifest
    parallel: ParallelStages
    timer: StageTimer
    lost: Collection[int] = ()  # members that the run which this one amends did without
    base: Base | None = None  # of a run that was updated

    def images(self) -> Artifact:
        """The images that take part, without labels, and the quarantined files."""
        images, quarantine = self.manifest.unlabelled(), self.manifest.quarantine

        def build(folder: Path) -> None:
            write_table(folder / filenames.IMAGES, images)
            write_table(folder / filenames.QUARANTINE, quarantine)

        return self._make(manifest_recipe(images, quarantine), build)

    def near(self) -> Artifact | None:
        """Near duplicates with their paths; None where there are none."""
        near = near_with_paths(self.manifest)
        if not near.num_rows:
            return None
        recipe = Recipe("near-duplicates", {}, {"near": digest(near.to_pylist())})
        return self._make(recipe, lambda folder: write_table(folder / filenames.NEAR, near))

    def pool(self) -> Artifact | None:
        """The images that this run and others draw theirs from, if they do: it says how features are cut."""
        pool = self.parallel.pool
        if pool is None:
            return None
        recipe = Recipe("pool", {}, {"images": digest(pool.to_pylist())})
        return self._make(recipe, lambda folder: write_table(folder / filenames.IMAGES, pool))

    def labels(self) -> Artifact:
        """Known labels; read by `evaluate` and by the oracle alone."""
        labels = self.manifest.table.select(["image_id", "split", *LABELS.names])
        return self._make(labels_recipe(labels), lambda folder: write_table(folder / filenames.LABELS, labels))

    def partition(self) -> Artifact:
        """Each training image's member."""
        image_ids, groups = (self._train_images[name].to_pylist() for name in ("image_id", "group"))
        if self.base is not None and self.base.partition is not None:
            return self._extended(self.base.partition, image_ids, groups)
        recipe = partition_recipe(self.config, image_ids, groups)

        def build(folder: Path) -> None:
            table = partition(image_ids, groups, self.config.num_members, self.config.seed)
            write_table(folder / filenames.PARTITION, table)

        return self._make(recipe, build)

    def _extended(self, base: Artifact, image_ids: Sequence[str], groups: Sequence[str]) -> Artifact:
        def build(folder: Path) -> None:
            table = extend_partition(read_table(base.file(filenames.PARTITION)), image_ids, groups)
            write_table(folder / filenames.PARTITION, table)

        return self._make(extended_recipe(self.config, base, image_ids, groups), build)

    def lots(self) -> list[Artifact]:
        """The images by the time that they came; none of a run that was not updated."""

        def build(folder: Path, lot: pa.Table) -> None:
            write_table(folder / filenames.IMAGES, lot)

        lots = self.base.lots if self.base else ()
        return [self._make(lot_recipe(lot), partial(build, lot=lot)) for lot in lots]

    def bands(self) -> Artifact | None:
        """The scale of each band over the training images; None where these are photographs."""
        if self.base is not None:
            return self.base.bands
        data, paths = self.config.data, self._train_paths
        if data.bands is None:
            return None
        build = partial(write_scale, root=self.manifest.root, paths=paths, bands=data.bands, max_pixels=data.max_pixels)
        return self._make(scale_recipe(data.bands, list(paths)), build)

    def levels(self) -> Artifact | None:
        """The black and white point of 16-bit training images; None where none has 16 bits, and for bands."""
        if self.base is not None:
            return self._base_levels(self.base)
        paths, root = self._train_paths, self.manifest.root
        if self.config.data.bands is not None or not have_16_bits(root, paths):
            return None
        build = partial(write_levels, root=root, paths=paths, max_pixels=self.config.data.max_pixels)
        made = self._make(levels_recipe(list(paths)), build)
        levels = read_levels(made)
        if levels is not None:
            self.timer.tell(f"note: {levels.note()}")
        return made

    @cached_property
    def ignored(self) -> Artifact | None:
        """The pixels that are not looked at, of all photographs or of each, kept with the run; None where all are."""
        config, size = self.config, self.config.detector.size
        if (folders := MaskFolders.of(config.data, size)) is not None:
            return self._masks(folders)
        ignored = Ignored.of(config.data, size)
        return None if ignored is None else self._make(ignored_recipe(ignored), partial(write_ignored, ignored=ignored))

    def _masks(self, folders: MaskFolders) -> Artifact:
        refuse_common_cells(self.config)
        drawn = DrawnMasks(folders, self.manifest.unlabelled() if self.parallel.pool is None else self.parallel.pool)
        drawn.refuse_unlike_copies(self.manifest.root, self.manifest.quarantine["path"].to_pylist())
        if drawn.num_whole:
            self.timer.tell(
                f"note: {drawn.num_whole} photographs have no mask in {folders.names} and are looked at whole"
            )
        return self._make(masks_recipe(drawn.keys), drawn.write)

    @cached_property
    def hidden(self) -> Hidden | None:
        """The same, ready to be used."""
        return read_ignored(self.ignored, self.config)

    def _base_levels(self, base: Base) -> Artifact | None:
        photographs = self.config.data.bands is None
        if base.levels is None and photographs and have_16_bits(self.manifest.root, self._train_paths):
            raise DataError("some new images have 16 bits, and the run has no levels for such; make a new run of all")
        return base.levels

    def features(self, scaled: Artifact | None, levelled: Artifact | None) -> Features:
        """The layers of every image, or the means to come by them."""
        return self.parallel.features(read_scale(scaled), read_levels(levelled), self.hidden)

    def members(self, partitioned: Artifact, features: Features) -> dict[str, Artifact]:
        """The sub-models, each fitted on its share, by `member_name`; without those that may be missing and are."""
        for index in self.lost:
            self.parallel.lose(member_name(index), "missing in the original run")
        learnt = self.base.partition if self.base and self.base.partition else partitioned
        owned = shares(read_table(learnt.file(filenames.PARTITION)))
        specs = [
            self.parallel.member(
                member_name(index), fit_settings(self.config, "member", index), dict.fromkeys(share, TRUSTED), features
            )
            for index, share in enumerate(self.config.purify.rule.training_sets(owned))
            if index not in self.lost
        ]
        return self.parallel.fit("members", specs, may_fail=len(specs) - self.config.fewest_members)

    def member_scores(self, members: Mapping[str, Artifact], features: Features) -> list[Artifact]:
        """The score of every training image by every sub-model."""
        everyone = self._train_images["image_id"].to_pylist()
        return self.parallel.score("member-scores", members, everyone, features, keeps_maps=False)

    def matrix(self, partitioned: Artifact, members: Sequence[int], scored: Sequence[Artifact]) -> Artifact:
        """The score matrix, one row per image, by the members of these numbers."""

        def build(folder: Path) -> None:
            home = read_table(partitioned.file(filenames.PARTITION))
            write_table(folder / filenames.SCORES, assemble(read_scores(scored), home, members))

        return self._make(matrix_recipe(self.config, partitioned, members, scored), build)

    @cached_property
    def decisions(self) -> Decisions:
        """The stages that decide about images."""
        return Decisions(self.config, self._train_images, self.timer)

    def final(self, purified: Artifact, overrides: Artifact | None, features: Features) -> Artifact:
        """The final detector, fitted on the kept images."""
        images = training_images(self.config, purified, overrides)
        spec = self.parallel.member(FINAL, fit_settings(self.config, "final"), images, features)
        return self.parallel.fit("final", [spec], num_workers=self.config.final_workers)[FINAL]

    def final_scores(self, final: Artifact, features: Features) -> list[Artifact]:
        """The final detector's score and map of every image, test split included."""
        everyone = self.manifest.table["image_id"].to_pylist()
        return self.parallel.score("final-scores", {FINAL: final}, everyone, features, keeps_maps=True)

    def needs_folds(self, decided: Artifact, overrides: Artifact | None) -> bool:
        """True if held-out scores need further fits; reports it where those were not asked for."""
        if self.config.threshold.method != "members":
            return self.config.threshold.method == "folds"
        reason = why_folds(self.config, decided, overrides)
        if reason:
            self.report_folds(f"{reason}, so the threshold takes")
        return bool(reason)

    def report_folds(self, what_for: str) -> None:
        """Report that further detectors are fitted, where they were not asked for by name."""
        self.timer.tell(f"note: {what_for} {self.config.threshold.folds} further detectors (threshold.folds)")

    def folds(self, decided: Artifact, overrides: Artifact | None, features: Features) -> Folds:
        """Detectors like the final one, each fitted without a fold of the training images, and their scores of it."""
        kept = training_images(self.config, decided, overrides)
        folds = fold_ids(self.config, self._train_images)
        specs = [
            self.parallel.member(name, fit_settings(self.config, "final", index), without_fold(kept, fold), features)
            for index, (name, fold) in enumerate(folds.items())
        ]
        fitted = self.parallel.fit("folds", specs, num_workers=self.config.final_workers)
        apart = {name: (fitted[name], fold) for name, fold in folds.items()}
        return Folds([*fitted.values()], self.parallel.score_apart("fold-scores", apart, features, keeps_maps=False))

    def held_out_maps(self, decided: DecisionArtifacts, members: MemberArtifacts, features: Features) -> HeldOutMaps:
        """Maps of a sample of the images by detectors that have not seen them; none where no threshold is set."""
        if self.config.threshold.method == "none":
            return HeldOutMaps.of([], self.config, self.hidden)
        by_name = {member_name(number): fitted for number, fitted in members.by_number().items()}
        detectors = mapping_detectors(self.config, decided.folds, decided.fold_scores, by_name)
        asked = assign_images(detectors, read_table(decided.purified.file(filenames.PURIFIED)))
        shards = self.parallel.score_apart("held-out-maps", asked, features, keeps_maps=True) if asked else []
        return HeldOutMaps.of(shards, self.config, self.hidden)

    def pixel_counts(self, images: Artifact, labels: Artifact, scored: Sequence[Artifact]) -> list[Artifact]:
        """The pixels of a large test set, counted by workers; nothing of a small one."""
        truth = self._truth(images, labels)
        compared_on = grid(truth, self.config)
        shards = shards_to_count(scored, truth, compared_on)
        return self.parallel.count_pixels(shards, compared_on) if shards else []

    def evaluate(
        self,
        images: Artifact,
        labels: Artifact,
        purified: Artifact,
        scored: Sequence[Artifact],
        counted: Sequence[Artifact],
    ) -> Artifact:
        """The metrics, as far as labels go, and every image's score for people."""
        truth = self._truth(images, labels)

        def build(folder: Path) -> None:
            scores = read_scores(scored)
            decided = read_table(purified.file(filenames.PURIFIED))
            write_json(folder / filenames.METRICS, compute_metrics(self.config, truth, decided, scores, counted))
            write_table(folder / filenames.IMAGE_SCORES, image_scores(self.manifest.unlabelled(), scores))

        made_from = {"images": images, "labels": labels, "purified": purified}
        return self._make(evaluate_recipe(self.config, truth, made_from, scored, counted), build)

    def _truth(self, images: Artifact, labels: Artifact) -> GroundTruth:
        groups = read_table(images.file(filenames.IMAGES)).select(["image_id", "group", "category"])
        table = join_by_image(read_table(labels.file(filenames.LABELS)), groups)
        return GroundTruth(table, self.manifest.root, self.config.data.max_pixels, self.hidden)

    @cached_property
    def _train_images(self) -> pa.Table:
        """The training split without labels: all that the stages before `evaluate` ever see."""
        images = self.manifest.unlabelled()
        return images.filter(pc.equal(images["split"], TRAIN))

    @cached_property
    def _train_paths(self) -> dict[str, str]:
        """The path of each training image."""
        images = self._train_images
        return dict(zip(images["image_id"].to_pylist(), images["path"].to_pylist(), strict=True))

    def _make(self, recipe: Recipe, build: Callable[[Path], None]) -> Artifact:
        with self.timer.building(recipe) as folder:
            if folder is not None:
                build(folder)
        return self.timer.get(recipe)
