"""Scores made again from images and detectors: what no forger of tables can derive.

Numbers from another machine, batch size or device differ in float noise, so that scores within `TOLERANCE` of the
detector's range are the same.  Whether a detector was really trained on what its record says is not proved by it.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from llb_ray.artifacts import Artifact
from llb_ray.config import ResourcesConfig
from llb_ray.detectors.base import Detector, Scores
from llb_ray.detectors.factory import encoder_fingerprint
from llb_ray.engine.execution.protocols import owned_threads
from llb_ray.engine.features.encoding import EncoderSpec, FeatureExtractor, ImageRef, layers_of
from llb_ray.engine.features.mean_features import FEATURES, features_of, mean_features
from llb_ray.engine.features.measured_bands import read_scale
from llb_ray.engine.features.measured_levels import read_levels
from llb_ray.engine.inference.trained_detector import batched
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.pipeline.stages import FINAL
from llb_ray.engine.workers.fitter import load_detector, member_name
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.errors import AuditError

TOLERANCE = 0.01  # of the range of a detector's scores
_NOISE = 1e-6
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Said:
    """Recorded output of a detector: scores by image_id, and the smallest difference that counts."""

    name: str
    fitted: Artifact
    scores: Mapping[str, float]
    maps: Mapping[str, Floats]  # of the chosen images; empty where none were kept
    features: Mapping[str, Floats]  # likewise; empty in runs of earlier versions, too

    @property
    def tolerance(self) -> float:
        values = list(self.scores.values())
        return TOLERANCE * (max(values) - min(values)) + _NOISE


def scores_again(run: FinishedRun, number: int) -> str:
    """`number` images chosen at random, or all with 0, scored by every detector of the run once more."""
    images = run.images.select(["image_id", "path"]).to_pylist()
    chosen = images if number == 0 else random.SystemRandom().sample(images, min(number, len(images)))
    refs = [ImageRef(row["image_id"], row["path"]) for row in chosen]
    resources = _resources(run)
    with owned_threads(resources):
        encoding = EncoderSpec(_photographs(run), resources)
        detectors = [(said, _loaded(run, said, resources)) for said in _said(run, [row["image_id"] for row in chosen])]
        for batch in batched(refs, encoding.batch_size):
            layers = layers_of(encoding.layers(batch), encoding.device)
            for said, detector in detectors:
                _compare(said, [image.image_id for image in batch], detector.score(layers), mean_features(layers))
    num_detectors = len({said.fitted.content for said, _ in detectors})  # held-out maps are by one of the others
    return (
        f"{len(refs)} images scored again by {num_detectors} detectors, "
        f"all within {TOLERANCE:.0%} of the range of what was written"
    )


def _photographs(run: FinishedRun) -> FeatureExtractor:
    config = run.config
    fingerprint, scales = (
        encoder_fingerprint(config.detector),
        (read_scale(run.made.bands), read_levels(run.made.levels), run.ignored_pixels),
    )
    found = FeatureExtractor(run.root, config.data.max_pixels, config.detector, fingerprint, *scales)
    if found.key != run.made.final.inputs.get("encoder"):
        raise AuditError(
            "no score can be made again: the backbone's weights or library versions are not those of the run; put the "
            "same ones back, or pass --rescore none"
        )
    return found


def _resources(run: FinishedRun) -> ResourcesConfig:
    """The run's own; the processor does where it had a GPU and there is none."""
    resources = run.config.resources
    if torch.cuda.is_available():
        return resources
    return resources.model_copy(update={"num_gpus": 0, "device": "cpu"})


def _loaded(run: FinishedRun, said: Said, resources: ResourcesConfig) -> Detector:
    return load_detector(run.config.detector_of(said.fitted.settings["role"]), said.fitted, resources)


def _said(run: FinishedRun, chosen: Sequence[str]) -> Iterator[Said]:
    made = run.made
    yield _mapped(FINAL, made.final, made.final_scores, chosen)
    if made.member_scores:
        wrote = read_scores(made.member_scores)
        columns = zip(*wrote["scores"].to_pylist(), strict=True)
        for (number, fitted), column in zip(made.by_number().items(), columns, strict=True):
            yield Said(member_name(number), fitted, _by_id(wrote["image_id"].to_pylist(), column), {}, {})
    shards = [shard for shards in (*made.round_scores, made.fold_scores) for shard in shards]
    for fitted in made.folds:
        mine = read_scores([shard for shard in shards if fitted.content in shard.inputs.values()])
        scores = [score for (score,) in mine["scores"].to_pylist()]
        yield Said("a detector without a fold", fitted, _by_id(mine["image_id"].to_pylist(), scores), {}, {})
    for fitted in [*made.folds, *made.by_number().values()]:
        shards = [shard for shard in made.held_out_maps if fitted.content in shard.inputs.values()]
        if shards and (said := _mapped("held-out maps", fitted, shards, chosen)).maps:
            yield said


def _mapped(name: str, fitted: Artifact, shards: Sequence[Artifact], chosen: Sequence[str]) -> Said:
    """The scores and maps that a detector is said to have given, of the chosen images in these shards."""
    table = read_scores(shards)
    rows = table.filter(pc.is_in(table["image_id"], pa.array(chosen)))
    maps = {
        image_id: map_HW
        for batch in rows.to_batches()
        for image_id, map_HW in zip(batch["image_id"].to_pylist(), batch["map"].to_numpy_ndarray(), strict=True)
    }
    features = (
        dict(zip(rows["image_id"].to_pylist(), features_of(rows), strict=True)) if FEATURES in rows.schema.names else {}
    )
    return Said(name, fitted, _by_id(table["image_id"].to_pylist(), table["score"].to_pylist()), maps, features)


def _by_id(image_ids: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    return dict(zip(image_ids, scores, strict=True))


def _compare(said: Said, image_ids: Sequence[str], again: Scores, feature_NS: Floats) -> None:
    columns = again.score_N.tolist(), again.map_NHW, feature_NS
    for image_id, score, map_HW, feature_S in zip(image_ids, *columns, strict=True):
        wrote = said.scores.get(image_id, score)
        if not abs(score - wrote) <= said.tolerance:
            raise AuditError(f"{said.name}: image {image_id} has the score {wrote:.6g}, and gets {score:.6g} again")
        if image_id in said.maps and not _same(said.maps[image_id], map_HW):
            raise AuditError(f"{said.name}: image {image_id} has another map than it gets again")
        if image_id in said.features and not _same(said.features[image_id], feature_S):
            raise AuditError(f"{said.name}: image {image_id} has other mean features than it gets again")


def _same(wrote: Floats, again: Floats) -> bool:
    """True if a map, or mean features, are the same within the tolerance of their range."""
    if wrote.shape != again.shape:
        return False
    tolerance = TOLERANCE * float(again.max() - again.min()) + _NOISE
    # The mean: a patch of the memory itself is at distance 0 but for rounding, of which a placed map has the root.
    return bool(np.abs(wrote - again).mean() <= tolerance)
