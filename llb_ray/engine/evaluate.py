"""Measuring a run against labels, where there are any; the only stage besides the oracle that reads them.

Pixel metrics are computed at the detector's input size: maps are upsampled and smoothed (`base.upsample`), masks
resized with nearest neighbours and binarised at > 0.  An anomalous image without a mask, or with an empty one, has
an unknown pixel truth and is left out of the pixel metrics, and counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.artifacts import digest
from llb_ray.config import EvaluationConfig
from llb_ray.data.images import read_mask
from llb_ray.data.manifest import path_from_text
from llb_ray.detectors.base import upsample
from llb_ray.disk import file_digest
from llb_ray.ensemble.purify import KEPT, REJECTED
from llb_ray.errors import DataError
from llb_ray.metrics.image import image_metrics
from llb_ray.metrics.pixel import pixel_metrics

Metrics = dict[str, Any]
_PROTOCOL = {
    "mask": "pixel > 0 is defective; nearest-neighbour resize to the detector's input size",
    "map": "bilinear upsampling to the detector's input size, then a Gaussian of sigma_px",
    "aupro": "8-connected regions; false-positive rate over all normal pixels up to fpr_limit, divided by it",
    "left_out": "anomalous images whose mask is missing or empty are left out of the pixel metrics",
}


@dataclass(frozen=True)
class Truth:
    """Labels and masks; `table` has the LABELS columns beside image_id and split."""

    table: pa.Table
    root: Path
    max_pixels: int

    def known(self, split: str) -> dict[str, int]:
        """image_id -> label of the labelled images of a split."""
        rows = self.table.filter((pc.field("split") == split) & pc.field("label").is_valid())
        return dict(zip(rows["image_id"].to_pylist(), rows["label"].to_pylist(), strict=True))

    def masks(self, split: str) -> dict[str, Path]:
        """image_id -> mask file of the images of a split that have one."""
        rows = self.table.filter((pc.field("split") == split) & pc.field("mask_path").is_valid())
        pairs = zip(rows["image_id"].to_pylist(), rows["mask_path"].to_pylist(), strict=True)
        return {image_id: self.root / path_from_text(path) for image_id, path in pairs}

    def masks_digest(self) -> str:
        """What the masks of the test split show, whatever their names; raises DataError for one that is gone."""
        try:
            return digest({image_id: file_digest(path) for image_id, path in self.masks("test").items()})
        except OSError as error:
            raise DataError(f"{error.filename}: the mask cannot be read ({error.strerror}); put it back") from error


def protocol(config: EvaluationConfig, size_px: int) -> dict[str, Any]:
    """How the metrics are measured, for whoever compares them with others'."""
    settings = {"fpr_limit": config.fpr_limit, "sigma_px": config.sigma_at(size_px), "size_px": size_px}
    return _PROTOCOL | settings


def purification_metrics(purified: pa.Table, label: Mapping[str, int]) -> Metrics:
    """How clean the purified set is, over the labelled training images; empty if there are none.

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


def detection_metrics(scores: pa.Table, truth: Truth, size_px: int, config: EvaluationConfig) -> Metrics:
    """I-AUROC, AP, F1-max, P-AUROC, P-AP, AUPRO of the final detector on the labelled test images.

    A metric that is undefined (one class only, no mask) is None; the dictionary is empty without labels.
    """
    label = truth.known("test")
    rows = [row for row, image_id in enumerate(scores["image_id"].to_pylist()) if image_id in label]
    if not rows:
        return {}
    scores = scores.take(rows).combine_chunks()
    image_ids = scores["image_id"].to_pylist()
    label_N = np.array([label[image_id] for image_id in image_ids])
    metrics: Metrics = {"num_test": len(rows), "num_test_anomalous": int(label_N.sum())}
    metrics |= image_metrics(scores["score"].to_numpy(), label_N)
    return metrics | _pixel(scores, label_N, truth, size_px, config) if truth.masks("test") else metrics


def _pixel(
    scores: pa.Table, label_N: npt.NDArray[np.int_], truth: Truth, size_px: int, config: EvaluationConfig
) -> Metrics:
    files = truth.masks("test")
    masks = [_mask(files.get(image_id), size_px, truth.max_pixels) for image_id in scores["image_id"].to_pylist()]
    rows = [row for row, mask in enumerate(masks) if mask.any() or not label_N[row]]
    if not rows:
        return dict.fromkeys(("p_auroc", "p_ap", "aupro")) | {"num_left_out_of_pixel_metrics": len(label_N)}
    map_NHW = scores["map"].combine_chunks().to_numpy_ndarray()[rows]
    smooth_NHW = upsample(map_NHW, size_px, config.sigma_at(size_px))
    found = pixel_metrics(smooth_NHW, np.stack([masks[row] for row in rows]), config.fpr_limit)
    return {**found, "num_left_out_of_pixel_metrics": len(label_N) - len(rows)}


def _mask(path: Path | None, size_px: int, max_pixels: int) -> npt.NDArray[np.bool_]:
    return np.zeros((size_px, size_px), dtype=bool) if path is None else read_mask(path, size_px, max_pixels)


def _mean(values: list[Any]) -> float | None:
    return float(np.mean(values)) if values else None
