"""From held-out scores of normal images to the score above which an image is called anomalous.

Among the images that count as normal some may be anomalous, and those have the largest scores.  So the threshold is not
read off the upper half: it is where the tail of the Student distribution that has the lower quartile and the median of
the log scores has the rate asked for.  benchmarks/thresholds.md compares it with ways that read the upper half too, and
leaves out one set at a time: all ten folds choose these quantiles and this tail.

Shapes: N held-out images, B bootstrap samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.seeding import stream

LOWER = 0.25, 0.5  # quantiles that are hardly moved by anomalies among the scores
FREEDOM = 5  # degrees of freedom of the tail
_CONFIDENCE = (0.025, 0.975)
_SAMPLES = 1000
_DRAWN_AT_ONCE = 2**20  # values of bootstrap samples: all samples of a million images would take 24 GB
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Threshold:
    """A score, and how well it is known; both intervals are of 95 %, of a bootstrap."""

    value: float  # an image that scores higher is called anomalous
    interval: tuple[float, float]  # of the score with exactly this rate
    false_alarm_rate: float  # asked for
    rate_interval: tuple[float, float]  # of the rate that `value` has
    num_held_out: int


def threshold_at(score_N: npt.NDArray[np.floating], rate: float) -> Threshold:
    """The threshold that a share `rate` of images like most of the held-out ones exceeds; at least two are needed.

    It is the largest held-out score at most: what scores above all of them is called anomalous, however few they are.
    Scores are taken as logarithms unless one is 0 or less.
    """
    from scipy import stats  # half a second, which those who only read a threshold are spared

    in_logs = bool((score_N > 0).all())
    value_N: Floats = (np.log(score_N) if in_logs else score_N).astype(np.float64)
    reach = float(stats.t.isf(rate, FREEDOM))
    (middle,), (spread,) = _body(value_N[None])
    middle_B, spread_B, highest_B = _draw_bodies(value_N)
    level = min(middle + reach * spread, float(value_N.max()))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # of a sample whose scores are mostly equal
        rate_B = np.nan_to_num(stats.t.sf((level - middle_B) / spread_B, FREEDOM))
    back = np.exp if in_logs else np.asarray
    return Threshold(
        value=float(back(level)),
        interval=_pair(back(np.quantile(np.minimum(middle_B + reach * spread_B, highest_B), _CONFIDENCE))),
        false_alarm_rate=rate,
        rate_interval=_pair(np.quantile(rate_B, _CONFIDENCE)),
        num_held_out=len(score_N),
    )


def threshold_facts(held_out: Mapping[str, pa.Table], rate: float, normals: str) -> dict[str, Any]:
    """Record of a run's threshold, JSON-ready.

    `held_out` has the held-out scores (schema `held_out_scores.HELD_OUT`) of the training images in ``all``, of the
    ``kept`` ones, and of the ``bulk`` of these, which do not stand out; `normals` says which of the three count as
    normal.  If some of the others are normal too, normal images exceed the threshold more often than asked: at most at
    `rate_if_all_are_normal`, when all of them are.  If some of the kept ones are anomalous, the threshold is too high:
    at most by as much as it is above `threshold_if_bulk_is_normal`, when all of them that stand out are.
    """
    scores = {name: table["score"].to_numpy() for name, table in held_out.items()}
    threshold = threshold_at(scores[normals], rate)
    rejected_N = _without(held_out["all"], held_out["kept"])
    return {
        "threshold": threshold.value,
        "threshold_interval": threshold.interval,
        "false_alarm_rate": rate,
        "false_alarm_interval": threshold.rate_interval,
        "normals": normals,
        "num_held_out": threshold.num_held_out,
        "num_rejected": len(rejected_N),
        "num_rejected_above": int((rejected_N > threshold.value).sum()),
        "threshold_if_all_are_normal": threshold_at(scores["all"], rate).value,
        "num_standing_out": len(scores["kept"]) - len(scores["bulk"]),
        "threshold_if_bulk_is_normal": threshold_at(scores["bulk"], rate).value,
        # Rejected images can only add false alarms.
        "rate_if_all_are_normal": max(rate, float((scores["all"] > threshold.value).mean())),
    }


def threshold_titles(facts: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The facts of each threshold of a run under a title for people: one, none, or that of each category."""
    if "by_category" in facts:
        return {f"threshold, {name}": own for name, own in facts["by_category"].items()}
    return {"threshold": facts} if facts else {}


def _without(everyone: pa.Table, kept: pa.Table) -> Floats:
    """The scores of images that were not kept."""
    others = pc.invert(pc.is_in(everyone["image_id"], kept["image_id"].combine_chunks()))
    score_N: Floats = everyone.filter(others)["score"].to_numpy().astype(np.float64)
    return score_N


def _body(value_BN: Floats) -> tuple[Floats, Floats]:
    """Middle [B] and scale [B] of the Student distribution that has the `LOWER` quantiles of each row."""
    from scipy import stats

    (low_B, high_B), (low, high) = np.quantile(value_BN, LOWER, axis=1), stats.t.ppf(LOWER, FREEDOM)
    spread_B = (high_B - low_B) / (high - low)
    return high_B - high * spread_B, spread_B


def _draw_bodies(value_N: Floats) -> tuple[Floats, Floats, Floats]:
    """Middle, scale and largest value [B] of samples drawn from the values, a few samples at once."""
    random, at_once = stream(0, "threshold"), max(1, _DRAWN_AT_ONCE // len(value_N))
    parts = []
    for start in range(0, _SAMPLES, at_once):
        drawn_BN = random.choice(value_N, (min(at_once, _SAMPLES - start), len(value_N)))
        parts.append((*_body(drawn_BN), drawn_BN.max(axis=1)))
    middle_B, spread_B, highest_B = (np.concatenate(part) for part in zip(*parts, strict=True))
    return middle_B, spread_B, highest_B


def _pair(values: npt.NDArray[np.floating]) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)
