"""Detectors at work: every one of them scores every image, and an image's layers are read once for all of them.

Work is cut by images and not by detectors, so scoring resumes by shard, spreads over all GPUs however many members
there are, and costs one pass over the images even where features are encoded anew (`source.Streamed`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from llb_ray.artifacts import Artifact, Recipe, Store, digest
from llb_ray.config import DetectorConfig
from llb_ray.data.tables import read_table, write_batches
from llb_ray.detectors.base import Detector, Layers, Scores
from llb_ray.engine import files
from llb_ray.engine.member import load_detector
from llb_ray.engine.source import Access, OrderedSource
from llb_ray.engine.worker import Heartbeat, Place, owned_threads
from llb_ray.errors import MemberError


@dataclass(frozen=True)
class ScoreShard:
    """Some images, and the artifact that holds what every detector thinks of them."""

    image_ids: tuple[str, ...]
    recipe: Recipe


def score_shard(
    image_ids: Sequence[str], encoder_digest: str, fitted: Mapping[str, Artifact], keeps_maps: bool
) -> ScoreShard:
    """The shard of these images, scored by the detectors in `fitted`, by name."""
    inputs = {"encoder": encoder_digest, "images": digest(list(image_ids))}
    inputs |= {name: artifact.content for name, artifact in fitted.items()}
    return ScoreShard(tuple(image_ids), Recipe("score", {"maps": keeps_maps}, inputs))


@dataclass(frozen=True)
class ScorerSpec:
    """One worker's part of the scoring."""

    name: str
    place: Place
    detector: DetectorConfig
    fitted: Mapping[str, Artifact]  # by the detector's name, in the order of the score table's `member` column
    access: Access
    shards: tuple[ScoreShard, ...]


class Scorer:
    """Scores some shards of images with all detectors."""

    STEPS: ClassVar[tuple[str, ...]] = ("score",)

    def __init__(self, spec: ScorerSpec) -> None:
        self._spec = spec
        self._store = Store(spec.place.store)
        self._report = Heartbeat(spec.place, spec.name).report("score")

    def __repr__(self) -> str:
        return f"Scorer({self._spec.name}, {len(self._spec.fitted)} detectors)"

    def score(self) -> None:
        """Every shard of this worker is a finished artifact afterwards; scores that are not finite are refused."""
        todo = [shard for shard in self._spec.shards if self._store.find(shard.recipe) is None]
        if not todo:
            return
        with owned_threads(self._spec.place.resources):
            detectors = {name: self._load(fitted) for name, fitted in self._spec.fitted.items()}
            source = self._spec.access.source([i for shard in todo for i in shard.image_ids], self._spec.place)
            done = 0
            for shard in todo:
                rows = self._rows(detectors, source, done, done + len(shard.image_ids), shard.recipe.settings["maps"])
                self._store.make(shard.recipe, partial(_write, rows=rows))
                done += len(shard.image_ids)
                self._report(done, len(source), "images")

    def _load(self, fitted: Artifact) -> Detector:
        return load_detector(self._spec.detector, fitted, self._spec.place.resources)

    def _rows(
        self, detectors: Mapping[str, Detector], source: OrderedSource, start: int, stop: int, keeps_maps: bool
    ) -> Iterator[pa.RecordBatch]:
        done = start
        for image_ids, layers in source.batches(start, stop, self._spec.place.resources.batch_size):
            yield from score_batches(detectors, image_ids, layers, keeps_maps)
            done += len(image_ids)
            self._report(done, len(source), "images")


def score_batches(
    detectors: Mapping[str, Detector], image_ids: Sequence[str], layers: Layers, keeps_maps: bool
) -> Iterator[pa.RecordBatch]:
    """What each detector thinks of a batch: image_id, member (its place in `detectors`), score and, if asked, map."""
    for member, (name, detector) in enumerate(detectors.items()):
        yield _score_batch(name, member, image_ids, detector.score(layers), keeps_maps)


def _score_batch(name: str, member: int, image_ids: Sequence[str], scores: Scores, keeps_maps: bool) -> pa.RecordBatch:
    bad = np.flatnonzero(~np.isfinite(scores.score_N))
    if len(bad):
        raise MemberError(
            f"{name} gave image {image_ids[bad[0]]} the score {scores.score_N[bad[0]]}; lower the learning rate or "
            "take that image out of the folder"
        )
    members = pa.array([member] * len(image_ids), pa.int16())
    columns = {"image_id": pa.array(image_ids), "member": members, "score": pa.array(scores.score_N)}
    if keeps_maps:
        columns["map"] = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(scores.map_NHW))
    return pa.RecordBatch.from_pydict(columns)


def read_scores(shards: Sequence[Artifact]) -> pa.Table:
    """image_id, member, score and (final detector) map of `score` artifacts, memory-mapped."""
    return pa.concat_tables([read_table(artifact.path / files.SCORES) for artifact in shards])


def _write(folder: Path, rows: Iterator[pa.RecordBatch]) -> None:
    write_batches(folder / files.SCORES, rows)
