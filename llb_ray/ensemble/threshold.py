"""From held-out scores of normal images to the score above which an image is called anomalous.

The threshold is an order statistic (split conformal prediction: Vovk, Gammerman and Shafer 2005, chapter 4), so that it
keeps the rate asked for without any assumption but that new normal images are like the held-out ones.  Where a rate is
too small for that many images, the largest of them are continued by a generalised Pareto distribution (peaks over
threshold: Pickands 1975), fitted by probability-weighted moments, which do better than maximum likelihood on few values
(Hosking and Wallis 1987).

Shapes: N held-out images, M of them in the tail, B bootstrap samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from llb_ray.seeding import stream

ORDER, PARETO = "order statistic", "generalised Pareto"
_CONFIDENCE = (0.025, 0.975)
_SAMPLES = 1000
_LEAST_TAIL = 10  # largest scores that a tail is fitted to, if there are twice as many
_TAIL_SHARE = 0.1  # or this share of them, if that is more
_SHAPES = (-0.5, 0.5)  # where the moments are efficient (Hosking and Wallis, section 3)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Threshold:
    """A score, and how well it is known; both intervals are of 95 %, those of a Pareto tail nearer 90 % in truth."""

    value: float  # an image that scores higher is called anomalous
    interval: tuple[float, float | None]  # of the score with exactly this rate; None: beyond every held-out score
    false_alarm_rate: float  # asked for
    rate_interval: tuple[float, float]  # of the rate that `value` has
    estimate: str  # ORDER or PARETO
    num_held_out: int


def threshold_at(score_N: npt.NDArray[np.floating], rate: float) -> Threshold:
    """The threshold that a share `rate` of images like the held-out ones exceeds; at least two of those are needed."""
    sorted_N = np.sort(score_N).astype(np.float64)
    # Of N + 1 equal chances to be the largest, a new image must have at most this many.
    num_above = int(np.floor(round(rate * (len(sorted_N) + 1), 9)))
    return _of_order(sorted_N, rate, num_above) if num_above else _of_tail(sorted_N, rate)


def threshold_facts(held_out: Mapping[str, pa.Table], rate: float, normals: str) -> dict[str, Any]:
    """What a run writes down of its threshold, JSON-ready.

    `held_out` has the held-out scores (schema `held_out.HELD_OUT`) of the training images in ``all``, of the ``kept``
    ones, and of the ``bulk`` of these, which do not stand out; `normals` says which of the three count as normal.  If
    some of the others are normal too, normal images exceed the threshold more often than asked: at most at
    `rate_if_all_are_normal`, when all of them are.  If some of the kept ones are anomalous, the threshold is too high:
    at most by as much as it is above `threshold_if_bulk_is_normal`, when all of them that stand out are.
    """
    scores = {name: table["score"].to_numpy() for name, table in held_out.items()}
    threshold = threshold_at(scores[normals], rate)
    return {
        "threshold": threshold.value,
        "threshold_interval": threshold.interval,
        "false_alarm_rate": rate,
        "false_alarm_interval": threshold.rate_interval,
        "estimate": threshold.estimate,
        "normals": normals,
        "num_held_out": threshold.num_held_out,
        "threshold_if_all_are_normal": threshold_at(scores["all"], rate).value,
        "num_standing_out": len(scores["kept"]) - len(scores["bulk"]),
        "threshold_if_bulk_is_normal": threshold_at(scores["bulk"], rate).value,
        # Rejected images can only add false alarms; few scores beyond a threshold from their tail say too little.
        "rate_if_all_are_normal": max(rate, float((scores["all"] > threshold.value).mean())),
    }


def _of_order(sorted_N: Floats, rate: float, num_above: int) -> Threshold:
    from scipy import stats  # half a second, which those who only read a threshold are spared

    count = len(sorted_N)
    low, high = stats.binom.ppf(_CONFIDENCE, count, 1 - rate).astype(int)  # ranks around the quantile, counted from 1
    return Threshold(
        value=float(sorted_N[count - num_above]),
        interval=(float(sorted_N[max(low, 1) - 1]), float(sorted_N[high]) if high < count else None),
        false_alarm_rate=rate,
        rate_interval=_pair(stats.beta.ppf(_CONFIDENCE, num_above, count + 1 - num_above)),
        estimate=ORDER,
        num_held_out=count,
    )


def _of_tail(sorted_N: Floats, rate: float) -> Threshold:
    """From the M largest scores; the intervals are a parametric bootstrap's."""
    from scipy import stats

    count = len(sorted_N)
    num_tail = max(min(_LEAST_TAIL, count // 2), round(_TAIL_SHARE * count))
    start, share = sorted_N[-num_tail - 1], num_tail / count
    shape, scale = _moments(sorted_N[-num_tail:] - start)
    random = stream(0, "threshold")
    drawn_BM = np.sort(stats.genpareto.rvs(shape, scale=scale, size=(_SAMPLES, num_tail), random_state=random))
    excess_B = stats.genpareto.isf(rate / share, _moments(drawn_BM)[0], scale=_moments(drawn_BM)[1])
    share_B = stats.beta.rvs(num_tail, count + 1 - num_tail, size=_SAMPLES, random_state=random)
    rate_B = share_B * stats.genpareto.sf(excess_B, shape, scale=scale)
    return Threshold(
        value=float(start + stats.genpareto.isf(rate / share, shape, scale=scale)),
        interval=_pair(start + np.quantile(excess_B, _CONFIDENCE)),
        false_alarm_rate=rate,
        rate_interval=_pair(np.quantile(rate_B, _CONFIDENCE)),
        estimate=PARETO,
        num_held_out=count,
    )


def _moments(excess_BM: Floats) -> tuple[Floats, Floats]:
    """Shape and scale [B] by probability-weighted moments of excesses in ascending order (Hosking and Wallis 1987)."""
    count = excess_BM.shape[-1]
    left_M = 1 - (np.arange(1, count + 1) - 0.35) / count
    mean_B, weighted_B = excess_BM.mean(axis=-1), (left_M * excess_BM).mean(axis=-1)
    # Scores that are all alike have no tail: any shape will do, and a scale above zero.
    spread_B = np.maximum(mean_B - 2 * weighted_B, np.finfo(np.float64).tiny)
    shape_B = np.clip(2 - mean_B / spread_B, *_SHAPES)
    return shape_B, np.maximum(mean_B * (1 - shape_B), np.finfo(np.float64).tiny)


def _pair(values: npt.NDArray[np.floating]) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)
