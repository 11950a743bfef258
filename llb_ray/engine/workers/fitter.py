"""One detector in training: a sub-model on its share, or the final detector on what was kept.

The two are the same thing here; they differ in the share and in the budget (`role`).  Either may be fitted by several
workers together: the leading one writes the artifact, and the others fit along with it.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import pyarrow as pa
import torch
from safetensors.torch import load_file, save

from llb_ray.artifacts import Artifact, Recipe, digest
from llb_ray.config import Augmentation, DetectorConfig, ImportanceConfig, ResourcesConfig, Role
from llb_ray.data.image_masks import IgnoredPixels
from llb_ray.data.tables import read_table, write_table
from llb_ray.detectors.base import (
    Detector,
    FitLog,
    LeavingOut,
    Report,
    SteppedDetector,
    WeighingDetector,
    silent,
)
from llb_ray.detectors.data_parallel import ALONE, ProcessGroup
from llb_ray.detectors.factory import build_detector
from llb_ray.engine import filenames
from llb_ray.engine.execution.checkpoint import FileCheckpoints
from llb_ray.engine.execution.heartbeat import Heartbeat
from llb_ray.engine.execution.protocols import WorkerContext, device_for, owned_threads
from llb_ray.engine.features.feature_access import FeatureAccess, OrderedSource
from llb_ray.engine.workers.fit_log import fall_back_notices, short_fit_notices, write_log
from llb_ray.ensemble.trust import TRUSTED
from llb_ray.errors import LlbError, ResourceError


def member_name(number: int) -> str:
    """``member-003``."""
    return f"member-{number:03d}"


_FIT, _DONE = b"fit", b"done"  # what the leading worker says to the others


@dataclass(frozen=True)
class MemberSpec:
    """Everything a fit needs to know."""

    name: str
    context: WorkerContext
    detector: DetectorConfig
    importance: ImportanceConfig | None  # None: the loss is a plain mean
    settings: Mapping[str, Any]  # role, seed, and the learner's own
    access: FeatureAccess
    encoder_digest: str
    images: Mapping[str, float]  # by image_id: the trust in each, 1 where all count alike
    ignored: IgnoredPixels | None = None  # the pixels that it is not to learn from

    @property
    def title(self) -> str:
        """``member-003 (its share: 20 images)``; partition.arrow lists a share by the member's number."""
        images = "its share" if self.role == "member" else "the kept set"
        return f"{self.name} ({images}: {len(self.images)} images)"

    @property
    def role(self) -> Role:
        role: Role = self.settings["role"]
        return role

    @property
    def augment(self) -> tuple[Augmentation, ...]:
        return tuple(self.settings.get("augment", ()))

    @property
    def num_reads(self) -> int:
        """Number of images that the fit reads, with repetitions."""
        num_rows = len(self.images) * (1 + len(self.augment))
        num_weighted = len(self.images) if self.importance else 0  # once more at the end, for their weights
        return self.detector.reads(self.role, num_rows) + num_weighted

    @property
    def recipe(self) -> Recipe:
        return fit_recipe(self.settings, self.encoder_digest, self.images, self.ignored)


def fit_notices(stage: str, specs: Sequence[MemberSpec], fitted: Mapping[str, Artifact]) -> Iterator[str]:
    """Notices about the fits of a stage, one sentence each."""
    largest = max(specs, key=lambda spec: len(spec.images))
    yield from short_fit_notices(stage, largest.detector, largest.role, len(largest.images))
    for name, made in fitted.items():
        yield from fall_back_notices(name, made)


def fit_recipe(
    settings: Mapping[str, Any], encoder: str, images: Mapping[str, float], ignored: IgnoredPixels | None
) -> Recipe:
    """Recipe of a fitted detector, from the trust in each image, named only where some are trusted less, and from what
    is ignored in it."""
    inputs = {"encoder": encoder, "images": digest(list(images))}
    inputs |= {"trust": digest(list(images.values()))} if _weighed(images) else {}
    inputs |= {} if ignored is None else ignored.inputs(images)
    return Recipe("fit", settings, inputs)


def _weighed(images: Mapping[str, float]) -> bool:
    return any(trust != TRUSTED for trust in images.values())


class Member:
    """Fits a detector on its share, alone or with peers."""

    STEPS: ClassVar[tuple[str, ...]] = ("fit",)

    def __init__(self, spec: MemberSpec, peers: ProcessGroup = ALONE) -> None:
        self._spec = spec
        self._peers = peers
        self._store = spec.context.store
        self._heartbeat = Heartbeat(spec.context, spec.name)
        interval_s = spec.context.resources.checkpoint_s
        self._checkpoints = FileCheckpoints.of(spec.recipe, spec.context.store, interval_s, peers)

    def __repr__(self) -> str:
        return f"Member({self._spec.name}, {len(self._spec.images)} images)"

    def fit(self) -> None:
        """The fitted detector and the ids it was given are an artifact afterwards; an error names this member."""
        with owned_threads(self._spec.context.resources), _named(self._spec.title):
            if self._peers.leads:
                self._lead(self._heartbeat.report("fit"))
            else:
                self._follow()

    def _lead(self, report: Report) -> None:
        with self._store.building(self._spec.recipe) as folder:
            if folder is not None:
                self._peers.broadcast(_FIT)
                detector, source, log = self._fitted(report)
                # Not `save_file`: of a full disk it raises an error of its own.
                (folder / filenames.DETECTOR).write_bytes(save(detector.state()))
                trust = pa.table({"image_id": [*self._spec.images], "trust": [*self._spec.images.values()]})
                write_table(folder / filenames.TRAINED_ON, trust)
                write_log(folder, log, source.image_ids)
        self._checkpoints.drop()
        self._peers.broadcast(_DONE)

    def _follow(self) -> None:
        """Fit along, unless the leading worker finds the artifact there: the store lets in one builder."""
        while self._peers.broadcast(b"") == _FIT:
            self._fitted(silent)

    def _fitted(self, report: Report) -> tuple[Detector, OrderedSource, FitLog | None]:
        spec, device = self._spec, device_for(self._spec.context.resources)
        source = spec.access.source(tuple(spec.images), spec.context, spec.augment)
        detector = build_detector(spec.detector, spec.role, device, spec.importance)
        if spec.ignored is not None:
            cast(LeavingOut, detector).leave_out()
        if _weighed(spec.images):
            weighing = cast(WeighingDetector, detector)
            return weighing.fit(source, spec.settings["seed"], report, [*spec.images.values()]), source, None
        if not spec.detector.trains_by_gradient:
            return detector.fit(source, spec.settings["seed"], report), source, None
        stepped = cast(SteppedDetector, detector)
        stepped.fit(source, spec.settings["seed"], report, self._checkpoints, self._peers)
        return stepped, source, stepped.log()


@contextlib.contextmanager
def _named(title: str) -> Iterator[None]:
    """Inside, an error that the user can fix is raised with `title` before its words, and lack of memory is one."""
    try:
        yield
    except LlbError as error:
        raise type(error)(f"{title}: {error}") from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        reason = str(error).partition("\n")[0]
        raise ResourceError(
            f"{title}: out of memory ({reason}); lower detector.image_size_px, or give it a larger machine"
        ) from error


def load_detector(config: DetectorConfig, fitted: Artifact, resources: ResourcesConfig) -> Detector:
    """The detector a `fit` artifact holds, ready to score."""
    detector = build_detector(config, fitted.settings["role"], device_for(resources))
    return detector.load_state(load_file(fitted.file(filenames.DETECTOR)))


def trained_on(fitted: Artifact) -> dict[str, float]:
    """The images that a `fit` artifact's detector was trained on, by image_id, and the trust in each."""
    table = read_table(fitted.file(filenames.TRAINED_ON))
    return dict(zip(table["image_id"].to_pylist(), table["trust"].to_pylist(), strict=True))
