"""Counting pixels: against the exact metrics and scikit-learn, within the stated bound, in any order and any split."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score, roc_auc_score

from llb_ray.metrics import streaming_pixel
from llb_ray.metrics.exact_pixel import pixel_metrics, region_weights
from llb_ray.metrics.streaming_pixel import MAX_BINS, REGION, SCHEMA, PixelCounts, order_keys, region_units
from tests.pixels import UNDEFINED, brute_force_aupro, cases, limits, one_square, scikit_f1_max

coarse = patch.object(streaming_pixel, "MAX_BINS", 2**9)  # so that tens of pixels share a bin
any_float = st.floats(width=32, allow_nan=False, allow_infinity=False)


def counted(map_NHW, mask_NHW):
    found = PixelCounts()
    found.add(map_NHW, mask_NHW)
    return found


def merged(parts):
    whole = PixelCounts()
    for part in parts:
        whole.merge(part)
    return whole


def smooth_case(seed=0, images=12, size=64):
    """Maps with a hundred thousand distinct scores, higher in masks of several regions; a third of them empty."""
    rng = np.random.default_rng(seed)
    noise_2NHW = rng.normal(size=(2, images, size, size)).astype(np.float32)
    mask_NHW = gaussian_filter(noise_2NHW[0], (0, 4, 4)) > 0.12
    mask_NHW[::3] = False
    return (gaussian_filter(noise_2NHW[1], (0, 2, 2)) + 0.1 * mask_NHW).astype(np.float32), mask_NHW


def assert_within_bounds(map_NHW, mask_NHW, limit, tolerance=1e-9):
    """The counts' metrics are at most their own bound from the exact ones; gives the bounds."""
    found, exact = counted(map_NHW, mask_NHW), pixel_metrics(map_NHW, mask_NHW, limit)
    bounds = found.error_bounds(limit)
    for name, value in found.metrics(limit).items():
        assert abs(value - exact[name]) <= bounds[name] + tolerance, name
    return bounds


def concentrated(map_NHW):
    """The same order in scores from 1000.0 to 1000.1, neighbours as near as numbers of 32 bits can be."""
    rank_NHW = np.unique(map_NHW, return_inverse=True)[1].reshape(map_NHW.shape)
    return np.float32(1000) + rank_NHW.astype(np.float32) * np.float32(2**-14)


@settings(max_examples=200)
@given(cases(), limits)
def test_scores_close_together_are_counted_exactly(case, limit):
    map_NHW, mask_NHW = concentrated(case[0]), case[1]
    metrics, bounds = counted(map_NHW, mask_NHW).metrics(limit), counted(map_NHW, mask_NHW).error_bounds(limit)
    assert metrics["aupro"] == pytest.approx(brute_force_aupro(*case, limit), abs=1e-9, rel=0)
    assert metrics["p_auroc"] == pytest.approx(roc_auc_score(mask_NHW.ravel(), map_NHW.ravel()), abs=1e-9)
    assert metrics["p_ap"] == pytest.approx(average_precision_score(mask_NHW.ravel(), map_NHW.ravel()), abs=1e-9)
    assert metrics["p_f1_max"] == pytest.approx(scikit_f1_max(*case), abs=1e-9)
    assert (bounds["p_auroc"], bounds["p_ap"], bounds["p_f1_max"]) == (0, 0, 0)
    assert bounds["aupro"] < 1e-9


@settings(max_examples=200)
@given(cases(), limits, st.booleans())
def test_the_bounds_hold_however_coarse_the_bins(case, limit, negative):
    map_NHW = (case[0] - 500_000 if negative else case[0] + 1).astype(np.float32)
    assert_within_bounds(map_NHW, case[1], limit)
    with coarse:
        assert_within_bounds(map_NHW, case[1], limit)


def test_the_bounds_are_no_empty_words():
    map_NHW, mask_NHW = smooth_case()
    map_NHW += np.float32(1) - map_NHW.min()
    with coarse:
        bounds = assert_within_bounds(map_NHW, mask_NHW, 0.3)
        found = counted(map_NHW, mask_NHW).metrics()
    exact = pixel_metrics(map_NHW, mask_NHW)
    assert found["p_auroc"] != exact["p_auroc"]
    assert all(1e-5 < bound < 0.5 for bound in bounds.values())


def test_the_bound_of_auroc_is_half_the_pairs_in_a_bin():
    """Sixteen bins would do; with as many as pages each bin is a page, such as all scores from 1 up to 1 + 1/128."""
    map_NHW = np.array([[[1, 1.001, 1.002, 1.5, 3]]], np.float32)
    mask_NHW = np.array([[[True, False, False, True, False]]])
    with patch.object(streaming_pixel, "MAX_BINS", 3):
        found = counted(map_NHW, mask_NHW)
        assert found.shift == 16
        assert found.error_bounds()["p_auroc"] == pytest.approx(2 * 1 / (2 * 3 * 2))
        assert found.metrics()["p_auroc"] == pytest.approx((0.5 + 0.5 + 1 + 1) / 6)


@pytest.mark.parametrize(
    "scale",
    [
        lambda m: m,
        lambda m: m - m.min() + np.float32(0.1),
        lambda m: np.exp(40 * m),
        lambda m: m * np.float32(1e-38),
        lambda m: m * np.float32(1e35),
        lambda m: -np.exp(40 * m)[::-1],
    ],
    ids=["both signs", "positive", "wide", "tiny", "huge", "negative"],
)
def test_smooth_maps_of_any_magnitude_are_within_a_ten_thousandth(scale):
    map_NHW, mask_NHW = smooth_case()
    bounds = assert_within_bounds(scale(map_NHW), mask_NHW, 0.3)
    assert max(bounds.values()) < 1e-3
    exact = pixel_metrics(scale(map_NHW), mask_NHW)
    assert counted(scale(map_NHW), mask_NHW).metrics() == pytest.approx(exact, abs=1e-4)


@given(cases(), st.randoms(use_true_random=False), st.booleans())
def test_any_split_merged_in_any_order_is_the_same_to_the_last_bit(case, random, fine):
    map_NHW, mask_NHW = np.exp(case[0] / 1e5).astype(np.float32) - 10, case[1]
    home_N = [random.randrange(3) for _ in map_NHW]
    with patch.object(streaming_pixel, "MAX_BINS", MAX_BINS if fine else 2**9):
        whole = counted(map_NHW, mask_NHW)
        parts = [PixelCounts() for _ in range(3)]
        for image in random.sample(range(len(map_NHW)), len(map_NHW)):
            parts[home_N[image]].add(map_NHW[image : image + 1], mask_NHW[image : image + 1])
        random.shuffle(parts)
        assert merged(parts).to_table().equals(whole.to_table())
        assert merged([merged(parts[:2]), parts[2]]).metrics() == whole.metrics()
        assert merged([parts[0], merged(parts[1:])]).error_bounds() == whole.error_bounds()


@pytest.mark.parametrize("pixels", [1, 64 * 64 * 5])
def test_a_batch_too_large_to_be_counted_at_once_is_cut(pixels):
    at_once = counted(*smooth_case()).to_table()
    with patch.object(streaming_pixel, "_CHUNK_PIXELS", pixels):
        assert counted(*smooth_case()).to_table().equals(at_once)


@given(cases())
def test_the_table_gives_the_counts_back(case):
    found = counted(*case)
    table = found.to_table()
    assert table.schema.equals(SCHEMA)
    assert table.num_rows <= case[0].size
    again = PixelCounts.of_table(table)
    assert again.to_table().equals(table)
    assert (again.metrics(), again.error_bounds()) == (found.metrics(), found.error_bounds())


def test_the_table_gives_scores_back_that_differ_in_their_last_bit():
    one = np.float32(1)
    map_NHW, mask_NHW = np.array([[[one, np.nextafter(one, 2)]]], np.float32), np.array([[[False, True]]])
    found = counted(map_NHW, mask_NHW)
    assert PixelCounts.of_table(found.to_table()).to_table().equals(found.to_table())
    assert found.metrics()["p_auroc"] == 1


def test_nothing_counted_is_a_table_too():
    table = PixelCounts().to_table()
    assert table.equals(SCHEMA.empty_table())
    assert PixelCounts.of_table(table).metrics() == UNDEFINED
    found = counted(*smooth_case())
    before = found.to_table()
    found.merge(PixelCounts())
    assert found.to_table().equals(before)


def test_memory_does_not_grow_with_the_maps():
    rng, found = np.random.default_rng(0), PixelCounts()
    for _ in range(4):  # all magnitudes are equally likely
        map_NHW = rng.integers(0, 2**32, (4, 256, 256), dtype=np.uint32).view(np.float32)
        map_NHW[~(np.abs(map_NHW) < 1e30)] = 0
        found.add(map_NHW, rng.random(map_NHW.shape) < 0.1)
        assert found.nbytes <= 24 * MAX_BINS
        assert found.to_table().num_rows <= MAX_BINS
    assert found.metrics()["p_auroc"] == pytest.approx(0.5, abs=0.01)


def test_nothing_is_lost_while_scores_share_few_pages():
    map_NHW, mask_NHW = smooth_case()
    map_NHW = np.float32(1000) + map_NHW * np.float32(0.05)
    assert counted(map_NHW, mask_NHW).shift == 0
    assert counted(map_NHW, mask_NHW).metrics() == pytest.approx(pixel_metrics(map_NHW, mask_NHW), abs=1e-9)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_constant_maps_follow_the_diagonal(limit):
    map_NHW = np.full((2, 8, 8), -0.7, np.float32)
    assert counted(map_NHW, one_square()).metrics(limit) == pytest.approx(pixel_metrics(map_NHW, one_square(), limit))


def test_the_zeros_are_equal():
    map_NHW, mask_NHW = np.zeros((2, 8, 8), np.float32), one_square()
    map_NHW[mask_NHW] = -0.0
    assert counted(map_NHW, mask_NHW).metrics()["p_auroc"] == 0.5


def test_perfect_and_inverted_maps():
    mask_NHW = one_square()
    map_NHW = mask_NHW.astype(np.float32)
    assert counted(map_NHW, mask_NHW).metrics() == dict.fromkeys(UNDEFINED, 1.0)
    assert counted(-map_NHW, mask_NHW).metrics() == pytest.approx(pixel_metrics(-map_NHW, mask_NHW))


@pytest.mark.parametrize("defective", [False, True])
@pytest.mark.parametrize("images", [0, 2])
def test_one_kind_of_pixel_or_none_is_undefined(defective, images):
    found = counted(np.zeros((images, 4, 4), np.float32), np.full((images, 4, 4), defective))
    assert found.metrics() == found.error_bounds() == UNDEFINED


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_broken_maps_are_refused(broken):
    map_NHW = np.zeros((1, 8, 8), np.float32)
    map_NHW[0, 0, 0] = broken
    with pytest.raises(ValueError, match="map_NHW"):
        PixelCounts().add(map_NHW, one_square()[:1])


@given(st.lists(any_float, min_size=2, max_size=20))
def test_keys_are_in_the_order_of_the_scores(scores):
    map_NHW = np.array(scores, np.float32).reshape(1, 1, -1)
    key_P, score_P = order_keys(map_NHW).ravel().astype(np.int64), map_NHW.ravel()
    assert np.array_equal(np.sign(key_P[:, None] - key_P), np.sign(score_P[:, None].astype(float) - score_P))


@given(cases())
def test_the_units_of_a_region_add_up_to_it(case):
    weight_P, unit_P = region_weights(case[1]), region_units(case[1])
    assert np.allclose(unit_P / REGION, weight_P, rtol=0, atol=case[1].size / REGION)
    assert unit_P.sum() == round(weight_P.sum()) * REGION


def test_the_order_of_regions_and_images_does_not_move_units():
    mask_NHW = np.zeros((2, 3, 7), bool)
    mask_NHW[0, 0, :3], mask_NHW[0, 2, :7], mask_NHW[1, 1, 2] = True, True, True
    first = REGION // 3 + REGION % 3, REGION // 7 + REGION % 7
    assert region_units(mask_NHW).tolist() == [first[0], *[REGION // 3] * 2, first[1], *[REGION // 7] * 6, REGION]
