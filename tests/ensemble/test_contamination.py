"""The estimated noise level: known answers, what must not matter, and what every keep ratio would cost."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llb_ray.config import PurifyConfig
from llb_ray.ensemble.contamination import WHAT_IF, Bulk, Contamination, anomalous_share, bulk, contamination, what_if
from llb_ray.ensemble.decision import KEPT
from llb_ray.ensemble.filters.base import Evidence, filter_of
from llb_ray.ensemble.purify import anomaly_evidence
from llb_ray.ensemble.score_matrix import ScoreMatrix
from llb_ray.errors import DataError

Clean = Callable[[np.random.Generator, int], np.ndarray]  # a generator and a count to scores


def _mixed(share: float, count: int = 500, seed: int = 0) -> np.ndarray:
    """Normal scores about 0, and a share of anomalous ones about 8."""
    rng, anomalous = np.random.default_rng(seed), round(share * count)
    return np.concatenate([rng.normal(size=count - anomalous), rng.normal(8, 1, anomalous)])


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.2, 0.4])
def test_well_separated_anomalies_are_counted(share: float) -> None:
    found = contamination(_mixed(share))
    assert found.share == pytest.approx(share, abs=0.02)
    assert found.low <= share + 0.01
    assert found.high >= share - 0.01


def _kinds(rng: np.random.Generator, lower: tuple[float, float, int], upper: tuple[float, float, int]) -> np.ndarray:
    """Gaussian scores of two kinds: mean, spread and number of each."""
    return np.concatenate([rng.normal(*lower), rng.normal(*upper)])


def _rare_and_tight(share: float) -> Clean:
    """Two normal kinds, of which the tighter one scores lower."""
    return lambda rng, count: _kinds(rng, (0, 0.4, round(share * count)), (3, 1, count - round(share * count)))


CLEAN: dict[str, Clean] = {
    "gaussian": lambda rng, count: rng.normal(size=count),
    "lognormal": lambda rng, count: rng.lognormal(0, 0.5, count),
    "gamma": lambda rng, count: rng.gamma(2, size=count),
    "exponential": lambda rng, count: rng.exponential(size=count),
    **{f"two kinds, {share}": _rare_and_tight(share) for share in (0.1, 0.25, 0.45)},
}


@pytest.mark.parametrize(
    ("count", "seeds", "most"), [(50, 40, 0.05), (200, 40, 0.02), (1000, 20, 0.02), (10**5, 2, 0.02)]
)
@pytest.mark.parametrize("kind", CLEAN)
def test_a_smooth_tail_is_not_apart(kind: str, count: int, seeds: int, most: float) -> None:
    """For at least 19 of 20 samples."""
    shares = [anomalous_share(CLEAN[kind](np.random.default_rng(seed), count)) for seed in range(seeds)]
    assert np.mean(np.array(shares) <= most) >= 0.95


@pytest.mark.parametrize(("count", "seeds", "found"), [(200, 20, 0.75), (500, 20, 0.95), (10**5, 2, 1)])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.45])
def test_anomalies_four_spreads_apart_are_counted(share: float, count: int, seeds: int, found: float) -> None:
    """`found`: the part of the samples for which that is so."""
    upper = round(share * count)
    samples = [_kinds(np.random.default_rng(seed), (0, 1, count - upper), (4, 1, upper)) for seed in range(seeds)]
    right = [abs(anomalous_share(score_N) - share) <= 0.05 for score_N in samples]
    assert np.mean(right) >= found


@pytest.mark.parametrize("kind", CLEAN)
@pytest.mark.parametrize("distance", [1e3, 1e6])
@pytest.mark.parametrize("count", [50, 200, 1000])
def test_one_extreme_score_counts_as_one(kind: str, distance: float, count: int) -> None:
    score_N = CLEAN[kind](np.random.default_rng(1), count)
    with_one_N = np.append(score_N[1:], np.median(score_N) + distance * score_N.std())
    changed = anomalous_share(with_one_N) - anomalous_share(score_N)
    assert changed == pytest.approx(1 / count)


def test_the_bulk_is_without_what_is_apart() -> None:
    score_N = _mixed(0.0, 200)
    assert contamination(np.append(score_N, 1e6)).bulk == bulk(score_N)


@pytest.mark.parametrize("score", [-1e6, -1e3])
def test_one_extremely_low_score_hides_no_anomalies(score: float) -> None:
    assert anomalous_share(np.append(_mixed(0.2, 500), score)) == pytest.approx(0.2, abs=0.01)


@given(seed=st.integers(0, 100), share=st.floats(0, 0.9), scale=st.floats(0.01, 100), shift=st.floats(-100, 100))
def test_it_is_a_share_and_neither_order_nor_scale_matters(seed: int, share: float, scale: float, shift: float) -> None:
    score_N = _mixed(share, 200, seed)
    found = anomalous_share(score_N)
    assert 0 <= found <= 0.5
    moved = np.random.default_rng(seed).permutation(score_N) * scale + shift
    assert anomalous_share(moved) == pytest.approx(found, abs=0.011)  # two images on the cut, by rounding


@given(st.lists(st.integers(-3, 3) | st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_any_scores_have_a_share(scores: list[float]) -> None:
    assert 0 <= anomalous_share(np.array(scores, dtype=np.float64)) <= 0.5


@pytest.mark.parametrize(("high", "share"), [(1, 0.01), (10, 0.1), (40, 0.4), (60, 0.0), (90, 0.0)])
def test_of_two_values_the_rarer_higher_one_is_apart(high: int, share: float) -> None:
    assert anomalous_share(np.repeat([0.0, 1.0], [100 - high, high])) == pytest.approx(share)


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_contains_the_share(seed: int) -> None:
    found = contamination(_kinds(np.random.default_rng(seed), (0, 1, 80), (4, 1, 20)))
    assert found.low <= found.share <= found.high


def test_the_interval_does_not_depend_on_the_order() -> None:
    score_N = _mixed(0.2)
    assert contamination(score_N) == contamination(score_N[::-1])


def test_scores_at_the_mode_belong_to_those_below_it() -> None:
    found = bulk(np.concatenate([np.full(80, 128.0), np.repeat([108.0, 148.0], 10), [0.0, 255.0]]))
    assert found.mode == 128, "a point of the grid"
    assert found.spread == pytest.approx(np.sqrt((10 * 20**2 + 128**2) / 91))


def test_the_spread_is_that_of_the_scores_below_the_mode() -> None:
    found = bulk(np.concatenate([_mixed(0.0, 2000), np.full(800, 30.0)]))
    assert found.mode == pytest.approx(0, abs=0.6)
    assert found.spread == pytest.approx(1, abs=0.3)


def test_equal_scores_say_nothing() -> None:
    assert anomalous_share(np.ones(10)) == 0
    with pytest.raises(DataError, match="all 10 images have the same score"):
        contamination(np.ones(10))


def test_scores_that_are_tied_but_for_a_handful_have_a_mode() -> None:
    score_N = np.append(np.zeros(999), 1.0)
    assert bulk(score_N) == Bulk(mode=0.0, spread=0.0)
    assert anomalous_share(score_N) == pytest.approx(0.001)


def test_what_if_keeps_the_books() -> None:
    score_N = _mixed(0.2, 1000)
    table = what_if(score_N, contamination(score_N))
    assert table.schema.equals(WHAT_IF)
    rows = {row["num_kept"]: row for row in table.to_pylist()}
    assert rows[1000]["residual_contamination"] == pytest.approx(0.2, abs=0.02)
    assert rows[1000]["normals_lost"] == pytest.approx(0)
    assert rows[800]["residual_contamination"] == pytest.approx(0, abs=0.02)
    assert rows[800]["normals_lost"] == pytest.approx(0, abs=0.02)
    assert rows[400]["normals_lost"] == pytest.approx(0.5, abs=0.02)
    residual, lost = (np.array(table[name]) for name in ("residual_contamination", "normals_lost"))
    assert (np.diff(residual) >= -0.02).all()
    assert (np.diff(lost) <= 0.02).all()


def test_normal_scores_above_the_mode_are_expected_to_be_gaussian() -> None:
    """Of 90 normal images those below one spread are kept, and what is kept beyond them is anomalous."""
    score_N = np.concatenate([np.linspace(-4, 0, 45), np.full(40, 2.0), np.full(15, 2.2)])
    found = Contamination(share=0.1, low=0.1, high=0.1, clearly=0.1, bulk=Bulk(mode=0.0, spread=2.0))
    rows = {row["num_kept"]: row for row in what_if(score_N, found).to_pylist()}
    normal = 90 * stats.norm.cdf(1)
    assert rows[80]["residual_contamination"] == pytest.approx(1 - normal / 80)
    assert rows[80]["normals_lost"] == pytest.approx(1 - normal / 90)


@pytest.mark.parametrize("num_apart", [10, 60])
def test_the_lower_half_says_how_far_a_tail_reaches_where_the_upper_quarter_is_anomalous(num_apart: int) -> None:
    """As far as that of exponential scores, whose lower half the others have."""
    score_N = stats.expon.ppf((np.arange(200) + 0.5) / 200)
    reach = np.log(2) + np.log(200 / 2 / 0.1)
    score_N[-num_apart:] = 1.2 * reach
    assert anomalous_share(score_N) == pytest.approx(num_apart / 200)


@pytest.mark.parametrize("seed", range(5))
def test_who_keeps_fewer_loses_more_normals_and_keeps_no_more_anomalies(seed: int) -> None:
    """Also where images are few, and their scores stray from the curve."""
    score_N = _mixed(0.2, 60, seed)
    table = what_if(score_N, contamination(score_N))
    residual, kept, lost = (np.array(table[name]) for name in ("residual_contamination", "num_kept", "normals_lost"))
    assert (residual >= 0).all()
    assert (np.diff(residual * kept) >= -1e-6).all()
    assert (np.diff(lost) <= 1e-9).all()


def _matrix(seed: int = 0) -> ScoreMatrix:
    """Three members of very different scales; the last fifth of the images is anomalous."""
    rng, value_N = np.random.default_rng(seed), _mixed(0.2, 200, seed)
    in_fold_NK = (np.arange(200) % 3)[:, None] == np.arange(3)
    score_NK = (value_N[:, None] + rng.normal(0, 0.3, (200, 3))) * np.array([1, 50, 0.1])
    score_NK[in_fold_NK] = 1e6  # what a member thinks of its own share must not matter
    return ScoreMatrix([f"{number:03d}" for number in range(200)], [0, 1, 2], score_NK, in_fold_NK)


def _kept(matrix: ScoreMatrix) -> set[str]:
    table = filter_of(PurifyConfig(keep_ratio="auto")).decide(Evidence(matrix.image_ids, 0, matrix)).table
    return {row["image_id"] for row in table.to_pylist() if row["decision"] == KEPT}


def test_auto_keeps_the_normal_images() -> None:
    assert _kept(_matrix()) == {f"{number:03d}" for number in range(160)}


def test_auto_depends_neither_on_rows_nor_on_the_names_of_members() -> None:
    matrix, rows, columns = _matrix(1), np.random.default_rng(0).permutation(200), [2, 0, 1]
    ids = [matrix.image_ids[row] for row in rows]
    shuffled = ScoreMatrix(
        ids, [2, 0, 1], matrix.score_NK[np.ix_(rows, columns)], matrix.in_fold_NK[np.ix_(rows, columns)]
    )
    assert _kept(shuffled) == _kept(matrix)


def test_auto_needs_scores_that_differ() -> None:
    matrix = _matrix()
    flat = ScoreMatrix(matrix.image_ids, matrix.members, np.ones_like(matrix.score_NK), matrix.in_fold_NK)
    with pytest.raises(DataError, match="keep_ratio=auto"):
        anomaly_evidence(PurifyConfig(), flat)


@pytest.mark.parametrize("power", [0.5, 2, 3])
@pytest.mark.parametrize("in_fold", [0.0, 1e-9, 5.0])
def test_a_power_of_distances_is_the_same_evidence(power: float, in_fold: float) -> None:
    """Distances and their squares rank images alike, and say the same of how many are anomalous."""
    score_NK = np.random.default_rng(0).lognormal(0, 0.3, (60, 3))
    in_fold_NK = np.arange(60)[:, None] % 3 == np.arange(3)
    score_NK[in_fold_NK] = in_fold
    matrix = ScoreMatrix([f"{row:02d}" for row in range(60)], [0, 1, 2], score_NK, in_fold_NK)
    changed = replace(matrix, score_NK=score_NK**power)
    assert np.allclose(anomaly_evidence(PurifyConfig(), changed), anomaly_evidence(PurifyConfig(), matrix))
