"""What a run will take, from what a few of its images took: time by stage, memory, disk; and what cannot fit.

A run that starts from nothing is meant; what an unfinished one has left to do is not looked at.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llb_ray.config import RunConfig
from llb_ray.data.manifest import TRAIN, Manifest
from llb_ray.detectors.build import Role, fit_reads, num_steps
from llb_ray.engine.cache import no_room
from llb_ray.engine.features import num_shards
from llb_ray.planning.calibration import Measured, num_labelled
from llb_ray.planning.machine import existing, free_disk_bytes, free_memory_bytes, num_cores

_GIB = 2**30
# Measured with benchmarks/plan.py; the rest follows from the calibration.
_RAY_BYTES = int(0.5 * _GIB)  # Ray's own processes on a machine
_TABLE_BYTES, _SCORE_BYTES = 900, 40  # memory of the driver, per image, and per image and member
_PIXEL_BYTES = 20  # memory of exact pixel metrics, per pixel of the labelled test images
_TABLE_S = 5e-5  # of the driver per image: tables are built, sorted, hashed and written
_GPU_CONTEXT_BYTES = int(0.5 * _GIB)  # beside what torch reserves


@dataclass(frozen=True)
class Cluster:
    """Who is there to do the work."""

    slots: int  # workers at once, everywhere
    start_s: float  # of a worker's process; 0 where all work is done in this one
    in_process: bool  # the serial executor
    connect_s: float = 0.0  # to start Ray, or to reach it


@dataclass(frozen=True)
class StageForecast:
    """Seconds of a stage, and what they go into."""

    stage: str
    seconds: float
    what: str


@dataclass(frozen=True)
class Need:
    """How much of something a run needs, and how much there is."""

    name: str
    needed_bytes: int
    free_bytes: int
    what: str
    remedy: str

    @property
    def refusal(self) -> str:
        """One sentence where it cannot fit, else nothing."""
        if self.needed_bytes <= self.free_bytes:
            return ""
        needed, free = self.needed_bytes / _GIB, self.free_bytes / _GIB
        return f"{self.name}: a run needs {needed:.3g} GiB ({self.what}) and {free:.3g} GiB are free; {self.remedy}"


@dataclass(frozen=True)
class Forecast:
    """All that `llb-ray plan` says."""

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


@dataclass(frozen=True)
class Size:
    """How much there is to do."""

    num_train: int
    num_images: int  # in training and test
    num_labelled: int  # of the test images
    num_copies: int  # of each training image that detectors are trained on
    num_members: int
    share: float  # of the training images kept

    @classmethod
    def of(cls, config: RunConfig, manifest: Manifest) -> "Size":
        filtered = config.purify.filter
        share = config.purify.keep_ratio if filtered in ("llb", "random") else 1.0
        return cls(
            num_train=len(manifest.split(TRAIN)),
            num_images=len(manifest.table),
            num_labelled=num_labelled(manifest),
            num_copies=1 + len(config.features.augment),
            num_members=config.members.count if filtered == "llb" else 0,
            share=share,
        )

    @property
    def member_images(self) -> int:
        return math.ceil(self.num_train / self.num_members)

    @property
    def final_images(self) -> int:
        return math.ceil(self.num_train * self.share)

    @property
    def cached_images(self) -> int:
        return self.num_images + (self.num_copies - 1) * self.num_train


def forecast(config: RunConfig, manifest: Manifest, measured: Measured, cluster: Cluster, out: Path) -> Forecast:
    """What a run of `config` over `manifest` in `out` will take on the cluster."""
    size = Size.of(config, manifest)
    stand_in = [np.empty(round(measured.layer_bytes), np.uint8)]  # of one image's layers: as large, and nothing else
    uncached = no_room(config.features, stand_in, size.cached_images, size.cached_images, existing(out))
    work = _Work(config, size, measured, cluster, cached=not uncached)
    return Forecast(
        stages=list(work.stages()),
        needs=list(_needs(work, out)),
        cluster=cluster,
        calibration_s=measured.seconds,
        notes=list(_notes(config, uncached)),
    )


def _notes(config: RunConfig, uncached: str) -> Iterator[str]:
    if uncached:
        yield f"{uncached}: nothing will be cached, images are encoded whenever they are read"
    if config.final_workers > 1:
        yield f"final.num_workers={config.final_workers}: the final training is foretold as if one worker did it"


@dataclass(frozen=True)
class _Work:
    """The stages of a run, one after the other."""

    config: RunConfig
    size: Size
    measured: Measured
    cluster: Cluster
    cached: bool

    def stages(self) -> Iterator[StageForecast]:
        if self.cluster.connect_s:
            yield StageForecast("ray", self.cluster.connect_s, "reaching the cluster, or starting one")
        yield self._features()
        if self.size.num_members:
            yield self._members()
            yield self._scores("member-scores", self.size.num_train, self.size.num_members)
        yield self._final()
        yield self._scores("final-scores", self.size.num_images, 1)
        seconds = self.measured.evaluate.seconds(self.size.num_labelled)
        yield StageForecast("evaluate", seconds, f"{self.size.num_labelled} labelled test images")
        yield StageForecast("other", self._other_s(), "imports, tables, decisions")

    def fit_s(self, role: Role, num_images: int) -> float:
        """Seconds of one fit; without a cache every reading is an encoding."""
        detector, rows = self.config.detector, num_images * self.size.num_copies
        reads = 0 if self.cached else fit_reads(detector, role, rows)
        steps_s = self.measured.step_s * num_steps(detector, role)
        return self.measured.fit.seconds(rows) + steps_s + reads * self.measured.encode.unit_s

    def _features(self) -> StageForecast:
        if not self.cached:
            return StageForecast("features", self.measured.encode.start_s, "one image, for its size")
        images = self.size.cached_images
        seconds = self.measured.encode.seconds(images * self._largest_part(images)) + self.cluster.start_s
        # In a process of its own, a worker imports timm once more.
        seconds += 0 if self.cluster.in_process else self.measured.unclocked_s
        return StageForecast("features", seconds, f"{images} images, {1000 * self.measured.encode.unit_s:.3g} ms each")

    def _members(self) -> StageForecast:
        count, one_s = self.size.num_members, self.fit_s("member", self.size.member_images)
        rounds = math.ceil(count / self.cluster.slots)
        what = f"{count} fits of {one_s:.3g} s, {min(count, self.cluster.slots)} at once"
        return StageForecast("members", rounds * (self.cluster.start_s + one_s), what + self._starting())

    def _final(self) -> StageForecast:
        one_s = self.fit_s("final", self.size.final_images)
        what = f"one fit of {one_s:.3g} s, on {self.size.final_images} images"
        return StageForecast("final", self.cluster.start_s + one_s, what + self._starting())

    def _scores(self, stage: str, num_images: int, num_detectors: int) -> StageForecast:
        measured = self.measured
        one_s = measured.map.unit_s + (num_detectors - 1) * measured.score_s
        one_s += 0 if self.cached else measured.encode.unit_s
        start_s = self.cluster.start_s + measured.map.start_s + (num_detectors - 1) * measured.load_s
        seconds = start_s + one_s * num_images * self._largest_part(self.size.num_images)
        what = f"{num_images} images by {num_detectors} detectors, {1000 * one_s:.3g} ms each"
        return StageForecast(stage, seconds, what + self._starting())

    def _largest_part(self, num_images: int) -> float:
        """The share of the images that the busiest worker has: they are dealt in whole shards."""
        shards = num_shards(num_images)
        return math.ceil(shards / self.cluster.slots) / shards

    def _starting(self) -> str:
        return "" if self.cluster.in_process else f", each process {self.cluster.start_s:.3g} s to start"

    def _other_s(self) -> float:
        return self.measured.unclocked_s + _TABLE_S * self.size.num_images * (1 + self.size.num_members / 16)


def _needs(work: _Work, out: Path) -> Iterator[Need]:
    yield _memory(work)
    if work.measured.gpu_total_bytes:
        yield _gpu(work)
    yield _disk(work, out)


def _memory(work: _Work) -> Need:
    size, measured = work.size, work.measured
    pixels = size.num_labelled * work.config.detector.image_size_px**2
    driver = measured.resident_bytes + pixels * _PIXEL_BYTES
    driver += size.num_images * (_TABLE_BYTES + _SCORE_BYTES * size.num_members)
    if work.cluster.in_process:
        needed, what = max(driver, measured.peak_bytes), "one process"
    else:
        here = min(work.cluster.slots, max(1, num_cores() // work.config.resources.num_cpus))
        own = measured.peak_bytes - measured.shared_bytes
        needed = driver + _RAY_BYTES + here * own
        each = f"{here} workers of {own / _GIB:.2g} each on this machine"
        what = f"driver {driver / _GIB:.2g}, Ray {_RAY_BYTES / _GIB:.2g}, {each}"
    remedy = "raise resources.num_cpus so that fewer work at once, lower the batch sizes, or take a larger machine"
    # What this process has already is not among what is free.
    return Need("memory", needed, free_memory_bytes() + measured.resident_bytes, what, remedy)


def _gpu(work: _Work) -> Need:
    share = work.config.resources.num_gpus
    needed = work.measured.gpu_bytes + _GPU_CONTEXT_BYTES
    remedy = "raise resources.num_gpus, or lower detector.image_size_px or the batch sizes"
    return Need("GPU memory", needed, int(work.measured.gpu_total_bytes * share), f"{share:g} of a GPU", remedy)


def _disk(work: _Work, out: Path) -> Need:
    size, measured = work.size, work.measured
    layers = measured.layer_bytes * size.cached_images if work.cached else 0
    maps = measured.map_bytes * size.num_images
    detectors = measured.detector_bytes * (size.num_members + 1)
    tables = (2 * measured.other_bytes + 12 * size.num_members) * size.num_images  # in the store, and to be opened
    what = f"layers {layers / _GIB:.2g}, maps {maps / _GIB:.2g}, detectors {detectors / _GIB:.2g}"
    remedy = "choose another --out, set features.max_gib=0, or lower detector.image_size_px"
    return Need("disk", int(layers + maps + detectors + tables), free_disk_bytes(out), what, remedy)
