"""Thresholds: the rate that is asked for, how well it is known, and what is said where the sample ends."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from llb_ray.ensemble.threshold import FREEDOM, LOWER, threshold_at, threshold_facts

Floats = npt.NDArray[np.float64]


def _draws(count: int, times: int = 300) -> Floats:
    return np.random.default_rng(0).normal(size=(times, count))


@pytest.mark.parametrize("rate", [0.01, 0.05])
@pytest.mark.parametrize("draw", ["lognormal", "gaussian", "gamma"])
def test_clean_scores_exceed_it_no_more_often_than_asked_and_sometimes(draw: str, rate: float) -> None:
    random = np.random.default_rng(0)
    score_TN = {
        "lognormal": random.lognormal(0, 0.2, (200, 200)),
        "gaussian": random.normal(10, 1, (200, 200)),
        "gamma": random.gamma(20, size=(200, 200)),
    }[draw]
    had = np.mean([(score_TN > threshold_at(score_N, rate).value).mean() for score_N in score_TN[:50]])
    assert rate / 12 < had < 1.1 * rate


@pytest.mark.parametrize("rate", [0.01, 0.05])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_anomalies_among_the_held_out_do_not_hide_others(share: float, rate: float) -> None:
    """At 6 spreads anomalies are found as without any among the held-out; an order statistic lies above them all."""
    random = np.random.default_rng(0)
    log_N = np.where(random.random(400) < share, random.normal(6, 1, 400), random.normal(0, 1, 400))
    found = (random.normal(6, 1, 1000) > np.log(threshold_at(np.exp(log_N), rate).value)).mean()
    assert found > 0.8


@pytest.mark.parametrize("count", [2, 5, 20, 36])
def test_what_scores_above_all_held_out_images_is_anomalous_however_few_they_are(count: int) -> None:
    score_N = np.random.default_rng(0).lognormal(0, 2, count)
    assert threshold_at(score_N, 0.01).value <= score_N.max()


def test_one_absurd_score_moves_the_threshold_next_to_nothing() -> None:
    score_N = np.random.default_rng(0).lognormal(0, 0.2, 200)
    before = threshold_at(score_N, 0.05).value
    score_N[0] = 1e9
    assert threshold_at(score_N, 0.05).value == pytest.approx(before, rel=0.03)


@pytest.mark.parametrize(("count", "least"), [(480, 0.9), (60, 0.85)])
def test_the_intervals_hold_the_truth(count: int, least: float) -> None:
    found, truth = [threshold_at(np.exp(score_N), 0.05) for score_N in _draws(count, 100)], _truth(0.05)
    scores = [one.interval[0] <= truth <= one.interval[1] for one in found]
    rates = [one.rate_interval[0] <= 0.05 <= one.rate_interval[1] for one in found if np.isclose(one.value, truth, 0.1)]
    assert np.mean(scores) >= least
    assert np.mean(rates) >= least


def _truth(rate: float) -> float:
    """The threshold of endlessly many standard lognormal scores."""
    low, high = stats.norm.ppf(LOWER)
    t_low, t_high = stats.t.ppf(LOWER, FREEDOM)
    return float(np.exp(low + (high - low) / (t_high - t_low) * (stats.t.isf(rate, FREEDOM) - t_low)))


@given(st.integers(0, 5), st.floats(0.1, 10), st.sampled_from([20, 200]))
@settings(deadline=None)
def test_another_unit_is_another_unit(seed: int, unit: float, count: int) -> None:
    score_N = np.random.default_rng(seed).gamma(3, size=count)
    before, after = threshold_at(score_N, 0.01), threshold_at(unit * score_N, 0.01)
    assert after.value == pytest.approx(unit * before.value)
    assert after.rate_interval == pytest.approx(before.rate_interval)


@pytest.mark.parametrize("scores", [[-1.0, 0.5, 2.0, 3.0], [0.0, 1.0, 2.0]])
def test_scores_that_have_no_logarithm_are_taken_as_they_are(scores: list[float]) -> None:
    assert threshold_at(np.array(scores), 0.05).value > np.median(scores)


@pytest.mark.parametrize("count", [2, 3, 30, 300])
def test_scores_that_are_all_alike_have_themselves_as_threshold(count: int) -> None:
    assert threshold_at(np.full(count, 2.5), 0.01).value == pytest.approx(2.5)


def _table(**columns: object) -> pa.Table:
    return pa.table(columns)


def test_what_rejected_images_may_mean_is_counted() -> None:
    ids = [f"{number:03d}" for number in range(250)]
    kept = _table(image_id=ids[:200], score=np.linspace(1, 2, 200))
    everyone = _table(image_id=ids, score=np.r_[np.linspace(1, 2, 200), np.full(30, 9.0), np.full(20, 1.5)])
    held_out = {"bulk": kept, "kept": kept, "all": everyone}
    facts = threshold_facts(held_out, 0.05, "kept")
    assert facts["num_held_out"] == 200
    assert (facts["num_rejected"], facts["num_rejected_above"]) == (50, 30)
    above = (kept["score"].to_numpy() > facts["threshold"]).sum()
    assert facts["rate_if_all_are_normal"] == pytest.approx((above + 30) / 250)
    cautious = threshold_facts(held_out, 0.05, "all")
    assert cautious["num_held_out"] == 250
    assert cautious["threshold"] == facts["threshold_if_all_are_normal"] == cautious["threshold_if_all_are_normal"]


def test_what_scores_as_high_as_the_threshold_is_not_above_it() -> None:
    ids = [f"{number:03d}" for number in range(40)]
    kept = _table(image_id=ids[:30], score=np.linspace(0, 1, 30))
    everyone = _table(image_id=ids, score=np.r_[np.linspace(0, 1, 30), np.ones(7), np.full(3, 2.0)])
    facts = threshold_facts({"bulk": kept, "kept": kept, "all": everyone}, 1e-4, "kept")
    assert facts["threshold"] == 1, "the largest held-out score"
    assert facts["num_rejected_above"] == 3
    assert facts["rate_if_all_are_normal"] == pytest.approx(3 / 40)


def test_what_anomalies_that_were_kept_may_mean_is_counted() -> None:
    normal_N = np.linspace(1, 2, 200)
    kept = _table(image_id=[f"{number:03d}" for number in range(220)], score=np.r_[normal_N, np.full(20, 9.0)])
    held_out = {"bulk": kept.slice(0, 200), "kept": kept, "all": kept}
    facts = threshold_facts(held_out, 0.05, "kept")
    assert facts["num_standing_out"] == 20
    assert facts["threshold_if_bulk_is_normal"] == threshold_at(normal_N, 0.05).value
    assert facts["threshold_if_bulk_is_normal"] < facts["threshold"] < 9
    bold = threshold_facts(held_out, 0.05, "bulk")
    assert (bold["threshold"], bold["num_held_out"]) == (facts["threshold_if_bulk_is_normal"], 200)
