"""How many of the images are anomalous, from their scores alone, and what every keep ratio would cost.

Normal images make up the bulk of the scores, and anomalies lie to one side of it.  So the normal spread is read off
the other side: from the most frequent score (the mode) downwards, where hardly an anomaly is.  Mirrored at the mode
it says what normal scores reach upwards, and what lies further than `REACH` of those spreads counts as anomalous.
The median and MAD that this replaces are dragged along by the anomalies that they are to find: at 40 %
of them the common rule of three MADs found 3 to 20 % on seven sets of images, this one 13 to 42 %.

It is an estimate of what *stands out*.  Anomalies that score like normal images are not counted, and rare normals
that score like anomalies are.

Shapes: N images, M keep ratios, S quantiles.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import stats

from llb_ray.errors import DataError
from llb_ray.seeding import stream

Floats = npt.NDArray[np.float64]
# Spreads above the mode that normal scores reach.  A Gaussian has 0.02 % beyond; clean images, whose upper tail is
# longer than its mirror image, have 0 to 9 % on five sets (at 3 spreads 0 to 11 %).
REACH = 3.5
MOST = 0.5  # anomalies that are the majority are the normal images
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
_DRAWS, _INTERVAL = 100, (0.05, 0.95)


@dataclass(frozen=True)
class Bulk:
    """Where normal scores lie: their most frequent value, and the spread of those below it."""

    mode: float
    spread: float

    def cut(self, reach: float) -> float:
        """The score `reach` spreads above the mode."""
        return self.mode + reach * self.spread


@dataclass(frozen=True)
class Contamination:
    """The estimated share of anomalous images, in [0, 0.5], with a 90 % bootstrap interval."""

    share: float
    low: float
    high: float
    bulk: Bulk


def bulk(score_N: Floats) -> Bulk:
    """Where the normal ones among these scores lie, in whatever order; raises DataError where all scores are equal.

    The mode is that of a Gaussian kernel density, `_SMOOTHING` times Scott's bandwidth wide; the spread is the root
    mean square distance of the scores below it.
    """
    if np.ptp(score_N) == 0:
        raise DataError(
            f"purify: all {len(score_N)} images have the same score, which says nothing about how many are anomalous; "
            "set purify.keep_ratio to a number"
        )
    score_S = np.quantile(score_N, (np.arange(_QUANTILES) + 0.5) / _QUANTILES)
    mode = _mode(score_S, _SMOOTHING * len(score_N) ** (-1 / 5), np.linspace(score_N.min(), score_N.max(), _GRID))
    below_N = score_N[score_N <= mode]
    return Bulk(mode, float(np.sqrt(np.mean((mode - below_N) ** 2))) if len(below_N) else 0.0)


def _mode(score_S: Floats, bandwidth: float, grid: Floats) -> float:
    """The value of the grid that is most frequent, or the score that all but a handful have."""
    if np.ptp(score_S) == 0:  # no width to smooth by
        return float(score_S[0])
    return float(grid[stats.gaussian_kde(score_S, bw_method=bandwidth)(grid).argmax()])


def standing_out(score_N: Floats) -> npt.NDArray[np.bool_]:
    """Which of these scores no normal image would have [N]; none of them where all are equal."""
    if np.ptp(score_N) == 0:
        return np.zeros(len(score_N), dtype=np.bool_)
    stands_N: npt.NDArray[np.bool_] = score_N > bulk(score_N).cut(REACH)
    return stands_N


def anomalous_share(score_N: Floats) -> float:
    """The share of scores that are `standing_out`, at most `MOST`."""
    return min(MOST, float(np.mean(standing_out(score_N))))


def contamination(score_N: Floats) -> Contamination:
    """The share of anomalous images among these, whose scores rise with abnormality; their order does not matter.

    Raises DataError where all scores are equal.
    """
    score_N = np.sort(score_N)
    found = bulk(score_N)
    random = stream(0, "contamination", "bootstrap")
    draws = [anomalous_share(score_N[random.integers(len(score_N), size=len(score_N))]) for _ in range(_DRAWS)]
    low, high = np.quantile(draws, _INTERVAL)
    return Contamination(anomalous_share(score_N), float(low), float(high), found)


def what_if(score_N: Floats, found: Contamination, num_ratios: int = 101) -> pa.Table:
    """What to expect of each keep ratio (schema `WHAT_IF`), were the images with the lowest scores kept.

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
