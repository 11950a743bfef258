"""Three tests for each lot: do scores or features differ from the reference, and are too many above the threshold?

- *shift*: Kolmogorov-Smirnov between the lot's scores and the reference's, two-sided.  It is about the bulk of the
  scores, which a few anomalies hardly move: another light, another focus, another product.
- *share*: binomial, whether more of the lot are above the threshold than `max_share`.
- *features*: Hotelling's by permutation, whether the mean of the images' features has moved (`feature_shift`).

Scores by other detectors, brought to one scale as a run's held-out scores are, differ from the beginning
(benchmarks/drift.md): with such a reference shift is computed and raises no alarm.  All tests together raise a false
alarm with at most the probability `level` (Bonferroni).

Shapes: N images of a lot, M reference images, S features.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llb_ray.engine.drift.feature_shift import FeatureShift, feature_shift

SHIFT, SHARE, FEATURES = "shift", "share", "features"
_TESTS = 3  # of a lot
_QUANTILES = (0.05, 0.5, 0.95)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Lot:
    """The images of a lot; without features where its prediction is of an earlier version, or a table of scores."""

    score_N: Floats
    feature_NS: Floats | None = None


@dataclass(frozen=True)
class Watched:
    """A lot, and the results of its tests."""

    lot: str
    num_images: int
    num_above: int  # the threshold
    share: float
    share_interval: tuple[float, float]  # of 95 %, Clopper and Pearson's
    quantiles: tuple[float, float, float]  # of the scores: 5 %, median, 95 %
    distance: float  # between the two distribution functions, at most 1
    shift_p: float
    share_p: float
    feature_shift: FeatureShift | None  # None without features, or for too few images
    alarms: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """Scores and features that new images are compared with, and the share that may be above the threshold."""

    name: str
    score_M: Floats
    threshold: float
    max_share: float
    same_detector: bool = True  # that new images are scored by: else a test of shift is no alarm
    feature_MS: Floats | None = None
    features_of: str = ""  # what images, where they are others than those of the scores


def watched(reference: Reference, lots: Mapping[str, Lot], level: float) -> list[Watched]:
    """Results of the tests, a lot each."""
    each = level / (_TESTS * len(lots))
    return [_watched(reference, name, lot, each) for name, lot in lots.items()]


def interval_of(num_above: int, num_images: int) -> tuple[float, float]:
    """The 95 % interval of a share (Clopper and Pearson)."""
    from scipy import stats

    found = stats.binomtest(num_above, num_images).proportion_ci(0.95, "exact")
    return float(found.low), float(found.high)


def _watched(reference: Reference, name: str, lot: Lot, level: float) -> Watched:
    from scipy import stats

    score_N, moved = lot.score_N, _moved(reference, lot, level)
    num_above = int((score_N > reference.threshold).sum())
    shift = stats.ks_2samp(score_N, reference.score_M)
    share_p = float(stats.binomtest(num_above, len(score_N), reference.max_share, "greater").pvalue)
    low, middle, high = map(float, np.quantile(score_N, _QUANTILES))
    tests = {SHIFT: shift.pvalue if reference.same_detector else 1, SHARE: share_p, FEATURES: moved.p if moved else 1}
    return Watched(
        lot=name,
        num_images=len(score_N),
        num_above=num_above,
        share=num_above / len(score_N),
        share_interval=interval_of(num_above, len(score_N)),
        quantiles=(low, middle, high),
        distance=float(shift.statistic),
        shift_p=float(shift.pvalue),
        share_p=share_p,
        feature_shift=moved,
        alarms=tuple(test for test, p in tests.items() if p < level),
    )


def _moved(reference: Reference, lot: Lot, level: float) -> FeatureShift | None:
    if reference.feature_MS is None or lot.feature_NS is None:
        return None
    return feature_shift(reference.feature_MS, lot.feature_NS, level)
