"""Pixel metrics of what each threshold passes, and how far they may be off where scores were counted in bins.

Shape suffixes: T thresholds from the highest down, V vertices of a curve.

The curves are followed at the T thresholds only that pass a defective pixel.  Between two of them a curve runs level
from "above the next score" to "at or above it": two vertices per threshold carry every threshold.

A threshold may stand for a bin: scores that are known to be between two numbers and not in which order.  What the
true scores make of a bin stays in the rectangle that its two vertices span, and that gives the bounds.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import auc

Counts = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
Metrics = dict[str, float | None]

NAMES = ("p_auroc", "p_ap", "p_f1_max", "aupro")


@dataclass(frozen=True)
class Steps:
    """Counts passed by T thresholds: normal pixels strictly above and at or above, defective ones at or above."""

    num_normal: int
    normal_above_T: Counts
    normal_from_T: Counts
    defect_from_T: Doubles  # defective pixels, each counting 1
    region_from_T: Doubles  # defective pixels, each counting 1 / size of its region: a region adds up to 1

    def metrics(self, fpr_limit: float) -> Metrics:
        """`p_auroc`, `p_ap`, `p_f1_max` and `aupro`, each in [0, 1]; there are pixels of both kinds."""
        assert 0 < fpr_limit <= 1, fpr_limit
        return {
            "p_auroc": curve_area(self, self.defect_from_T, fpr_limit=1.0),
            "p_ap": average_precision(self),
            "p_f1_max": f1_max(self, self.normal_from_T),
            "aupro": curve_area(self, self.region_from_T, fpr_limit),
        }

    def error_bounds(self, fpr_limit: float) -> dict[str, float]:
        """Upper bound of each metric's distance from that of the scores themselves, if every threshold is a bin.

        Of `p_auroc` it is the classical one: pairs of a normal and a defective pixel in one bin, half of all pairs.
        """
        return {
            "p_auroc": _area_bound(self, self.defect_from_T, fpr_limit=1.0),
            "p_ap": _precision_bound(self),
            # The threshold at a bin's lower end is a true one, so the best of them is too low or right.
            "p_f1_max": f1_max(self, self.normal_above_T) - f1_max(self, self.normal_from_T),
            "aupro": _area_bound(self, self.region_from_T, fpr_limit),
        }


def curve_area(steps: Steps, passed_T: Doubles, fpr_limit: float) -> float:
    """Area under passed share against false-positive rate, from 0 to `fpr_limit`, divided by `fpr_limit`.

    Trapezoids between the vertices; the segment that crosses the limit is cut there by linear interpolation.
    """
    fpr_V, share_V = _curve(steps, passed_T)
    inside_V = fpr_V <= fpr_limit
    fpr = np.append(fpr_V[inside_V], fpr_limit)
    share = np.append(share_V[inside_V], np.interp(fpr_limit, fpr_V, share_V))
    return float(auc(fpr, share) / fpr_limit)


def _curve(steps: Steps, passed_T: Doubles) -> tuple[Doubles, Doubles]:
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
    return float(np.sum(_recall_added(steps) * precision_T))


def f1_max(steps: Steps, normal_T: Counts) -> float:
    """The highest F1 of any threshold if the T thresholds pass `normal_T` normal pixels.

    A threshold that passes no further defective pixel than the one before has a lower F1, so T are enough.
    """
    return float(np.max(2 * steps.defect_from_T / (steps.defect_from_T + normal_T + steps.defect_from_T[-1])))


def _recall_added(steps: Steps) -> Doubles:
    return np.diff(steps.defect_from_T / steps.defect_from_T[-1], prepend=0.0)


def _area_bound(steps: Steps, passed_T: Doubles, fpr_limit: float) -> float:
    """The true curve rises somewhere between the corners of each bin's rectangle, ours along the diagonal.

    They differ by half the rectangle at most; of one that the limit cuts, by what the true curve gains by rising at
    once.
    """
    left_T, right_T = steps.normal_above_T / steps.num_normal, steps.normal_from_T / steps.num_normal
    rise_T = np.diff(passed_T / passed_T[-1], prepend=0.0)
    width_T = np.clip(fpr_limit - left_T, 0.0, right_T - left_T)
    wide_T = width_T > 0  # a bin without normal pixels, or beyond the limit, leaves nothing open
    width_T, whole_T = width_T[wide_T], (right_T - left_T)[wide_T]
    return float(np.sum(width_T * rise_T[wide_T] * (1 - width_T / (2 * whole_T))) / fpr_limit)


def _precision_bound(steps: Steps) -> float:
    """In each bin precision is highest if its defective pixels come first, one by one, and lowest if they come last."""
    before_T = np.append(0.0, steps.defect_from_T[:-1])
    ours_T = steps.defect_from_T / (steps.defect_from_T + steps.normal_from_T)
    highest_T = steps.defect_from_T / (steps.defect_from_T + steps.normal_above_T)
    lowest_T = (before_T + 1) / (before_T + 1 + steps.normal_from_T)
    return float(np.sum(_recall_added(steps) * np.maximum(highest_T - ours_T, ours_T - lowest_T)))
