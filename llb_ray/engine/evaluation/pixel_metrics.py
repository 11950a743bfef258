"""Pixel metrics of all test images, and AUPRO of each kind of defect, of pixels at hand or of what workers counted.

The pixels are gone through once, by kind: those of all kinds are the whole, and those of one kind and of the normal
images are what is said of that kind.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from llb_ray.artifacts import Artifact
from llb_ray.engine.evaluation.ground_truth import NORMAL
from llb_ray.engine.evaluation.pixel_counter import Pixels, merge_counts
from llb_ray.metrics.exact_pixel import Ranked, ranked_metrics
from llb_ray.metrics.streaming_pixel import PixelCounts
from llb_ray.metrics.threshold_curves import Metrics

Told = dict[str, Any]
Part = TypeVar("Part", Ranked, PixelCounts)
CostModel = tuple[Metrics, Metrics]  # the metrics, and how far off each may be
UNDEFINED: Told = {"aupro": None, "aupro_error_bound": None}  # of a kind whose pixel truth is not known


def of_pixels(pixels: Pixels, fpr_limit: float) -> tuple[Told, dict[str, Told]]:
    """Entries of metrics.json about all pixels, and about each kind of defect."""
    parts = {kind: Ranked.of(map_NHW, mask_NHW, seen) for kind, map_NHW, mask_NHW, seen in pixels.by_kind()}
    return _told("exact", parts, partial(_ranked, fpr_limit=fpr_limit), len(pixels.left_out))


def of_counts(counted: Sequence[Artifact], fpr_limit: float) -> tuple[Told, dict[str, Told]]:
    """The same of the pixels that workers counted."""
    parts, num_left_out = merge_counts(counted)
    return _told("streaming", parts, partial(_summed, fpr_limit=fpr_limit), num_left_out)


def _told(
    mode: str, parts: Mapping[str, Part], measure: Callable[[Sequence[Part]], CostModel], num_left_out: int
) -> tuple[Told, dict[str, Told]]:
    found, bounds = measure(list(parts.values()))
    about = {"pixel_mode": mode, "pixel_error_bound": bounds, "num_left_out_of_pixel_metrics": num_left_out}
    of_kinds = {
        kind: measure([part for one, part in parts.items() if one in (NORMAL, kind)])
        for kind in parts
        if kind != NORMAL
    }
    return {**found, **about}, {
        kind: {"aupro": one["aupro"], "aupro_error_bound": bound["aupro"]} for kind, (one, bound) in of_kinds.items()
    }


def _ranked(parts: Sequence[Ranked], fpr_limit: float) -> CostModel:
    found = ranked_metrics(parts, fpr_limit)
    return found, {name: None if value is None else 0.0 for name, value in found.items()}


def _summed(parts: Sequence[PixelCounts], fpr_limit: float) -> CostModel:
    counts = PixelCounts()
    for part in parts:
        counts.merge(part)
    return counts.metrics(fpr_limit), counts.error_bounds(fpr_limit)
