"""Estimate of how many images are anomalous, from their scores alone, and of what every keep ratio would cost.

Anomalous is what stands *apart* from the bulk of the scores, to its upper side; a smooth tail, however long, belongs to
the bulk.  Two things are apart:

- single scores that are further up than an exponential tail reaches, whose width is that of the bulk;
- a second kind of scores, if the likelihood of two kinds against one (`mixture.two_kinds`) says so in spite of what
  more parameters cost (Schwarz 1978), with a valley between them, the deeper the more are to be rejected.

Where neither is found, nothing is anomalous.

It is an estimate of what *stands out*.  Anomalies that score like normal images are not counted, and a kind of rare
normals that scores like anomalies is.  Single scores of few images cannot tell a second kind from a tail: see
docs/how-it-works.md for what is found from how many images on.

Shapes: N images, M keep ratios, S quantiles.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import stats

from llb_ray.ensemble.mixture import TwoKinds, two_kinds
from llb_ray.errors import DataError
from llb_ray.seeding import stream

Floats = npt.NDArray[np.float64]
KEEP_ALL = "no image stands apart; all are kept"
NOT_CLEARLY = (
    "what stands apart may be a second kind of normal image and is kept, counting less: look at the kept images in "
    "report.html, and if they are defects set purify.keep_ratio to a number"
)
WHAT_IF = pa.schema(
    [
        pa.field("keep_ratio", pa.float64(), nullable=False),
        pa.field("num_kept", pa.int64(), nullable=False),
        pa.field("residual_contamination", pa.float64(), nullable=False),  # expected, of the kept
        pa.field("normals_lost", pa.float64(), nullable=False),  # expected share of the normals
    ]
)
_QUANTILES, _GRID = 256, 256  # what the density is estimated from, and where: any number of images costs the same
# Times Scott's bandwidth.  At 1 the mode of 100 clean scores wanders enough to call 13 of them anomalous, at 1.5 7;
# at 2 a share of 0.4 is found as 0.29 where 1.5 finds 0.36.
_SMOOTHING = 1.5
_FAR = 0.1  # scores of a purely exponential tail that are expected to be called far
_TAIL = 1.8  # a tail is no longer than that of exponential scores whose mean distance below the median is this one
_PARAMETERS = 3  # that two kinds have more than one
_FEW = 100  # images: fewer must say no less than so many, as small samples look like two kinds too often
# Least separation of two kinds where the upper one's share is up to 0.3, and 0.4 or more.  Exponential scores have up
# to 2.6; a real clean set of two normal kinds, 0.37 of the images in the upper one, had 2.86.
_MIDDLE_SHARES, _SEPARATIONS = (0.3, 0.4), (2.75, 3.25)
# A kind that is this clearly apart needs less evidence, as a few images of fifty never give the whole: its largest
# share, least separation, highest valley, and the part of the evidence.  Of 300 clean samples of 50 scores each, 0.3 to
# 4 % are given more than 5 % anomalies (before 0 to 3.7 %), and mixtures of 0.1 and 0.2 are found in 0.33 and 0.48 of
# samples where it was 0.10 and 0.25.
_CLEAR_SHARE, _CLEAR_SEPARATION, _CLEAR_VALLEY, _CLEAR_EVIDENCE = 0.25, 4.0, 0.4, 0.6
# The larger share of an upper kind: closer to a half, it may be the normal one beside a rare kind that scores lower.
_LARGEST = 0.475
# Valleys that a share of up to 0.2 and one of 0.4 or more must have; Gaussians 4 spreads apart have 0.5 and 0.3.
_SHARES, _VALLEYS = (0.2, 0.4), (1.0, 0.55)
# A kind that is rejected has at most this share, for more may be a second kind of normal image however far apart, and
# at least this separation behind a valley as deep as above.  Of 19 second kinds in the runs of the benchmark suite 13
# qualify, two of them a rare fabric, the others defects; of the other 6, three are that fabric.  The demo at 128 px has
# 3.96.
_REJECTED_SHARE, _REJECTED_SEPARATION = 1 / 3, 3.5
_DRAWS, _INTERVAL = 50, (0.05, 0.95)


@dataclass(frozen=True)
class Bulk:
    """The bulk of normal scores: their most frequent value, and the spread of those below it."""

    mode: float
    spread: float

    def cut(self, reach: float) -> float:
        """The score `reach` spreads above the mode."""
        return self.mode + reach * self.spread


@dataclass(frozen=True)
class Contamination:
    """The estimated share of anomalous images, in [0, 0.5], with a 90 % bootstrap interval that contains it, and the
    share that is clearly apart."""

    share: float
    low: float
    high: float
    clearly: float
    bulk: Bulk


def bulk(score_N: Floats) -> Bulk:
    """Bulk of the normal ones among these scores, in whatever order.

    The mode is that of a Gaussian kernel density, `_SMOOTHING` times Scott's bandwidth wide; the spread is the root
    mean square distance of the scores below it.
    """
    score_S = _quantiles(score_N)
    mode = _mode(score_S, _SMOOTHING * len(score_N) ** (-1 / 5), np.linspace(score_N.min(), score_N.max(), _GRID))
    below_N = score_N[score_N <= mode]
    return Bulk(mode, float(np.sqrt(np.mean((mode - below_N) ** 2))) if len(below_N) else 0.0)


def _quantiles(score_N: Floats) -> Floats:
    return np.quantile(score_N, (np.arange(_QUANTILES) + 0.5) / _QUANTILES)


def _mode(score_S: Floats, bandwidth: float, grid: Floats) -> float:
    """The value of the grid that is most frequent, or the score that all but a handful have."""
    if np.ptp(score_S) == 0:  # no width to smooth by
        return float(score_S[0])
    return float(grid[stats.gaussian_kde(score_S, bw_method=bandwidth)(grid).argmax()])


class Apart(NamedTuple):
    """Masks of the scores that stand apart from the bulk [N], at most half, and of those that do so clearly: single far
    ones, and a second kind that is small and has a wide and deep valley before it."""

    stands_N: npt.NDArray[np.bool_]
    clearly_N: npt.NDArray[np.bool_]


def apart(score_N: Floats) -> Apart:
    """The scores that stand apart; none of them where all are equal."""
    far = _far(score_N)
    near_N = np.sort(score_N[score_N <= far])
    cut, is_clear = _second_kind(near_N, len(score_N) - len(near_N))
    return Apart(score_N > min(far, cut), score_N > (min(far, cut) if is_clear else far))


def standing_out(score_N: Floats) -> npt.NDArray[np.bool_]:
    """Mask of the scores that stand apart from the bulk [N], clearly or not."""
    return apart(score_N).stands_N


def _far(score_N: Floats) -> float:
    """The score beyond which no tail of the bulk reaches.

    How wide the bulk's tail is, the upper quarter says, or where anomalies are in that, the scores below the median.
    """
    middle = np.median(score_N)
    below = _TAIL * np.mean(middle - score_N[score_N <= middle])
    above = np.quantile(score_N, 0.75) - middle
    return float(middle + min(above or below, below) / np.log(2) * np.log(len(score_N) / 2 / _FAR))


def _second_kind(near_N: Floats, num_far: int) -> tuple[float, bool]:
    """The score above which a second kind begins, infinity if none does, and whether it is clearly apart.  `near_N` are
    all but the far ones, sorted."""
    if np.ptp(near_N) == 0:
        return np.inf, False
    score_Q = near_N if len(near_N) <= _QUANTILES else _quantiles(near_N)
    found, num = two_kinds(score_Q), len(near_N)
    share = float((num - np.searchsorted(near_N, found.cut, side="right") + num_far) / (num + num_far))
    needed = _PARAMETERS / 2 * np.log(max(num, _FEW)) * (_CLEAR_EVIDENCE if _is_clear(found, share) else 1)
    likelier = found.gain * num / len(score_Q) > needed
    if not (likelier and _is_apart(found, share)):
        return np.inf, False
    return found.cut, _has_gap(found, _REJECTED_SEPARATION) and share <= _REJECTED_SHARE


def _is_apart(found: TwoKinds, share: float) -> bool:
    """True if the upper kind, of this share, is far enough from the lower: the farther, the larger it is."""
    return bool(
        found.separation > np.interp(share, _MIDDLE_SHARES, _SEPARATIONS)
        and found.valley < np.interp(share, _SHARES, _VALLEYS)
        and share <= _LARGEST
    )


def _is_clear(found: TwoKinds, share: float) -> bool:
    return _has_gap(found, _CLEAR_SEPARATION) and share <= _CLEAR_SHARE


def _has_gap(found: TwoKinds, separation: float) -> bool:
    return found.separation > separation and found.valley < _CLEAR_VALLEY


def anomalous_share(score_N: Floats) -> float:
    """The share of scores that are `standing_out`, in [0, 0.5]."""
    return float(np.mean(standing_out(score_N)))


def contamination(score_N: Floats) -> Contamination:
    """The share of anomalous images among these, whose scores rise with abnormality; their order does not matter.

    Raises DataError where all scores are equal.
    """
    if np.ptp(score_N) == 0:
        raise DataError(
            f"purify: all {len(score_N)} images have the same score, which says nothing about how many are anomalous; "
            "set purify.keep_ratio to a number"
        )
    score_N = np.sort(score_N)
    stands_N, clearly_N = apart(score_N)
    share = float(stands_N.mean())
    random = stream(0, "contamination", "bootstrap")
    draws = [anomalous_share(score_N[random.integers(len(score_N), size=len(score_N))]) for _ in range(_DRAWS)]
    low, high = np.quantile(draws, _INTERVAL)
    interval = min(share, float(low)), max(share, float(high))
    return Contamination(share, *interval, float(clearly_N.mean()), bulk(score_N[~stands_N]))


def what_if(score_N: Floats, found: Contamination, num_ratios: int = 101) -> pa.Table:
    """Expected outcome of each keep ratio (schema `WHAT_IF`), were the images with the lowest scores kept.

    Normal scores are taken to be Gaussian about the mode, and as many as `found` leaves over.
    """
    score_N = np.sort(score_N)
    kept_M = np.unique(np.round(np.linspace(0, 1, num_ratios)[1:] * len(score_N)).astype(np.int64).clip(1))
    num_normal, bulk = (1 - found.share) * len(score_N), found.bulk
    reached_M = score_N[kept_M - 1]
    expected_M = num_normal * stats.norm.cdf((reached_M - bulk.mode) / max(bulk.spread, np.finfo(float).tiny))
    # Below the mode all are normal: there the spread was measured, and single scores stray from the curve.
    anomalous_M = np.where(reached_M <= bulk.mode, 0, np.clip(kept_M - expected_M, 0, found.share * len(score_N)))
    anomalous_M[-1] = found.share * len(score_N)  # all are kept
    # Who keeps fewer keeps neither more anomalies nor more normals; single scores stray above the mode too.
    anomalous_M = np.minimum.accumulate(anomalous_M[::-1])[::-1]
    normal_M = np.maximum.accumulate(np.minimum(kept_M - anomalous_M, num_normal))
    columns = [kept_M / len(score_N), kept_M, 1 - normal_M / kept_M, 1 - normal_M / num_normal]
    return pa.table(columns, schema=WHAT_IF)
