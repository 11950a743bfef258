"""Pixel metrics: against scikit-learn, and AUPRO against a loop over every threshold and every region."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from llb_ray.metrics.exact_pixel import Ranked, pixel_metrics, region_weights
from tests.pixels import UNDEFINED, brute_force_aupro, cases, limits, one_square, scikit_f1_max


@settings(max_examples=300, deadline=None)
@given(cases(), limits)
def test_aupro_equals_brute_force(case, limit):
    assert pixel_metrics(*case, limit)["aupro"] == pytest.approx(brute_force_aupro(*case, limit), abs=1e-9, rel=0)


@given(cases())
def test_auroc_ap_and_f1_equal_scikit_learn(case):
    map_P, mask_P = case[0].ravel(), case[1].ravel()
    metrics = pixel_metrics(*case)
    assert metrics["p_auroc"] == pytest.approx(roc_auc_score(mask_P, map_P), abs=1e-9)
    assert metrics["p_ap"] == pytest.approx(average_precision_score(mask_P, map_P), abs=1e-9)
    assert metrics["p_f1_max"] == pytest.approx(scikit_f1_max(*case), abs=1e-9)


@given(cases())
def test_auroc_is_the_pair_count(case):
    defect, normal = case[0][case[1]][:, None], case[0][~case[1]][None, :]
    pairs = (defect > normal).mean() + 0.5 * (defect == normal).mean()
    assert pixel_metrics(*case)["p_auroc"] == pytest.approx(pairs, abs=1e-9)


@given(cases())
def test_aupro_to_limit_one_is_auroc_weighted_by_region(case):
    map_NHW, mask_NHW = case
    weight_NHW = np.ones(mask_NHW.shape)
    weight_NHW[mask_NHW] = region_weights(mask_NHW)
    expected = roc_auc_score(mask_NHW.ravel(), map_NHW.ravel(), sample_weight=weight_NHW.ravel())
    assert pixel_metrics(map_NHW, mask_NHW, 1.0)["aupro"] == pytest.approx(expected, abs=1e-9)


@given(cases())
def test_only_the_order_of_scores_matters(case):
    map_NHW, mask_NHW = case
    rank_NHW = np.unique(map_NHW, return_inverse=True)[1].reshape(map_NHW.shape)
    stretched_NHW = np.sqrt(rank_NHW).astype(np.float32) - 7
    assert pixel_metrics(stretched_NHW, mask_NHW) == pixel_metrics(map_NHW, mask_NHW)


@given(cases(), st.randoms())
def test_the_order_of_images_does_not_matter(case, random):
    order = list(range(len(case[0])))
    random.shuffle(order)
    assert pixel_metrics(case[0][order], case[1][order]) == pytest.approx(pixel_metrics(*case), abs=1e-12)


def test_perfect_maps_give_one():
    mask_NHW = one_square()
    assert pixel_metrics(mask_NHW.astype(np.float32), mask_NHW) == dict.fromkeys(UNDEFINED, 1.0)


def test_inverted_maps_give_nothing():
    mask_NHW = one_square()
    metrics = pixel_metrics(1 - mask_NHW.astype(np.float32), mask_NHW)
    share = mask_NHW.mean()  # the best that can be done is to call everything defective
    f1 = 2 * share / (1 + share)
    assert metrics == pytest.approx({"p_auroc": 0.0, "p_ap": share, "p_f1_max": f1, "aupro": 0.0})


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_constant_maps_follow_the_diagonal(limit):
    mask_NHW = one_square()
    metrics = pixel_metrics(np.full(mask_NHW.shape, 0.7, dtype=np.float32), mask_NHW, limit)
    share = mask_NHW.mean()
    f1 = 2 * share / (1 + share)
    assert metrics == pytest.approx({"p_auroc": 0.5, "p_ap": share, "p_f1_max": f1, "aupro": limit / 2})


def test_a_region_counts_once_whatever_its_size():
    mask_NHW = one_square()
    mask_NHW[1, 7, 7] = True
    map_NHW = np.zeros(mask_NHW.shape, dtype=np.float32)
    map_NHW[1, 7, 7] = 1  # the one-pixel region is found, the square of nine is not
    metrics = pixel_metrics(map_NHW, mask_NHW, 0.3)
    assert metrics["aupro"] == pytest.approx(0.5 + 0.5 * 0.3 / 2)
    assert metrics["p_auroc"] == pytest.approx(0.1 + 0.9 * 0.5)


def test_diagonal_neighbours_are_one_region():
    assert region_weights(np.eye(4, dtype=bool)[None]).tolist() == [0.25] * 4


def test_regions_do_not_reach_into_the_next_image():
    mask_NHW = np.zeros((2, 2, 2), dtype=bool)
    mask_NHW[:, 0, 0] = True
    assert region_weights(mask_NHW).tolist() == [1.0, 1.0]


def test_an_image_with_an_empty_mask_adds_normal_pixels():
    mask_NHW = one_square()[:1]
    map_NHW = mask_NHW.astype(np.float32)
    alarm_NHW = np.full_like(map_NHW, 2.0)
    both = pixel_metrics(np.concatenate([map_NHW, alarm_NHW]), np.concatenate([mask_NHW, np.zeros_like(mask_NHW)]), 1.0)
    assert both["aupro"] == pytest.approx(55 / (55 + 64))  # its 64 false alarms come before the region


@pytest.mark.parametrize("defective", [False, True])
def test_one_kind_of_pixel_is_undefined(defective):
    assert pixel_metrics(np.zeros((2, 4, 4), np.float32), np.full((2, 4, 4), defective)) == UNDEFINED


def test_no_image_is_undefined():
    assert pixel_metrics(np.zeros((0, 4, 4), np.float32), np.zeros((0, 4, 4), bool)) == UNDEFINED


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("with_defect", [False, True])
def test_broken_maps_are_refused(broken, with_defect):
    mask_NHW = one_square() & with_defect
    map_NHW = np.zeros(mask_NHW.shape, np.float32)
    map_NHW[1, 0, 0] = broken
    with pytest.raises(ValueError, match="map_NHW"):
        pixel_metrics(map_NHW, mask_NHW)


def test_an_integer_mask_is_refused():
    with pytest.raises(AssertionError, match="boolean"):
        pixel_metrics(np.zeros((1, 2, 2), np.float32), np.zeros((1, 2, 2), np.uint8))


@pytest.mark.parametrize("limit", [0.0, 1.1])
def test_a_limit_outside_its_range_is_refused(limit):
    with pytest.raises(AssertionError):
        pixel_metrics(np.zeros((1, 2, 2), np.float32), np.zeros((1, 2, 2), bool), limit)


def test_of_normal_pixels_those_that_are_looked_at_count():
    map_NHW = np.array([[[0.0, 1.0], [2.0, 3.0]]], np.float32)
    mask_NHW = np.array([[[False, True], [True, False]]])
    found = Ranked.of(map_NHW, mask_NHW, np.array([[True, False], [True, False]]))
    assert found.normal_Q.tolist() == [0]
    assert found.defect_P.tolist() == [1, 2], "a defect is one wherever it is"
    assert Ranked.of(map_NHW, mask_NHW).normal_Q.tolist() == [0, 3]
