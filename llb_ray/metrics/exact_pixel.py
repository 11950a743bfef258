"""Exact pixel metrics over maps held in memory: AUROC, average precision, F1-max and AUPRO of all pixels.

Shape suffixes: N images, H x W pixels, P defective pixels in C order, Q normal pixels, rising, T distinct scores of
defective pixels from the highest down (`llb_ray.metrics.threshold_curves`).  Maps rise with abnormality.

The normal pixels need a plain sort, no argsort (8 bytes a pixel) and no curve of their own length.  What does not fit
in memory is counted: `llb_ray.metrics.streaming_pixel`.

What a pixel is: the mask alone decides.  An image with an empty mask adds normal pixels and no region, also if
its label says anomalous; one whose mask is *missing* must be left out by the caller, not passed as empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from scipy.ndimage import label
from sklearn.utils import assert_all_finite

from llb_ray.metrics.threshold_curves import NAMES, Counts, Doubles, Metrics, Steps

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Regions = npt.NDArray[np.int32]

# 8-connectivity: that of the official MVTec AD evaluation code.  With 4-connectivity a thin diagonal scratch would fall
# into one-pixel regions and dominate the mean.
NEIGHBOURS = np.ones((3, 3), dtype=bool)


def pixel_metrics(map_NHW: Floats, mask_NHW: Bools, fpr_limit: float = 0.3) -> Metrics:
    """`p_auroc`, `p_ap`, `p_f1_max` and `aupro` in [0, 1]; all None unless there are pixels of both kinds.

    AUPRO (Bergmann et al., IJCV 2021): the overlap of each region, averaged over all regions, integrated over the
    false-positive rate of all normal pixels from 0 to `fpr_limit` in (0, 1], divided by `fpr_limit`.  Equal scores
    share one threshold, so constant maps give AUROC 1/2 and AUPRO `fpr_limit` / 2 (0.15), the diagonal's.
    Raises ValueError for a NaN or infinite cell.  Memory is O(pixels).
    """
    return ranked_metrics([Ranked.of(map_NHW, mask_NHW)], fpr_limit)


@dataclass(frozen=True)
class Ranked:
    """The pixels of some images, sorted once: they can be measured with those of any others."""

    normal_Q: Floats
    defect_P: Floats
    weight_P: Doubles  # 1 / (pixels in its connected region); they sum to the number of regions

    @classmethod
    def of(cls, map_NHW: Floats, mask_NHW: Bools, seen: Bools | None = None) -> Self:
        """Pixels of labelled maps; counts and refuses as `pixel_metrics` does.  Of normal ones those in `seen`,
        of each map or of all."""
        check_pixels(map_NHW, mask_NHW)
        normal_Q = map_NHW[~mask_NHW if seen is None else ~mask_NHW & seen]
        normal_Q.sort()
        return cls(normal_Q, map_NHW[mask_NHW], region_weights(mask_NHW))


def ranked_metrics(parts: Sequence[Ranked], fpr_limit: float = 0.3) -> Metrics:
    """`pixel_metrics` of all the images of these parts together."""
    assert 0 < fpr_limit <= 1, fpr_limit
    if not any(part.normal_Q.size for part in parts) or not any(part.defect_P.size for part in parts):
        return dict.fromkeys(NAMES)
    return _steps(parts).metrics(fpr_limit)


def check_pixels(map_NHW: Floats, mask_NHW: Bools) -> None:
    """Raise ValueError for a NaN or infinite cell: it has no place in the ranking, and means a broken detector."""
    assert map_NHW.ndim == 3, map_NHW.shape
    assert map_NHW.shape == mask_NHW.shape, (map_NHW.shape, mask_NHW.shape)
    assert mask_NHW.dtype == np.bool_, f"the mask is boolean, not {mask_NHW.dtype}"
    assert_all_finite(map_NHW, input_name="map_NHW")


def _steps(parts: Sequence[Ranked]) -> Steps:
    """Counts of what every threshold passes; both kinds of pixel must be present."""
    defect_P, weight_P = (
        np.concatenate(every) for every in zip(*((p.defect_P, p.weight_P) for p in parts), strict=True)
    )
    threshold_T, step_P = np.unique(defect_P, return_inverse=True)  # ascending, turned round below
    return Steps(
        num_normal=sum(part.normal_Q.size for part in parts),
        normal_above_T=_passed(parts, threshold_T, "right")[::-1],
        normal_from_T=_passed(parts, threshold_T, "left")[::-1],
        defect_from_T=np.cumsum(np.bincount(step_P)[::-1], dtype=np.float64),
        region_from_T=np.cumsum(np.bincount(step_P, weights=weight_P)[::-1]),
    )


def _passed(parts: Sequence[Ranked], threshold_T: Floats, side: Literal["left", "right"]) -> Counts:
    """Number of normal pixels above each threshold (right), or above and at it (left)."""
    passed = [part.normal_Q.size - np.searchsorted(part.normal_Q, threshold_T, side) for part in parts]
    total_T: Counts = np.sum(passed, axis=0)
    return total_T


def region_weights(mask_NHW: Bools) -> Doubles:
    """1 / (pixels in its connected region) for each of the P defective pixels."""
    region_P = regions(mask_NHW)
    weight_P: Doubles = 1.0 / np.bincount(region_P)[region_P]
    return weight_P


def regions(mask_NHW: Bools) -> Regions:
    """The number, from 1, of the connected region that each of the P defective pixels belongs to."""
    part_P, count = [np.empty(0, np.int32)], 0
    for mask_HW in mask_NHW:  # one by one: labels of all would take more memory than the maps
        if mask_HW.any():
            region_HW, num_regions = label(mask_HW, structure=NEIGHBOURS)
            part_P.append(region_HW[mask_HW] + np.int32(count))
            count += num_regions
    return np.concatenate(part_P)
