"""Forecast of a run from measurements on a few of its images: time by stage, memory, disk; and what cannot fit.

A run that starts from nothing is meant; what an unfinished one has left to do is not looked at.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llb_ray.config import Role, RunConfig
from llb_ray.data.manifest import Manifest
from llb_ray.engine.features.cache_budget import no_room
from llb_ray.engine.features.featurizer import num_shards, shard_images
from llb_ray.ensemble.held_out_scores import LEAST_REJECTED
from llb_ray.planning.cost_model import CostModel
from llb_ray.planning.machine import existing
from llb_ray.planning.requirements import Need, needs
from llb_ray.planning.workload import Cluster, Size, Workload

_TABLE_S = 5e-5  # of the driver per image: tables are built, sorted, hashed and written


@dataclass(frozen=True)
class StageForecast:
    """Seconds of a stage, and what they go into."""

    stage: str
    seconds: float
    what: str


@dataclass(frozen=True)
class Forecast:
    """Everything that `llb-ray plan` reports."""

    stages: list[StageForecast]
    needs: list[Need]
    cluster: Cluster
    calibration_s: float
    notes: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def bottleneck(self) -> StageForecast:
        """The stage that takes longest."""
        return max(self.stages, key=lambda stage: stage.seconds)

    @property
    def refusals(self) -> list[str]:
        """One sentence for each thing that cannot fit."""
        return [need.refusal for need in self.needs if need.refusal]


def forecast(config: RunConfig, manifest: Manifest, measured: CostModel, cluster: Cluster, out: Path) -> Forecast:
    """Forecast of a run of `config` over `manifest` in `out` on the cluster."""
    size = Size.of(config, manifest)
    stand_in = [np.empty(round(measured.layer_bytes), np.uint8)]  # of one image's layers: as large, and nothing else
    uncached = no_room(config.features, stand_in, size.cached_images, size.cached_images, existing(out))
    at = Workload(config, size, measured, cluster, cached=not uncached)
    work = _Work(at)
    return Forecast(
        stages=list(work.stages()),
        needs=list(needs(at, out)),
        cluster=cluster,
        calibration_s=measured.seconds,
        notes=list(_notes(config, uncached, work)),
    )


def _notes(config: RunConfig, uncached: str, work: "_Work") -> Iterator[str]:
    if config.resources.autoscale_to == work.at.cluster.slots:
        yield f"resources.autoscale_to={config.resources.autoscale_to}: estimated as if these nodes had joined"
    if uncached:
        yield f"{uncached}: nothing will be cached, images are encoded whenever they are read"
    if config.final_workers.most > 1:
        yield f"final.num_workers={config.final_workers}: the final training is estimated as if one worker did it"
    if config.threshold.method == "members" and not work.at.size.fold_sets:
        further = (
            f"{work.at.size.num_folds} further fits for the threshold, {sum(s.seconds for s in work.folds()):.3g} s"
        )
        yield f"where fewer than {LEAST_REJECTED} images turn out to be rejected, there come {further}"


@dataclass(frozen=True)
class _Work:
    """The stages of a run, one after the other."""

    at: Workload

    def stages(self) -> Iterator[StageForecast]:
        if self.at.cluster.connect_s:
            yield StageForecast("ray", self.at.cluster.connect_s, "reaching the cluster, or starting one")
        yield self._features()
        if self.at.size.num_members:
            yield self._members()
            yield self._scores("member-scores", "member", self.at.size.num_train, self.at.size.num_members)
        yield self._final()
        yield self._scores("final-scores", "final", self.at.size.num_images, 1)
        for _ in range(self.at.size.fold_sets):
            yield from self.folds()
        if self.at.size.map_detectors:
            yield self._held_out_maps()
        seconds = self.at.measured.evaluate.of(self.at.size.num_labelled)
        yield StageForecast("evaluate", seconds, f"{self.at.size.num_labelled} labelled test images")
        yield StageForecast("other", self._other_s(), "imports, tables, decisions")

    def folds(self) -> Iterator[StageForecast]:
        """The fits without a fold that a further round takes, or the threshold may, and their scores."""
        count, fit_s = self.at.size.num_folds, self.fit_s("final", self.at.size.fold_images)
        seconds = self._rounds(count) * fit_s
        yield StageForecast("folds", seconds, f"{count} fits of {fit_s:.3g} s, without a fold each")
        scored = self.at.size.num_train
        one_s = self.at.measured.reading.start + self._score_s("final", 1) * scored / count
        yield StageForecast("fold-scores", self._rounds(count) * one_s, f"{scored} images, by one detector each")

    def fit_s(self, role: Role, num_images: int) -> float:
        """Seconds of one fit; without a cache every reading is an encoding."""
        detector, rows = self.at.config.detector_of(role), num_images * self.at.size.num_copies
        reads = 0 if self.at.cached else detector.reads(role, rows)
        cost = self.at.measured.costs[role]
        steps_s = cost.step_s * detector.num_steps(role)
        return cost.fit.of(rows) + steps_s + reads * self.at.measured.encode.unit

    def _features(self) -> StageForecast:
        start_s = self.at.cluster.start_s  # of the processes that do all later stages as well
        if not self.at.cached:
            return StageForecast("features", start_s + self.at.measured.encode.start, "one image, for its size")
        images = self.at.size.cached_images
        seconds = start_s + self.at.measured.encode.of(images * self._largest_part(images))
        # In a process of its own, a worker imports timm once more.
        seconds += 0 if self.at.cluster.in_process else self.at.measured.unclocked_s
        what = f"{images} images, {1000 * self.at.measured.encode.unit:.3g} ms each"
        starting = "" if self.at.cluster.in_process else f"; processes take {start_s:.3g} s to start"
        return StageForecast("features", seconds, what + starting)

    def _members(self) -> StageForecast:
        count, one_s = self.at.size.num_members, self.fit_s("member", self.at.size.member_images)
        what = f"{count} fits of {one_s:.3g} s, {min(count, self.at.cluster.slots)} at once"
        return StageForecast("members", self._rounds(count) * one_s, what)

    def _final(self) -> StageForecast:
        one_s = self.fit_s("final", self.at.size.final_images)
        what = f"one fit of {one_s:.3g} s, on {self.at.size.final_images} images"
        return StageForecast("final", one_s, what)

    def _held_out_maps(self) -> StageForecast:
        count, images = self.at.size.map_detectors, self.at.size.mapped_images
        one_s = self.at.measured.reading.start + self._score_s("final", 1) * images / count
        return StageForecast(
            "held-out-maps", self._rounds(count) * one_s, f"{images} images, by one of {count} detectors each"
        )

    def _scores(self, stage: str, role: Role, num_images: int, num_detectors: int) -> StageForecast:
        measured, one_s = self.at.measured, self._score_s(role, num_detectors)
        start_s = measured.reading.start + (num_detectors - 1) * measured.costs[role].load_s
        seconds = start_s + one_s * num_images * self._largest_part(self.at.size.num_images)
        what = f"{num_images} images by {num_detectors} detectors, {1000 * one_s:.3g} ms each"
        return StageForecast(stage, seconds, what)

    def _score_s(self, role: Role, num_detectors: int) -> float:
        """Seconds of one image by all these detectors."""
        encode_s = 0 if self.at.cached else self.at.measured.encode.unit
        return self.at.measured.reading.unit + num_detectors * self.at.measured.costs[role].score_s + encode_s

    def _rounds(self, num_workers: int) -> int:
        return math.ceil(num_workers / self.at.cluster.slots)

    def _largest_part(self, num_images: int) -> float:
        """The share of the images that the busiest worker has: they are assigned in whole shards."""
        shards = num_shards(num_images, shard_images(self.at.config.detector))
        return math.ceil(shards / self.at.cluster.slots) / shards

    def _other_s(self) -> float:
        return self.at.measured.unclocked_s + _TABLE_S * self.at.size.num_images * (1 + self.at.size.num_members / 16)
