"""The stages that decide about images: by the members, by hand, again by folds, and the threshold."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from llb_ray.artifacts import Artifact, Recipe, digest
from llb_ray.config import PurifyConfig, RunConfig, ThresholdConfig
from llb_ray.data.tables import read_table, write_table
from llb_ray.disk import write_json
from llb_ray.engine import filenames
from llb_ray.engine.evaluation.run_threshold import ThresholdInputs, derive_thresholds
from llb_ray.engine.stage_keys import filter_labels, purify_settings
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.ensemble.categories import comparable_scores
from llb_ray.ensemble.contamination import KEEP_ALL, NOT_CLEARLY, contamination, what_if
from llb_ray.ensemble.held_out_scores import by_folds
from llb_ray.ensemble.overrides import apply_overrides
from llb_ray.ensemble.purified_dataset import purified_dataset
from llb_ray.ensemble.refinement import purify_again

Floats = npt.NDArray[np.float64]


class Builder(Protocol):
    """A store, or a timer of the stages that build in one."""

    def building(self, recipe: Recipe) -> AbstractContextManager[Path | None]:
        """See `Store`."""

    def get(self, recipe: Recipe) -> Artifact:
        """See `Store`."""


@dataclass(frozen=True)
class Decisions:
    """The stages of one run that decide."""

    config: RunConfig
    train_images: pa.Table  # without labels
    builder: Builder

    def overrides(self, said: pa.Table) -> Artifact:
        """Decisions by hand (schema `overrides.OVERRIDES`)."""
        recipe = Recipe("overrides", {}, {"overrides": digest(said.to_pylist())})
        with self.builder.building(recipe) as folder:
            if folder is not None:
                write_table(folder / filenames.OVERRIDES, said)
        return self.builder.get(recipe)

    def purify(self, images: Artifact, labels: Artifact, matrix: Artifact | None) -> Artifact:
        """Every training image's decision by the filter's first look, the only one of all filters but llb."""
        recipe = purify_recipe(self.config, images, labels, matrix)
        with self.builder.building(recipe) as folder:
            if folder is not None:
                scores = None if matrix is None else read_table(matrix.file(filenames.SCORES))
                known = filter_labels(self.config.purify, labels)
                purified = purified_dataset(self.config.purify, self.config.seed, self.train_images, scores, known)
                write_table(folder / filenames.PURIFIED, purified.table)
                if purified.anomaly_N is not None:
                    _write_estimate(folder, purified.anomaly_N)
        return self.builder.get(recipe)

    def purify_again(self, number: int, before: Artifact, folds: Sequence[Artifact]) -> Artifact:
        """Every training image's decision in round `number`, from the scores of detectors that had not seen it."""
        recipe = again_recipe(self.config, number, before, folds)
        with self.builder.building(recipe) as folder:
            if folder is not None:
                decided, held_out = read_table(before.file(filenames.PURIFIED)), by_folds(read_scores(folds))
                write_table(folder / filenames.PURIFIED, purify_again(self.config.purify, number, decided, held_out))
                if self.config.purify.keep_ratio == "auto":  # a number that was given needs no scores that differ
                    _write_estimate(folder, comparable_scores(held_out, decided)["score"].to_numpy())
        return self.builder.get(recipe)

    def by_hand(self, decided: Artifact, overrides: Artifact) -> Artifact:
        """Decisions of the filter with those by hand in their place."""
        recipe = by_hand_recipe(decided, overrides)
        with self.builder.building(recipe) as folder:
            if folder is not None:
                said = read_table(overrides.file(filenames.OVERRIDES))
                write_table(
                    folder / filenames.PURIFIED, apply_overrides(read_table(decided.file(filenames.PURIFIED)), said)
                )
        return self.builder.get(recipe)

    def threshold(self, inputs: ThresholdInputs) -> Artifact | None:
        """The score above which an image is called anomalous, the map value above which a pixel is, and the tables
        that they come from.  None if no threshold is wanted."""
        config = self.config.threshold
        if config.method == "none":
            return None
        recipe = threshold_recipe(config, inputs)
        with self.builder.building(recipe) as folder:
            if folder is not None:
                found = derive_thresholds(config, inputs)
                write_table(folder / filenames.HELD_OUT, found.held_out)
                if found.levels is not None:
                    write_table(folder / filenames.PIXEL_LEVELS, found.levels)
                write_json(folder / filenames.THRESHOLD, found.facts)
        return self.builder.get(recipe)


def _write_estimate(folder: Path, evidence_N: Floats) -> None:
    """Write the estimated share of anomalies, and what every keep ratio would cost."""
    said, table = estimate(evidence_N)
    write_json(folder / filenames.CONTAMINATION, said)
    write_table(folder / filenames.WHAT_IF, table)


def estimate(evidence_N: Floats) -> tuple[dict[str, float], pa.Table]:
    """The contents of contamination.json and what_if.arrow, by the evidence against N images."""
    found = contamination(evidence_N)
    said = {"share": found.share, "low": found.low, "high": found.high, "clearly": found.clearly}
    return said, what_if(evidence_N, found)


def kept_all_notices(config: PurifyConfig, estimate: Mapping[str, float]) -> list[str]:
    """One sentence if the filter was to estimate how many images are anomalous (contents of contamination.json) and
    found none, or some that are not clearly apart."""
    if not estimate or not config.rule.uses_keep_ratio:
        return []
    if estimate["share"] == 0:
        return [KEEP_ALL]
    return [NOT_CLEARLY] if estimate["clearly"] < estimate["share"] else []


def purify_recipe(config: RunConfig, images: Artifact, labels: Artifact, matrix: Artifact | None) -> Recipe:
    """Recipe of the first decisions."""
    inputs = {"images": images.content} | ({} if matrix is None else {"scores": matrix.content})
    inputs |= {"labels": labels.content} if config.purify.rule.reads_labels else {}
    return Recipe("purify", purify_settings(config), inputs)


def again_recipe(config: RunConfig, number: int, before: Artifact, folds: Sequence[Artifact]) -> Recipe:
    """Recipe of the decisions of round `number`."""
    inputs = {"before": before.content} | _numbered("folds", folds)
    return Recipe("purify-again", purify_settings(config, number), inputs)


def by_hand_recipe(decided: Artifact, overrides: Artifact) -> Recipe:
    """Recipe of decisions by hand."""
    return Recipe("by-hand", {}, {"decided": decided.content, "overrides": overrides.content})


def threshold_recipe(config: ThresholdConfig, made: ThresholdInputs) -> Recipe:
    """Recipe of the threshold, with the matrix only where there are no folds."""
    decided = made.decided
    inputs = _numbered("decided", [*decided.rounds, decided.purified]) | _numbered("final", made.final_scores)
    inputs |= {} if decided.overrides is None else {"overrides": decided.overrides.content}
    if decided.fold_scores or made.matrix is None:
        inputs |= _numbered("folds", decided.fold_scores)
    else:
        inputs["matrix"] = made.matrix.content
    inputs |= _numbered("maps", made.maps.shards)
    settings = {"false_alarm_rate": config.false_alarm_rate, "normals": config.normals} | made.maps.settings
    return Recipe("threshold", settings, inputs)


def _numbered(role: str, artifacts: Sequence[Artifact]) -> dict[str, str]:
    return {f"{role}-{index:03d}": artifact.content for index, artifact in enumerate(artifacts)}
