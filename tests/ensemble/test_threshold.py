"""Thresholds: the rate that is asked for, how well it is known, and what is said where the sample ends."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llb_ray.ensemble.threshold import ORDER, PARETO, Threshold, threshold_at, threshold_facts

Floats = npt.NDArray[np.float64]


def _draws(count: int, times: int = 300) -> Floats:
    return np.random.default_rng(0).normal(size=(times, count))


def _each(count: int, rate: float, times: int = 300) -> list[Threshold]:
    return [threshold_at(score_N, rate) for score_N in _draws(count, times)]


@pytest.mark.parametrize(("count", "rate", "estimate"), [(99, 0.01, ORDER), (98, 0.01, PARETO), (600, 0.05, ORDER)])
def test_an_order_statistic_as_long_as_there_is_one(count: int, rate: float, estimate: str) -> None:
    assert threshold_at(_draws(count, 1)[0], rate).estimate == estimate


@given(st.integers(2, 300), st.floats(0.004, 0.5), st.integers(0, 9))
def test_a_new_image_exceeds_it_as_seldom_as_asked(count: int, rate: float, seed: int) -> None:
    """The exact promise of an order statistic: of N + 1 images in random order, the last is above with this chance."""
    score_N = np.random.default_rng(seed).permutation(count).astype(float)
    threshold = threshold_at(score_N, rate)
    if threshold.estimate == ORDER:
        above = int((score_N > threshold.value).sum()) + 1
        assert above / (count + 1) <= rate + 1e-9 < (above + 1) / (count + 1) + 1e-9


@pytest.mark.parametrize(("count", "rate", "low", "high"), [(480, 0.05, 0.045, 0.055), (40, 0.01, 0.008, 0.025)])
def test_on_average_the_rate_is_kept(count: int, rate: float, low: float, high: float) -> None:
    assert low < np.mean([stats.norm.sf(threshold.value) for threshold in _each(count, rate)]) < high


@pytest.mark.parametrize(("count", "least"), [(480, 0.92), (60, 0.8)])
def test_the_intervals_hold_the_truth(count: int, least: float) -> None:
    found, truth = _each(count, 0.01), stats.norm.isf(0.01)
    scores = [one.interval[0] <= truth <= (np.inf if one.interval[1] is None else one.interval[1]) for one in found]
    rates = [one.rate_interval[0] <= stats.norm.sf(one.value) <= one.rate_interval[1] for one in found]
    assert np.mean(scores) >= least
    assert np.mean(rates) >= least


def test_an_interval_beyond_the_sample_says_so() -> None:
    assert threshold_at(_draws(120, 1)[0], 0.01).interval[1] is None


@given(st.integers(0, 5), st.floats(0.1, 10), st.floats(-5, 5), st.sampled_from([20, 200]))
def test_another_unit_is_another_unit(seed: int, unit: float, zero: float, count: int) -> None:
    score_N = np.random.default_rng(seed).gamma(3, size=count)
    before, after = threshold_at(score_N, 0.01), threshold_at(zero + unit * score_N, 0.01)
    assert after.value == pytest.approx(zero + unit * before.value)
    assert after.rate_interval == pytest.approx(before.rate_interval)


@pytest.mark.parametrize("count", [2, 3, 30, 300])
def test_scores_that_are_all_alike_have_themselves_as_threshold(count: int) -> None:
    assert threshold_at(np.full(count, 2.5), 0.01).value == pytest.approx(2.5)


def _table(**columns: object) -> pa.Table:
    return pa.table(columns)


def test_what_rejected_images_may_mean_is_counted() -> None:
    ids = [f"{number:03d}" for number in range(250)]
    kept = _table(image_id=ids[:200], score=np.arange(200) / 200)
    everyone = _table(image_id=ids, score=np.r_[np.arange(200) / 200, np.full(30, 2.0), np.full(20, 0.5)])
    held_out = {"bulk": kept, "kept": kept, "all": everyone}
    facts = threshold_facts(held_out, 0.05, "kept")
    assert facts["num_held_out"] == 200
    above = (kept["score"].to_numpy() > facts["threshold"]).sum()
    assert facts["rate_if_all_are_normal"] == pytest.approx((above + 30) / 250)
    cautious = threshold_facts(held_out, 0.05, "all")
    assert cautious["num_held_out"] == 250
    assert cautious["threshold"] == facts["threshold_if_all_are_normal"] == cautious["threshold_if_all_are_normal"] == 2
    assert cautious["rate_if_all_are_normal"] <= 0.05


def test_what_anomalies_that_were_kept_may_mean_is_counted() -> None:
    normal_N = np.linspace(0, 1, 200)
    kept = _table(image_id=[f"{number:03d}" for number in range(220)], score=np.r_[normal_N, np.full(20, 9.0)])
    held_out = {"bulk": kept.slice(0, 200), "kept": kept, "all": kept}
    facts = threshold_facts(held_out, 0.05, "kept")
    assert facts["num_standing_out"] == 20
    assert facts["threshold"] == 9
    assert facts["threshold_if_bulk_is_normal"] == threshold_at(normal_N, 0.05).value
    bold = threshold_facts(held_out, 0.05, "bulk")
    assert (bold["threshold"], bold["num_held_out"]) == (facts["threshold_if_bulk_is_normal"], 200)
    assert bold["rate_if_all_are_normal"] == pytest.approx((9 + 20) / 220)
