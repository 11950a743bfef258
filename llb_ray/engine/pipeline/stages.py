"""The stages of a run; `stage_order.run_in_order` says in which order.

A stage reads the manifest and earlier artifacts, writes one, and is skipped where the artifact that its recipe names
is already there.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from llb_ray.artifacts import Artifact
from llb_ray.config import RunConfig
from llb_ray.data.manifest import Manifest
from llb_ray.data.tables import join_by_image, read_table, write_table
from llb_ray.disk import write_json
from llb_ray.engine import filenames
from llb_ray.engine.evaluation.evaluate import compute_metrics, evaluate_recipe, grid, image_scores, shards_to_count
from llb_ray.engine.evaluation.ground_truth import GroundTruth
from llb_ray.engine.evaluation.held_out_maps import HeldOutMaps, assign_images, mapping_detectors
from llb_ray.engine.features.cache_budget import Features
from llb_ray.engine.features.measured_bands import read_scale
from llb_ray.engine.features.measured_levels import read_levels
from llb_ray.engine.pipeline.decision_stages import Decisions
from llb_ray.engine.pipeline.input_stages import Base, InputStages
from llb_ray.engine.pipeline.parallel_stages import ParallelStages
from llb_ray.engine.pipeline.recipes import matrix_recipe
from llb_ray.engine.pipeline.training_set import fold_ids, training_images, why_folds, without_fold
from llb_ray.engine.rundir.run_artifacts import DecisionArtifacts, MemberArtifacts
from llb_ray.engine.rundir.stage_timer import StageTimer
from llb_ray.engine.stage_keys import fit_settings
from llb_ray.engine.workers.fitter import member_name
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.ensemble.partition import shares
from llb_ray.ensemble.score_matrix import assemble
from llb_ray.ensemble.trust import TRUSTED

FINAL = "final"  # the name of the final detector


class Folds(NamedTuple):
    """Detectors that are fitted without a fold each, and the scores of every training image by the one without it."""

    fitted: list[Artifact]
    scores: list[Artifact]


@dataclass
class Stages:
    """The stages of one run; `parallel` runs the heavy ones."""

    config: RunConfig
    manifest: Manifest
    parallel: ParallelStages
    timer: StageTimer
    lost: Collection[int] = ()  # members that the run which this one amends did without
    base: Base | None = None  # of a run that was updated

    def features(self, scaled: Artifact | None, levelled: Artifact | None) -> Features:
        """The layers of every image, or the means to come by them."""
        return self.parallel.features(read_scale(scaled), read_levels(levelled), self.inputs.ignored_pixels)

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
        everyone = self.inputs.train_images["image_id"].to_pylist()
        return self.parallel.score("member-scores", members, everyone, features, keeps_maps=False)

    def matrix(self, partitioned: Artifact, members: Sequence[int], scored: Sequence[Artifact]) -> Artifact:
        """The score matrix, one row per image, by the members of these numbers."""

        def build(folder: Path) -> None:
            home = read_table(partitioned.file(filenames.PARTITION))
            write_table(folder / filenames.SCORES, assemble(read_scores(scored), home, members))

        return self.timer.make(matrix_recipe(self.config, partitioned, members, scored), build)

    @cached_property
    def inputs(self) -> InputStages:
        """The stages of what goes into the run."""
        return InputStages(self.config, self.manifest, self.timer, self.parallel.pool, self.base)

    @cached_property
    def decisions(self) -> Decisions:
        """The stages that decide about images."""
        return Decisions(self.config, self.inputs.train_images, self.timer)

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
        folds = fold_ids(self.config, self.inputs.train_images)
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
            return HeldOutMaps.of([], self.config, self.inputs.ignored_pixels)
        by_name = {member_name(number): fitted for number, fitted in members.by_number().items()}
        detectors = mapping_detectors(self.config, decided.folds, decided.fold_scores, by_name)
        asked = assign_images(detectors, read_table(decided.purified.file(filenames.PURIFIED)))
        shards = self.parallel.score_apart("held-out-maps", asked, features, keeps_maps=True) if asked else []
        return HeldOutMaps.of(shards, self.config, self.inputs.ignored_pixels)

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
        return self.timer.make(evaluate_recipe(self.config, truth, made_from, scored, counted), build)

    def _truth(self, images: Artifact, labels: Artifact) -> GroundTruth:
        groups = read_table(images.file(filenames.IMAGES)).select(["image_id", "group", "category"])
        table = join_by_image(read_table(labels.file(filenames.LABELS)), groups)
        return GroundTruth(table, self.manifest.root, self.config.data.max_pixels, self.inputs.ignored_pixels)
