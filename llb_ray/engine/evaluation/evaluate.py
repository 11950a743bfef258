"""Measuring a run against labels, where there are any; the only stage besides the oracle that reads them.

How it is measured, in the words of every metrics.json (`protocol`):

- A mask's pixel is defective if it is > 0; binarised first, then resized to the detector's input size with nearest
  neighbours.  Maps are upsampled to that size (bilinear), then smoothed (`base.upsample`).
- AUPRO is integrated over the false-positive rate of all normal pixels up to `fpr_limit`, cut there by linear
  interpolation, and divided by the limit.
- Up to `EXACT_PIXELS` pixels are compared at once and exactly (`pixel_mode` exact).  Those of larger sets are counted
  by workers (streaming), and `pixel_error_bound` says how far each metric can be off.
- Where several labelled images show one object, its score is the highest of theirs, and it is anomalous if one of them
  is: `s_auroc`.
- Each type of defect is also measured alone, with all normal test images: `by_type`.  Its AUPRO is the one above, of
  the images of that type and the normal ones.
- Ignored pixels (`data.ignore_mask`), the same of all images or of each, do not count; a defect that is only there is
  unknown too.
- An anomalous image without a mask, or with an empty one, has an unknown pixel truth and is left out of the pixel
  metrics, and counted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from llb_ray.artifacts import Artifact, Recipe
from llb_ray.config import RunConfig
from llb_ray.data.image_masks import IgnoredPixels
from llb_ray.data.manifest import TEST, TRAIN
from llb_ray.data.tables import join_by_image
from llb_ray.engine.evaluation.ground_truth import GroundTruth
from llb_ray.engine.evaluation.pixel_counter import Grid, Pixels, PixelShard, pixel_shards
from llb_ray.engine.evaluation.pixel_metrics import UNDEFINED, of_counts, of_pixels
from llb_ray.engine.pixel_grid import PixelGrid
from llb_ray.ensemble.decision import KEPT, REJECTED
from llb_ray.metrics.image_metrics import image_metrics, object_metrics
from llb_ray.metrics.metric_names import of_detection
from llb_ray.metrics.streaming_pixel import MAX_BINS

EXACT_PIXELS = 2**25  # of all labelled test images; exact metrics take some 15 bytes of each
Metrics = dict[str, Any]
_PROTOCOL = {
    "mask": "pixel > 0 is defective; binarised, then nearest-neighbour resize to the detector's input size",
    "map": "bilinear upsampling to the detector's input size, then a Gaussian of sigma_px",
    "aupro": "8-connected regions of the resized masks; false-positive rate over all normal pixels up to fpr_limit, "
    "cut there by linear interpolation; divided by fpr_limit",
    "pixel_mode": f"exact up to {EXACT_PIXELS} pixels; beyond, streaming: scores counted in {MAX_BINS} bins at most, "
    "each metric within its pixel_error_bound",
    "object": "images of one group are one object: its score is the highest of theirs, anomalous if one of them is",
    "by_type": "the anomalous images of one type of defect and all normal images, measured as all are; regions and "
    "false-positive rate of aupro are of these images",
    "left_out": "anomalous images whose mask is missing or empty are left out of the pixel metrics",
}

_BY_CATEGORY = (
    "images of each category by themselves; the figures of the run are their means, but pixel metrics that are "
    "streaming, which are of all images together"
)


def protocol(config: RunConfig, ignored: IgnoredPixels | None = None) -> dict[str, Any]:
    """Protocol of the metrics, for comparison with those of others."""
    return _PROTOCOL | {"fpr_limit": config.evaluation.fpr_limit} | PixelGrid.of(config, ignored).settings


def grid(truth: GroundTruth, config: RunConfig) -> Grid:
    """The pixels that the metrics are about."""
    return Grid(PixelGrid.of(config, truth.ignored), truth.max_pixels)


def shards_to_count(scored: Sequence[Artifact], truth: GroundTruth, grid: Grid) -> list[PixelShard]:
    """Shards for workers to count; nothing where the test images are few enough, or there is no mask."""
    known = {image.image_id: image for image in truth.known_images()}
    small = len(known) * grid.of_maps.num_pixels <= EXACT_PIXELS
    return [] if small or not truth.masks(TEST) else list(pixel_shards(known, scored, grid))


def compute_metrics(
    config: RunConfig, truth: GroundTruth, purified: pa.Table, scores: pa.Table, counted: Sequence[Artifact] = ()
) -> Metrics:
    """The contents of metrics.json: what labels say of the decisions (schema `purified_dataset.PURIFIED`) and of the
    final detector's `scores` (image_id, score and map), as far as there are labels, and the protocol."""
    metrics = purification_metrics(purified, truth.known(TRAIN))
    metrics |= detection_metrics(scores, truth, config, counted)
    several = {"by_category": _BY_CATEGORY} if "by_category" in metrics else {}
    return {**metrics, "protocol": protocol(config, truth.ignored) | several}


def evaluate_recipe(
    config: RunConfig,
    truth: GroundTruth,
    made_from: Mapping[str, Artifact],
    scored: Sequence[Artifact],
    counted: Sequence[Artifact],
) -> Recipe:
    """Recipe of the metrics; `made_from` has images, labels and purified."""
    inputs = {name: artifact.content for name, artifact in made_from.items()}
    inputs |= {f"scores-{index:03d}": artifact.content for index, artifact in enumerate(scored)}
    inputs |= {f"pixels-{index:03d}": artifact.content for index, artifact in enumerate(counted)}
    return Recipe("evaluate", protocol(config, truth.ignored), inputs | {"masks": truth.masks_digest()})


def image_scores(images: pa.Table, scores: pa.Table) -> pa.Table:
    """Every image (schema `IMAGES`) with its `score` by the final detector."""
    return join_by_image(images, scores.select(["image_id", "score"]))


def purification_metrics(purified: pa.Table, label: Mapping[str, int]) -> Metrics:
    """Cleanness of the purified set, over the labelled training images; empty if there are none.

    `contamination`: share of anomalies before; `residual_contamination`: after; `normals_lost`: share of the
    normals that were rejected.
    """
    decision = dict(zip(purified["image_id"].to_pylist(), purified["decision"].to_pylist(), strict=True))
    known = [(label[image_id], kept) for image_id, kept in decision.items() if image_id in label]
    if not known:
        return {}
    kept = [anomalous for anomalous, decided in known if decided == KEPT]
    normal = [decided for anomalous, decided in known if not anomalous]
    return {
        "contamination": _mean([anomalous for anomalous, _ in known]),
        "residual_contamination": _mean(kept),
        "normals_lost": _mean([decided == REJECTED for decided in normal]),
    }


def detection_metrics(
    scores: pa.Table, truth: GroundTruth, config: RunConfig, counted: Sequence[Artifact] = ()
) -> Metrics:
    """Image, object and pixel metrics of the final detector on the labelled test images.

    `scores` has image_id, score and map; `counted` is what workers counted of `shards_to_count`, if there were any.
    A metric that is undefined (one class only, no mask) is None; the dictionary is empty without labels.  Of several
    categories it has each one's metrics in ``by_category``, and their means.
    """
    together, parts = _detection(scores, truth, config, counted), truth.by_category(TEST)
    if len(parts) <= 1:
        return together
    by_category = {name: _detection(scores, part, config, with_masks=not counted) for name, part in parts.items()}
    types = {f"{name}: {kind}": one for name, part in by_category.items() for kind, one in part["by_type"].items()}
    return together | _means(by_category) | {"by_type": types, "by_category": by_category}


def _means(by_category: Mapping[str, Metrics]) -> Metrics:
    """The mean of each metric over the categories in which it is defined."""
    named = {name for part in by_category.values() for name in of_detection() if name in part}
    known = {name: [part[name] for part in by_category.values() if part.get(name) is not None] for name in named}
    return {name: _mean(values) for name, values in known.items()}


def _detection(
    scores: pa.Table,
    truth: GroundTruth,
    config: RunConfig,
    counted: Sequence[Artifact] = (),
    with_masks: bool = True,
) -> Metrics:
    label, group = truth.known(TEST), truth.groups(TEST)
    rows = [row for row, image_id in enumerate(scores["image_id"].to_pylist()) if image_id in label]
    if not rows:
        return {}
    taken = scores.select(["image_id", "score"]).take(rows)
    image_ids, score_N = taken["image_id"].to_pylist(), taken["score"].to_numpy()
    label_N = np.array([label[image_id] for image_id in image_ids])
    metrics: Metrics = {"num_test": len(rows), "num_test_anomalous": int(label_N.sum())}
    metrics |= image_metrics(score_N, label_N)
    metrics |= object_metrics(score_N, label_N, [group[image_id] for image_id in image_ids])
    metrics |= {"by_type": _by_type(dict(zip(image_ids, score_N, strict=True)), truth)}
    if not truth.masks(TEST) or not with_masks:
        return metrics
    if counted:
        found, aupro = of_counts(counted, config.evaluation.fpr_limit)
    else:
        pixels = _pixels(scores.take(rows), truth, grid(truth, config))
        found, aupro = of_pixels(pixels, config.evaluation.fpr_limit)
    by_type = {kind: {**one, **aupro.get(kind, UNDEFINED)} for kind, one in metrics["by_type"].items()}
    return {**metrics, **found, "by_type": by_type}


def _by_type(score: Mapping[str, float], truth: GroundTruth) -> Metrics:
    """Metrics of each type of defect against the same normals; empty where all images are normal."""
    normal_N = [score[image_id] for image_id, label in truth.known(TEST).items() if not label]
    return {
        kind: {"num": len(ids), "i_auroc": _i_auroc(normal_N, [score[image_id] for image_id in ids])}
        for kind, ids in truth.types(TEST).items()
    }


def _i_auroc(normal_N: Sequence[float], anomalous_N: Sequence[float]) -> float | None:
    label_N = np.repeat([0, 1], [len(normal_N), len(anomalous_N)])
    return image_metrics(np.array([*normal_N, *anomalous_N]), label_N)["i_auroc"]


def _pixels(scores: pa.Table, truth: GroundTruth, grid: Grid) -> Pixels:
    known = {image.image_id: image for image in truth.known_images()}
    images = [known[image_id] for image_id in scores["image_id"].to_pylist()]
    return grid.pixels(images, scores["map"].combine_chunks().to_numpy_ndarray())


def _mean(values: list[Any]) -> float | None:
    return float(np.mean(values)) if values else None
