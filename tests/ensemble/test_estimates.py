"""The numbers that decide which images are rejected: their limits one by one, and what they say of fixed scores."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from llb_ray.ensemble import contamination as estimate
from llb_ray.ensemble.contamination import Bulk, Contamination, contamination, what_if
from llb_ray.ensemble.decision import KEPT
from llb_ray.ensemble.mixture import TwoKinds
from llb_ray.ensemble.pixel_threshold import LEAST_RATE, LEVELS, MOST_RATE, level_at, levels_of
from llb_ray.ensemble.purify import limit
from llb_ray.ensemble.threshold import threshold_at
from llb_ray.errors import ConfigError, DataError

Floats = npt.NDArray[np.float64]
TINY = 1e-6


def _kinds(separation: float, valley: float) -> TwoKinds:
    return TwoKinds(gain=1e3, separation=separation, valley=valley, cut=0.0)


@pytest.mark.parametrize(
    ("share", "separation", "valley"),
    [
        (0.0, 2.75, 1.0),
        (0.2, 2.75, 1.0),
        (0.3, 2.75, 0.775),
        (0.35, 3.0, 0.6625),
        (0.4, 3.25, 0.55),
        (0.475, 3.25, 0.55),
    ],
)
def test_a_second_kind_must_be_farther_and_behind_a_deeper_valley_the_larger_it_is(
    share: float, separation: float, valley: float
) -> None:
    far, deep = separation + TINY, valley - TINY
    rounding = TINY if share in (0.3, 0.35) else 0  # of what is interpolated
    assert estimate._is_apart(_kinds(far, deep), share)
    assert not estimate._is_apart(_kinds(separation - rounding, deep), share)
    assert not estimate._is_apart(_kinds(far, valley + rounding), share)


def test_the_larger_half_is_no_second_kind() -> None:
    assert estimate._is_apart(_kinds(10, 0), 0.475)
    assert not estimate._is_apart(_kinds(10, 0), 0.475 + TINY)


@pytest.mark.parametrize(
    ("separation", "valley", "share", "clear"),
    [(4 + TINY, 0.4 - TINY, 0.25, True), (4, 0.1, 0.1, False), (9, 0.4, 0.1, False), (9, 0.1, 0.25 + TINY, False)],
)
def test_a_small_kind_with_a_wide_gap_is_clear(separation: float, valley: float, share: float, clear: bool) -> None:
    assert estimate._is_clear(_kinds(separation, valley), share) == clear


NORMAL = np.random.default_rng(7).normal(size=400)


def _sample(name: str) -> Floats:
    """Scores of a name, always the same ones."""
    upper = {"none": 0, "few": 8, "a fifth": 80, "a third": 133, "many": 180, "near": 60, "small set": 6}[name]
    away = {"near": 3.2, "many": 5.0, "a third": 6.0}.get(name, 4.5)
    lower = NORMAL[: 50 if name == "small set" else len(NORMAL) - upper]
    return np.exp((np.r_[lower, NORMAL[::-1][:upper] + away] + 20) / 20)


# Share, interval, clear share, mode and spread of the bulk.
ESTIMATES: dict[str, tuple[float, float, float, float, float, float]] = {
    "none": (0, 0, 0, 0, 2.704071, 0.1229039),
    "few": (0, 0, 0.028875, 0, 2.703431, 0.1216966),
    "a fifth": (0.2, 0.176125, 0.2305, 0.2, 2.70301, 0.1245444),
    "a third": (0.3325, 0.305875, 0.373, 0.3325, 2.700145, 0.124973),
    "many": (0.4475, 0, 0.465, 0, 2.695008, 0.117371),
    "near": (0.14, 0, 0.163875, 0, 2.70173, 0.1227433),
    "small set": (0.0892857, 0.00803571, 0.216071, 0.0892857, 2.683915, 0.1213436),
}
# Value, its interval, and the interval of the rate.
THRESHOLDS: dict[str, tuple[float, float, float, float, float]] = {
    "none": (3.04313, 3.006498, 3.04313, 0.009085732, 0.03791176),
    "a fifth": (3.136706, 3.061992, 3.254061, 0.004767231, 0.02342296),
    "small set": (3.240201, 2.920159, 3.382939, 0.0003485, 0.02146236),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_the_estimate_is_what_runs_were_decided_by(name: str) -> None:
    """Other numbers reject other images: then raise `artifacts.FORMAT_VERSION`, and measure again."""
    found = contamination(_sample(name))
    numbers = (found.share, found.low, found.high, found.clearly, found.bulk.mode, found.bulk.spread)
    assert numbers == pytest.approx(ESTIMATES[name], rel=1e-3)


@pytest.mark.parametrize("name", THRESHOLDS)
def test_the_threshold_is_what_runs_have(name: str) -> None:
    """Other numbers call other images anomalous: then raise `artifacts.FORMAT_VERSION`, and measure again."""
    found = threshold_at(_sample(name), 0.01)
    assert (found.value, *found.interval, *found.rate_interval) == pytest.approx(THRESHOLDS[name], rel=1e-3)


def test_what_if_by_hand() -> None:
    """Four normal scores about a mode of 0 with spread 1, and one far up."""
    found = Contamination(share=0.2, low=0.2, high=0.2, clearly=0.2, bulk=Bulk(0.0, 1.0))
    table = what_if(np.array([9.0, -1.0, 0.0, 1.0, 2.0]), found, num_ratios=6)
    # Of four normal ones 0.8413 and 0.9772 are expected below 1 and 2.
    kept = np.array([1, 2, 3, 4, 5])
    anomalous = np.array([0, 0, 0, 4 - 4 * 0.97725, 1])
    normal = np.array([1, 2, 3, 4 * 0.97725, 4])
    assert table["num_kept"].to_pylist() == kept.tolist()
    assert table["keep_ratio"].to_numpy() == pytest.approx(kept / 5)
    assert table["residual_contamination"].to_numpy() == pytest.approx(anomalous / kept, abs=1e-4)
    assert table["normals_lost"].to_numpy() == pytest.approx(1 - normal / 4, abs=1e-4)
    assert what_if(np.arange(200.0), found).num_rows == 100


def test_a_limit_is_kept_to_and_leaves_somebody() -> None:
    ids = ["c", "a", "b"]
    table = limit(ids, np.array([2.0, 1.0, 3.0]), 2.0, "rule")
    assert dict(zip(table["image_id"].to_pylist(), table["decision"].to_pylist(), strict=True)) == {
        "a": KEPT,
        "b": "rejected",
        "c": KEPT,
    }
    assert table["rank"].to_pylist() == [2, 1, 3]
    assert table["reason"].to_pylist()[2] == "rule: 3, and up to 2 is kept"
    assert limit(ids, np.full(3, 2.0), 2.0, "rule")["decision"].to_pylist() == [KEPT] * 3
    with pytest.raises(DataError, match="filter rule rejects all 3 images"):
        limit(ids, np.full(3, 2.0), 2 - TINY, "rule")


def test_levels_are_read_between_the_rates_that_are_known() -> None:
    map_NP = np.arange(100_000, dtype=np.float32).reshape(10, -1) / 100_000
    levels = levels_of(map_NP)
    assert levels.schema == LEVELS
    rates, level = (levels[name].to_numpy() for name in LEVELS.names)
    assert (len(rates), rates[0], rates[-1]) == (87, pytest.approx(LEAST_RATE), pytest.approx(MOST_RATE))
    assert (LEAST_RATE, MOST_RATE) == (1e-5, 0.2)
    assert np.diff(np.log10(rates)) == pytest.approx(1 / 20, abs=1e-4)
    assert level == pytest.approx(1 - rates, abs=2e-5)
    steps = pa.table([[1e-5, 1e-3, 0.2], [9.0, 5.0, 1.0]], schema=LEVELS)
    assert level_at(steps, 1e-4) == pytest.approx(7.0)  # halfway, of logarithms
    assert [level_at(steps, rate) for rate in (1e-5, 0.2)] == [9.0, 1.0]
    for rate in (0.9e-5, 0.21):
        with pytest.raises(ConfigError, match="is not known"):
            level_at(steps, rate)
