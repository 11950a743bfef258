"""Exact pixel metrics over maps held in memory: AUROC, average precision and AUPRO of all pixels of all images.

Shape suffixes: N images, H x W pixels, P defective pixels in C order, Q normal pixels, T distinct scores of
defective pixels from the highest down, V vertices of a curve.  Maps rise with abnormality.

The curves are followed at the T thresholds only.  Between two of them no defective pixel is passed, so a curve
runs level from "above the next score" to "at or above it": two vertices per threshold carry every threshold.
The normal pixels then need a plain sort, no argsort (8 bytes a pixel) and no curve of their own length.

What a pixel is: the mask alone decides.  An image with an empty mask adds normal pixels and no region, also if
its label says anomalous; one whose mask is *missing* must be left out by the caller, not passed as empty.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import label
from sklearn.metrics import auc
from sklearn.utils import assert_all_finite

Bools = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

# 8-connectivity inside an image, none between images: the 3x3 full structure of the official MVTec AD evaluation
# code.  With 4-connectivity a thin diagonal scratch would fall into one-pixel regions and dominate the mean.
NEIGHBOURS = np.zeros((3, 3, 3), dtype=bool)
NEIGHBOURS[1] = True


@dataclass(frozen=True)
class Steps:
    """What the T thresholds pass: normal pixels strictly above and at or above, defective ones at or above."""

    num_normal: int
    normal_above_T: Counts
    normal_from_T: Counts
    defect_from_T: Doubles  # defective pixels, each counting 1
    region_from_T: Doubles  # defective pixels, each counting 1 / size of its region: a region adds up to 1


def pixel_metrics(map_NHW: Floats, mask_NHW: Bools, fpr_limit: float = 0.3) -> dict[str, float | None]:
    """`p_auroc`, `p_ap` and `aupro`, each in [0, 1]; all None without a defective pixel or without a normal one.

    AUPRO (Bergmann et al., IJCV 2021): the overlap of each region, averaged over all regions, integrated over the
    false-positive rate of all normal pixels from 0 to `fpr_limit` in (0, 1], divided by `fpr_limit`.  Equal scores
    share one threshold, so constant maps give AUROC 1/2 and AUPRO `fpr_limit` / 2 (0.15), the diagonal's.
    Raises ValueError for a NaN or infinite cell.  Memory is O(pixels).
    """
    assert map_NHW.ndim == 3, map_NHW.shape
    assert map_NHW.shape == mask_NHW.shape, (map_NHW.shape, mask_NHW.shape)
    assert mask_NHW.dtype == np.bool_, f"the mask is boolean, not {mask_NHW.dtype}"
    assert 0 < fpr_limit <= 1, fpr_limit
    assert_all_finite(map_NHW, input_name="map_NHW")
    if mask_NHW.all() or not mask_NHW.any():
        return {"p_auroc": None, "p_ap": None, "aupro": None}
    steps = count_steps(map_NHW, mask_NHW)
    return {
        "p_auroc": curve_area(steps, steps.defect_from_T, fpr_limit=1.0),
        "p_ap": average_precision(steps),
        "aupro": curve_area(steps, steps.region_from_T, fpr_limit),
    }


def count_steps(map_NHW: Floats, mask_NHW: Bools) -> Steps:
    """What every threshold passes; both kinds of pixel must be present."""
    weight_P = region_weights(mask_NHW)
    threshold_T, step_P = np.unique(map_NHW[mask_NHW], return_inverse=True)  # ascending, turned round below
    normal_Q = map_NHW[~mask_NHW]
    normal_Q.sort()
    return Steps(
        num_normal=normal_Q.size,
        normal_above_T=normal_Q.size - np.searchsorted(normal_Q, threshold_T, side="right")[::-1],
        normal_from_T=normal_Q.size - np.searchsorted(normal_Q, threshold_T, side="left")[::-1],
        defect_from_T=np.cumsum(np.bincount(step_P)[::-1], dtype=np.float64),
        region_from_T=np.cumsum(np.bincount(step_P, weights=weight_P)[::-1]),
    )


def region_weights(mask_NHW: Bools) -> Doubles:
    """1 / (pixels in its connected region) for each of the P defective pixels; they sum to the number of regions."""
    region_NHW, _ = label(mask_NHW, structure=NEIGHBOURS)
    region_P = region_NHW[mask_NHW]
    weight_P: Doubles = 1.0 / np.bincount(region_P)[region_P]
    return weight_P


def curve_area(steps: Steps, passed_T: Doubles, fpr_limit: float) -> float:
    """Area under passed share against false-positive rate, from 0 to `fpr_limit`, divided by `fpr_limit`.

    Trapezoids between the vertices; the segment that crosses the limit is cut there by linear interpolation.
    """
    fpr_V, share_V = curve(steps, passed_T)
    inside_V = fpr_V <= fpr_limit
    fpr = np.append(fpr_V[inside_V], fpr_limit)
    share = np.append(share_V[inside_V], np.interp(fpr_limit, fpr_V, share_V))
    return float(auc(fpr, share) / fpr_limit)


def curve(steps: Steps, passed_T: Doubles) -> tuple[Doubles, Doubles]:
    """False-positive rate and passed share, both rising from (0, 0) to (1, 1): two vertices per threshold."""
    share_T = passed_T / passed_T[-1]
    before_T = np.append(0.0, share_T[:-1])
    normal_V = np.column_stack([steps.normal_above_T, steps.normal_from_T]).ravel()
    fpr_V = np.concatenate([[0.0], normal_V / steps.num_normal, [1.0]])
    share_V = np.concatenate([[0.0], np.column_stack([before_T, share_T]).ravel(), [1.0]])
    return fpr_V, share_V


def average_precision(steps: Steps) -> float:
    """Precision at each threshold, weighted by the recall it adds (scikit-learn's definition, no interpolation)."""
    precision_T = steps.defect_from_T / (steps.defect_from_T + steps.normal_from_T)
    recall_T = steps.defect_from_T / steps.defect_from_T[-1]
    return float(np.sum(np.diff(recall_T, prepend=0.0) * precision_T))
