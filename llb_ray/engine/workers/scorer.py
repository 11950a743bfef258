"""Scoring by detectors: every one of them scores every image, and an image's layers are read once for all of them.

Work is cut by images and not by detectors, so scoring resumes by shard, spreads over all GPUs however many members
there are, and costs one pass over the images even where features are encoded on the fly
(`feature_access.StreamedFeatures`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from llb_ray.artifacts import Artifact, Recipe, digest
from llb_ray.config import DetectorConfig
from llb_ray.data.image_masks import IgnoredPixels
from llb_ray.data.tables import batch_writer, read_table
from llb_ray.detectors.base import Detector, Layers, Report, Scores
from llb_ray.engine import filenames
from llb_ray.engine.execution.heartbeat import Heartbeat
from llb_ray.engine.execution.protocols import WorkerContext, owned_threads
from llb_ray.engine.features.feature_access import FeatureAccess, OrderedSource
from llb_ray.engine.features.mean_features import FEATURES, NUM_MEANS, features_column, mean_features
from llb_ray.engine.workers.fitter import load_detector
from llb_ray.errors import MemberError


@dataclass(frozen=True)
class ScoreShard:
    """Some images, and the artifact that holds what every detector thinks of them."""

    image_ids: tuple[str, ...]
    recipe: Recipe


def score_shard(
    image_ids: Sequence[str],
    encoder_digest: str,
    fitted: Mapping[str, Artifact],
    keeps_maps: bool,
    ignored: IgnoredPixels | None,
) -> ScoreShard:
    """The shard of these images, scored by the detectors in `fitted`, by name, without what is ignored."""
    inputs = {"encoder": encoder_digest, "images": digest(list(image_ids))}
    inputs |= {} if ignored is None else ignored.inputs(image_ids)
    inputs |= {name: artifact.content for name, artifact in fitted.items()}
    settings = {"maps": True, "features": NUM_MEANS} if keeps_maps else {"maps": False}
    return ScoreShard(tuple(image_ids), Recipe("score", settings, inputs))


@dataclass(frozen=True)
class ScorerSpec:
    """One worker's part of the scoring."""

    name: str
    context: WorkerContext
    detector: DetectorConfig
    fitted: Mapping[str, Artifact]  # by the detector's name, in the order of their scores
    access: FeatureAccess
    shards: tuple[ScoreShard, ...]
    keeps_maps: bool  # of the only detector there is then

    @property
    def title(self) -> str:
        return self.name


class Scorer:
    """Scores some shards of images with all detectors."""

    STEPS: ClassVar[tuple[str, ...]] = ("score",)

    def __init__(self, spec: ScorerSpec) -> None:
        self._spec = spec
        self._store = spec.context.store
        self._heartbeat = Heartbeat(spec.context, spec.name)

    def __repr__(self) -> str:
        return f"Scorer({self._spec.name}, {len(self._spec.fitted)} detectors)"

    def score(self) -> None:
        """Every shard of this worker is a finished artifact afterwards; scores that are not finite are refused."""
        todo = [shard for shard in self._spec.shards if self._store.find(shard.recipe) is None]
        if not todo:
            return
        report = self._heartbeat.report("score")
        report(0, sum(len(shard.image_ids) for shard in todo), "images")
        with owned_threads(self._spec.context.resources):
            detectors = {name: self._load(fitted) for name, fitted in self._spec.fitted.items()}
            source = self._spec.access.source([i for shard in todo for i in shard.image_ids], self._spec.context)
            start = 0
            for shard in todo:
                stop = start + len(shard.image_ids)
                with self._store.building(shard.recipe) as folder:
                    if folder is not None:
                        self._write(folder / filenames.SCORES, detectors, source, range(start, stop), report)
                report(stop, len(source), "images")
                start = stop

    def _load(self, fitted: Artifact) -> Detector:
        return load_detector(self._spec.detector, fitted, self._spec.context.resources)

    def _write(
        self, path: Path, detectors: Mapping[str, Detector], source: OrderedSource, rows: range, report: Report
    ) -> None:
        """Write the scores of these rows of `source`, batch by batch."""
        done, size = rows.start, self._spec.detector.images_at_once(self._spec.context.resources.batch_size)
        with batch_writer(path) as append:
            for image_ids, layers in source.batches(rows.start, rows.stop, size):
                if self._spec.keeps_maps:
                    ((name, detector),) = detectors.items()
                    append(map_batch(name, detector, image_ids, layers))
                else:
                    append(score_batch(detectors, image_ids, layers))
                done += len(image_ids)
                report(done, len(source), "images")


def score_batch(detectors: Mapping[str, Detector], image_ids: Sequence[str], layers: Layers) -> pa.RecordBatch:
    """Scores of all detectors for a batch: image_id and scores, one per detector, in their order."""
    columns = [_finite(name, detector.score(layers), image_ids).score_N for name, detector in detectors.items()]
    offsets = np.arange(len(image_ids) + 1, dtype=np.int32) * len(detectors)
    scores = pa.ListArray.from_arrays(offsets, np.stack(columns, axis=1).ravel())
    return pa.RecordBatch.from_pydict({"image_id": pa.array(image_ids), "scores": scores})


def map_batch(name: str, detector: Detector, image_ids: Sequence[str], layers: Layers) -> pa.RecordBatch:
    """Scores and maps of one detector for a batch, and the images' mean features: image_id, score, map, features."""
    scores = _finite(name, detector.score(layers), image_ids)
    maps = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(scores.map_NHW))
    columns = {"image_id": pa.array(image_ids), "score": pa.array(scores.score_N), "map": maps}
    return pa.RecordBatch.from_pydict(columns | {FEATURES: features_column(mean_features(layers))})


def _finite(name: str, scores: Scores, image_ids: Sequence[str]) -> Scores:
    bad = np.flatnonzero(~np.isfinite(scores.score_N))
    if len(bad):
        raise MemberError(
            f"{name} gave image {image_ids[bad[0]]} the score {scores.score_N[bad[0]]}; lower the learning rate or "
            "take that image out of the folder"
        )
    return scores


def read_scores(shards: Sequence[Artifact]) -> pa.Table:
    """image_id and scores (members), or image_id, score, map and features (final detector), memory-mapped."""
    return pa.concat_tables([read_table(artifact.file(filenames.SCORES)) for artifact in shards])
