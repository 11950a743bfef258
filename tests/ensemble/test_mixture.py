"""Two kinds of scores against one: on mixtures whose answer is known, and in any unit."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from llb_ray.ensemble import mixture
from llb_ray.ensemble.mixture import TwoKinds, two_kinds

Floats = npt.NDArray[np.float64]


def _mixture(share: float, distance: float, count: int = 256, spread: float = 1.0) -> Floats:
    """Evenly spaced quantiles of a standard Gaussian and a share of another, `distance` further up."""
    grid = np.linspace(-6, distance + 6 * spread, 100_001)
    below = (1 - share) * stats.norm.cdf(grid) + share * stats.norm.cdf(grid, distance, spread)
    return np.interp((np.arange(count) + 0.5) / count, below, grid)


def _valley(share: float, distance: float) -> float:
    """The least density between the means, in parts of the lower one at the means."""
    point = np.linspace(0, distance, 10_001)
    density = (1 - share) * stats.norm.pdf(point) + share * stats.norm.pdf(point, distance)
    return float(density.min() / min(density[0], density[-1]))


@pytest.mark.parametrize("share", [0.15, 0.3, 0.5])
@pytest.mark.parametrize("distance", [4.0, 6.0])
def test_two_gaussians_are_found_as_they_are(share: float, distance: float) -> None:
    found = two_kinds(_mixture(share, distance))
    assert found.separation == pytest.approx(distance, rel=0.1)
    assert found.valley == pytest.approx(_valley(share, distance), abs=0.07)
    as_likely = distance / 2 + np.log((1 - share) / share) / distance
    assert found.cut == pytest.approx(as_likely, abs=0.04 * distance)


@pytest.mark.parametrize(("share", "distance"), [(0.15, 4.0), (0.3, 6.0), (0.5, 5.0)])
def test_the_gain_is_that_of_the_likelihood_over_one_gaussian_on_the_best_scale(share: float, distance: float) -> None:
    score_Q = _mixture(share, distance)
    one = max(stats.boxcox_llf(power, score_Q - score_Q.min() + 1) for power in (1.0, 0.5, 0.25, 0.0, -0.5))
    one -= len(score_Q) / 2 * (1 + np.log(2 * np.pi))
    density_Q = (1 - share) * stats.norm.pdf(score_Q) + share * stats.norm.pdf(score_Q, distance)
    assert two_kinds(score_Q).gain == pytest.approx(np.log(density_Q).sum() - one, abs=2.5)


@pytest.mark.parametrize("draw", [stats.norm, stats.lognorm(0.5), stats.gamma(3), stats.expon])
def test_one_kind_however_skewed_gains_next_to_nothing(draw: stats.rv_continuous) -> None:
    assert two_kinds(draw.ppf((np.arange(256) + 0.5) / 256)).gain < 10


def test_a_unit_and_an_origin_change_nothing_but_the_cut() -> None:
    score_Q = _mixture(0.2, 4.5)
    one, other = two_kinds(score_Q), two_kinds(300 * score_Q - 1000)
    expected = (one.gain, one.separation, one.valley, 300 * one.cut - 1000)
    assert (other.gain, other.separation, other.valley, other.cut) == pytest.approx(expected, rel=1e-6)


# Quantiles of a mixture (share, distance, spread of the upper kind), and what is found: also where the two overlap.
FOUND = {
    (0.1, 3.0, 1.0): TwoKinds(1.172898, 3.349486, 1, 2.319631),
    (0.3, 3.0, 2.0): TwoKinds(1.767126, 2.243198, 1, 1.978512),
    (0.05, 8.0, 0.3): TwoKinds(15.36452, 10.11537, 5.931176e-06, 5.53215),
    (0.4, 2.0, 1.0): TwoKinds(0.8814936, 2.059931, 1, 1.059926),
}


@pytest.mark.parametrize("mixture", FOUND, ids=str)
def test_the_fit_is_what_runs_were_decided_by(mixture: tuple[float, float, float]) -> None:
    """Other numbers decide other images: then raise `artifacts.FORMAT_VERSION`, and measure again."""
    share, distance, spread = mixture
    found, expected = two_kinds(_mixture(share, distance, 64, spread)), FOUND[mixture]
    numbers = [(one.gain, one.separation, one.valley, one.cut) for one in (found, expected)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-3)


def test_scores_far_below_are_moved_up_to_where_they_tell_nothing() -> None:
    score_Q = _mixture(0.2, 5.0)
    lower, far_lower = (two_kinds(np.r_[low, score_Q[1:]]) for low in (-1e3, -1e6))
    assert (lower.gain, lower.cut) == pytest.approx((far_lower.gain, far_lower.cut), rel=1e-6)


@pytest.mark.parametrize(
    ("scores", "origin", "lowest"),
    [((0, 1, 2, 3, 4), -0.6, 0.6), ((1, 1, 2, 3, 4), -0.5, 1.5), ((-9, 1, 2, 3, 4), -5.6, 0.6)],
)
def test_scales_begin_below_all_scores_but_not_far_below(
    scores: tuple[float, ...], origin: float, lowest: float
) -> None:
    """In lower quarters from the median: 0.6 below the lowest score, from 2.5 to 7.6 below the median."""
    found, unit, scaled_Q = mixture._positive(np.array(scores, dtype=float))
    assert (found, unit, scaled_Q[0]) == (pytest.approx(origin), 1, pytest.approx(lowest))
