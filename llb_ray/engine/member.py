"""One detector in training: a sub-model on its share, or the final detector on what was kept.

The two are the same thing here; they differ in the share and in the budget (`role`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from safetensors.torch import load_file, save_file

from llb_ray.artifacts import Artifact, Recipe, Store, digest
from llb_ray.config import Augmentation, DetectorConfig, ImportanceConfig, ResourcesConfig
from llb_ray.data.tables import read_table, write_table
from llb_ray.detectors.base import Detector
from llb_ray.detectors.build import Role, build_detector
from llb_ray.engine import files
from llb_ray.engine.checkpoint import FileCheckpoints
from llb_ray.engine.source import Access
from llb_ray.engine.trainlog import write_log
from llb_ray.engine.worker import Heartbeat, Place, device_for, owned_threads


@dataclass(frozen=True)
class MemberSpec:
    """Everything a fit needs to know."""

    name: str
    place: Place
    detector: DetectorConfig
    importance: ImportanceConfig | None  # None: the loss is a plain mean
    settings: Mapping[str, Any]  # role, seed, and the learner's own
    access: Access
    encoder_digest: str
    fit_ids: tuple[str, ...]

    @property
    def role(self) -> Role:
        role: Role = self.settings["role"]
        return role

    @property
    def augment(self) -> tuple[Augmentation, ...]:
        return tuple(self.settings.get("augment", ()))

    @property
    def recipe(self) -> Recipe:
        return Recipe("fit", self.settings, {"encoder": self.encoder_digest, "images": digest(self.fit_ids)})


class Member:
    """Fits a detector on its share."""

    STEPS: ClassVar[tuple[str, ...]] = ("fit",)

    def __init__(self, spec: MemberSpec) -> None:
        self._spec = spec
        self._store = Store(spec.place.store)
        self._heartbeat = Heartbeat(spec.place, spec.name)
        self._checkpoints = FileCheckpoints.of(spec.recipe, spec.place.store, spec.place.resources.checkpoint_s)

    def __repr__(self) -> str:
        return f"Member({self._spec.name}, {len(self._spec.fit_ids)} images)"

    def fit(self) -> None:
        """The fitted detector and the ids it was given are an artifact afterwards."""
        with owned_threads(self._spec.place.resources):
            self._store.make(self._spec.recipe, self._write)
        self._checkpoints.drop()

    def _write(self, folder: Path) -> None:
        spec, device = self._spec, device_for(self._spec.place.resources)
        source = spec.access.source(spec.fit_ids, spec.place, spec.augment)
        detector = build_detector(spec.detector, spec.role, device, spec.importance)
        detector.fit(source, spec.settings["seed"], self._heartbeat.report("fit"), self._checkpoints)
        save_file(detector.state(), folder / files.DETECTOR)
        write_table(folder / files.TRAINED_ON, pa.table({"image_id": source.image_ids}))
        write_log(folder, detector.log(), source.image_ids)


def load_detector(config: DetectorConfig, fitted: Artifact, resources: ResourcesConfig) -> Detector:
    """The detector a `fit` artifact holds, ready to score."""
    detector = build_detector(config, fitted.settings["role"], device_for(resources))
    return detector.load_state(load_file(fitted.path / files.DETECTOR))


def trained_on(fitted: Artifact) -> list[str]:
    """The ids of the images that a `fit` artifact's detector was given."""
    image_ids: list[str] = read_table(fitted.path / files.TRAINED_ON)["image_id"].to_pylist()
    return image_ids
