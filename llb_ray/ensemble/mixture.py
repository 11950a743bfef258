"""Two kinds of scores against one: Gaussians on scales that take the skew away.

A long upper tail is not a second kind.  So one Gaussian and a mixture of two are fitted on several scales, from the
scores' own to more than logarithmic ones, which make a skewed kind symmetric, and the likeliest of each are compared.

Shapes: Q scores, T scales, S starting points, G points between two means.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import boxcox, inv_boxcox

Floats = npt.NDArray[np.float64]
_EXPONENTS = np.array([1.0, 0.5, 0.25, 0.0, -0.5])  # Box and Cox: 1 leaves scores as they are, 0 is the logarithm
_STARTS = np.array([0.55, 0.7, 0.8, 0.9, 0.96])  # quantiles that the upper kind begins at, at first
_STEPS = 60  # of expectation maximisation; the gain changes by less than 0.1 after that
_LOWEST = -7.0  # in lower quarters (their width) from the median: what scores lower tells nothing of anomalies
_ORIGIN, _MARGIN = -1.9, 0.6  # where the scales begin: below this and below every score
_LEAST_SPREAD, _SPREADS = 0.15, (0.5, 2.5)  # of the lower kind in those of all, of the upper in those of the lower
_BETWEEN = 200


@dataclass(frozen=True)
class TwoKinds:
    """Fit of two kinds to scores, and the point that separates them."""

    gain: float  # of log-likelihood over one kind
    separation: float  # distance of the means in root mean square spreads
    valley: float  # least density between the means, in parts of the lower density at the means; 1: no valley
    cut: float  # the score above which the upper kind is the likelier one


class _Pair(NamedTuple):
    """Mixtures [T, S, 1], in standard units of their scale."""

    share: Floats  # of the upper kind
    lower: Floats
    lower_spread: Floats
    upper: Floats
    upper_spread: Floats


def two_kinds(score_Q: Floats) -> TwoKinds:
    """The likeliest two kinds among these scores, which are sorted and not all equal; their gain is for Q scores."""
    origin, unit, scaled_Q = _positive(score_Q)
    value_TQ = boxcox(scaled_Q, _EXPONENTS[:, None])
    mean_T, spread_T = value_TQ.mean(1), value_TQ.std(1)
    jacobian_T = (_EXPONENTS - 1) * np.log(scaled_Q).sum() - len(score_Q) * np.log(spread_T)
    standard_TSQ = ((value_TQ - mean_T[:, None]) / spread_T[:, None])[:, None]
    pair = _fitted(standard_TSQ)
    likelihood_TS = np.logaddexp(*_log_densities(pair, standard_TSQ)).sum(2) + jacobian_T[:, None]
    scale, start = np.unravel_index(likelihood_TS.argmax(), likelihood_TS.shape)
    separation, valley, cut = _parting(_Pair(*(part[scale, start] for part in pair)))
    cut = inv_boxcox(cut * spread_T[scale] + mean_T[scale], _EXPONENTS[scale])
    gain = likelihood_TS.max() - (jacobian_T - len(score_Q) / 2).max()
    return TwoKinds(float(gain), separation, valley, float(cut * unit + origin))


def _positive(score_Q: Floats) -> tuple[float, float, Floats]:
    """An origin and a unit, and the scores in these [Q], above 0."""
    quarter, middle = np.quantile(score_Q, (0.25, 0.5))
    unit = middle - quarter or np.std(score_Q)
    value_Q = np.maximum((score_Q - middle) / unit, _LOWEST)
    start = min(value_Q.min(), _ORIGIN) - _MARGIN
    return float(middle + start * unit), float(unit), value_Q - start


def _fitted(value_TSQ: Floats) -> _Pair:
    """By expectation maximisation on every scale [T, 1, Q] from every starting point."""
    square_TSQ, num = value_TSQ**2, value_TSQ.shape[-1]
    upper_TSQ = np.where((np.arange(num) + 0.5) / num > _STARTS[:, None], 0.98, 0.02) + np.zeros_like(value_TSQ)
    for _ in range(_STEPS):
        pair = _likeliest(upper_TSQ, value_TSQ, square_TSQ)
        lower_TSQ, above_TSQ = _log_densities(pair, value_TSQ)
        odds_TSQ = np.exp(np.minimum(lower_TSQ - above_TSQ, 500))  # an overflow would be reported
        upper_TSQ = np.clip(1 / (1 + odds_TSQ), 1e-9, 1 - 1e-9)
    return pair


def _likeliest(upper_TSQ: Floats, value_TSQ: Floats, square_TSQ: Floats) -> _Pair:
    """The mixtures that are likeliest if the scores belong to the upper kind by so much."""
    num = value_TSQ.shape[-1]
    count = upper_TSQ.sum(2, keepdims=True)
    total, squares = (upper_TSQ @ moment_TSQ.swapaxes(1, 2) for moment_TSQ in (value_TSQ, square_TSQ))
    lower, upper = -total / (num - count), total / count  # the mean of all is 0, and their mean square 1
    lower_spread = np.sqrt(np.maximum((num - squares) / (num - count) - lower**2, _LEAST_SPREAD**2))
    upper_spread = np.sqrt(np.maximum(squares / count - upper**2, 0))
    least, most = _SPREADS
    return _Pair(
        count / num, lower, lower_spread, upper, np.clip(upper_spread, least * lower_spread, most * lower_spread)
    )


def _log_densities(pair: _Pair, value: Floats) -> tuple[Floats, Floats]:
    """Of the lower and the upper kind, but for the constant of Gaussians, and -inf of an upper kind that is lower."""
    lower = np.log((1 - pair.share) / pair.lower_spread) - ((value - pair.lower) / pair.lower_spread) ** 2 / 2
    upper = np.log(pair.share / pair.upper_spread) - ((value - pair.upper) / pair.upper_spread) ** 2 / 2
    return lower, upper


def _parting(pair: _Pair) -> tuple[float, float, float]:
    """Separation, valley and cut (as of `TwoKinds`, in standard units) of one mixture."""
    point_G = np.linspace(pair.lower[0], pair.upper[0], _BETWEEN)
    lower_G, upper_G = np.exp(_log_densities(pair, point_G))
    density_G = lower_G + upper_G
    spread = np.sqrt((pair.lower_spread[0] ** 2 + pair.upper_spread[0] ** 2) / 2)
    valley = density_G.min() / min(density_G[0], density_G[-1])
    cut = point_G[np.argmax(upper_G > lower_G)]
    return float((pair.upper[0] - pair.lower[0]) / spread), float(valley), float(cut)
