"""One detector at work: fit on a share, score a list of images.

A sub-model and the final detector are the same thing here; they differ in the share, the budget (`role`) and in
whether pixel maps are kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file

from llb_ray.artifacts import Artifact, Recipe, Store, digest
from llb_ray.config import DetectorConfig, ImportanceConfig
from llb_ray.data.tables import read_table, write_batches, write_table
from llb_ray.detectors.base import Detector, Scores, row_batches
from llb_ray.detectors.build import Role, build_detector
from llb_ray.engine import files
from llb_ray.engine.features import CachedSource
from llb_ray.engine.trainlog import write_log
from llb_ray.engine.worker import Heartbeat, Place, device_for, owned_threads
from llb_ray.ensemble.scores import assemble, member_scores
from llb_ray.errors import MemberError


@dataclass(frozen=True)
class Trained:
    """A member's artifacts: the fitted detector, and its scores."""

    fitted: Artifact
    scored: Artifact


@dataclass(frozen=True)
class MemberSpec:
    """Everything a member needs to know: ids and features, and no path, so that no folder's name can help it."""

    name: str
    place: Place
    detector: DetectorConfig
    importance: ImportanceConfig | None  # None: the loss is a plain mean
    settings: Mapping[str, Any]  # role, seed, and the learner's own
    features: tuple[Recipe, ...]  # the shards that hold the images
    encoder_digest: str
    fit_ids: tuple[str, ...]
    score_ids: tuple[str, ...]

    @property
    def role(self) -> Role:
        role: Role = self.settings["role"]
        return role

    @property
    def keeps_maps(self) -> bool:
        return self.role == "final"

    @property
    def fit_recipe(self) -> Recipe:
        return Recipe("fit", self.settings, {"encoder": self.encoder_digest, "images": digest(self.fit_ids)})

    def score_recipe(self, fitted: Artifact) -> Recipe:
        inputs = {"detector": fitted.content, "images": digest(self.score_ids)}
        return Recipe("score", {"maps": self.keeps_maps}, inputs)

    def find(self, store: Store) -> Trained | None:
        """What this member left behind, if it has finished."""
        fitted = store.find(self.fit_recipe)
        scored = fitted and store.find(self.score_recipe(fitted))
        return Trained(fitted, scored) if fitted and scored else None

    def get(self, store: Store) -> Trained:
        """What this member left behind; raises ArtifactError if it has not finished."""
        fitted = store.get(self.fit_recipe)
        return Trained(fitted, store.get(self.score_recipe(fitted)))


class Member:
    """Fits on its share, then scores every image it is given; both steps are artifacts."""

    STEPS: ClassVar[tuple[str, ...]] = ("fit", "score")

    def __init__(self, spec: MemberSpec) -> None:
        self._spec = spec
        self._store = Store(spec.place.store)
        self._heartbeat = Heartbeat(spec.place, spec.name)

    def __repr__(self) -> str:
        return f"Member({self._spec.name}, {len(self._spec.fit_ids)} images)"

    def fit(self) -> None:
        """The fitted detector and the ids it was given are an artifact afterwards."""
        with owned_threads(self._spec.place.resources):
            self._store.make(self._spec.fit_recipe, self._write_fit)

    def score(self) -> None:
        """The score of every image in `score_ids` is an artifact afterwards; scores that are not finite are refused."""
        fitted = self._store.get(self._spec.fit_recipe)
        with owned_threads(self._spec.place.resources):
            self._store.make(self._spec.score_recipe(fitted), lambda folder: self._write_scores(folder, fitted))

    def _write_fit(self, folder: Path) -> None:
        device = device_for(self._spec.place.resources)
        source = self._source(self._spec.fit_ids, device)
        detector = build_detector(self._spec.detector, self._spec.role, device, self._spec.importance)
        detector.fit(source, self._spec.settings["seed"], self._heartbeat.report("fit"))
        save_file(detector.state(), folder / files.DETECTOR)
        write_table(folder / files.TRAINED_ON, pa.table({"image_id": source.image_ids}))
        write_log(folder, detector.log(), source.image_ids)

    def _write_scores(self, folder: Path, fitted: Artifact) -> None:
        device = device_for(self._spec.place.resources)
        detector = load_detector(self._spec.detector, self._spec.role, fitted, device)
        source = self._source(self._spec.score_ids, device)
        write_batches(folder / files.MEMBER_SCORES, self._scored_batches(detector, source))

    def _scored_batches(self, detector: Detector, source: CachedSource) -> Iterator[pa.RecordBatch]:
        report = self._heartbeat.report("score")
        for rows in row_batches(len(source), self._spec.place.resources.batch_size):
            image_ids = [source.image_ids[row] for row in rows]
            yield score_batch(self._spec.name, image_ids, detector.score(source.batch(rows)), self._spec.keeps_maps)
            report(int(rows[-1]) + 1, len(source), "images")

    def _source(self, image_ids: Sequence[str], device: torch.device) -> CachedSource:
        artifacts = [self._store.get(recipe) for recipe in self._spec.features]
        return CachedSource(artifacts, image_ids, device)


def load_detector(config: DetectorConfig, role: Role, fitted: Artifact, device: torch.device) -> Detector:
    """The detector a `fit` artifact holds, ready to score."""
    return build_detector(config, role, device).load_state(load_file(fitted.path / files.DETECTOR))


def read_scores(artifact: Artifact) -> pa.Table:
    """image_id, score and (final detector) map of a `score` artifact, memory-mapped."""
    return read_table(artifact.path / files.MEMBER_SCORES)


def trained_on(fitted: Artifact) -> list[str]:
    """The ids of the images that a `fit` artifact's detector was given."""
    image_ids: list[str] = read_table(fitted.path / files.TRAINED_ON)["image_id"].to_pylist()
    return image_ids


def score_matrix(scored: Sequence[Artifact], owned: Sequence[Sequence[str]]) -> pa.Table:
    """The score matrix (schema `scores.SCORES`) from the `score` artifacts and shares of member 0, 1, ..."""
    tables = []
    for member, (rows, share) in enumerate(zip(map(read_scores, scored), owned, strict=True)):
        tables.append(member_scores(rows["image_id"].to_pylist(), member, rows["score"].to_numpy(), share))
    return assemble(tables)


def score_batch(name: str, image_ids: Sequence[str], scores: Scores, keeps_maps: bool) -> pa.RecordBatch:
    """Columns image_id, score and, if asked, map; raises MemberError for a score that is not finite."""
    bad = np.flatnonzero(~np.isfinite(scores.score_N))
    if len(bad):
        raise MemberError(
            f"{name} gave image {image_ids[bad[0]]} the score {scores.score_N[bad[0]]}; lower the learning rate or "
            "take that image out of the folder"
        )
    columns = [pa.array(image_ids, pa.string()), pa.array(scores.score_N, pa.float32())]
    names = ["image_id", "score"]
    if keeps_maps:
        columns.append(pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(scores.map_NHW)))
        names.append("map")
    return pa.RecordBatch.from_arrays(columns, names=names)
