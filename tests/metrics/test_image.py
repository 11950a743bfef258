"""Image metrics: against counting by hand, and at the edges where a formula would be 0/0."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb_ray.metrics.image_metrics import MEASURES, f1_max, image_metrics, object_metrics
from llb_ray.metrics.metric_names import METRICS, of_detection, of_run, of_scan

UNDEFINED = {"i_auroc": None, "i_ap": None, "i_f1_max": None}
# Few distinct scores, so that most examples hold ties within and across the classes.
few_scores = st.lists(st.integers(0, 4).map(float), min_size=1, max_size=8)


def scored(normal, anomalous):
    """Scores and labels, normal images first."""
    return np.array(normal + anomalous), np.array([0] * len(normal) + [1] * len(anomalous))


def pair_count(normal, anomalous):
    """The share of pairs in the right order, ties counting one half."""
    wins = [(a > n) + 0.5 * (a == n) for a in anomalous for n in normal]
    return sum(wins) / len(wins)


def best_f1(score_N, label_N):
    """The highest 2 TP / (2 TP + FP + FN) over all thresholds."""
    passed = [score_N >= threshold for threshold in score_N]
    return max(2 * np.sum(label_N[p]) / (np.sum(p) + np.sum(label_N)) for p in passed)


@given(few_scores, few_scores)
def test_auroc_is_the_pair_count(normal, anomalous):
    assert image_metrics(*scored(normal, anomalous))["i_auroc"] == pytest.approx(pair_count(normal, anomalous))


@given(few_scores, few_scores)
def test_f1_max_is_the_best_threshold(normal, anomalous):
    score_N, label_N = scored(normal, anomalous)
    assert f1_max(score_N, label_N) == pytest.approx(best_f1(score_N, label_N))


@given(few_scores, few_scores)
def test_only_the_order_of_scores_matters(normal, anomalous):
    score_N, label_N = scored(normal, anomalous)
    assert image_metrics(np.exp(score_N), label_N) == image_metrics(score_N, label_N)


def test_ap_by_hand():
    score_N, label_N = np.array([4.0, 3.0, 2.0, 1.0]), np.array([1, 0, 1, 0])
    assert image_metrics(score_N, label_N)["i_ap"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_perfect_scores_give_one():
    assert image_metrics(*scored([0.0, 0.1], [0.8, 0.9])) == {"i_auroc": 1.0, "i_ap": 1.0, "i_f1_max": 1.0}


def test_constant_scores_give_the_share_of_anomalous():
    metrics = image_metrics(*scored([1.0] * 3, [1.0]))
    assert metrics == pytest.approx({"i_auroc": 0.5, "i_ap": 0.25, "i_f1_max": 0.4})


def test_f1_where_nothing_is_found_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert f1_max(*scored([5.0, 4.0], [1.0])) == pytest.approx(0.5)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_undefined(label):
    assert image_metrics(np.array([0.1, 0.2]), np.array([label, label])) == UNDEFINED


def test_no_image_is_undefined():
    assert image_metrics(np.zeros(0), np.zeros(0, dtype=int)) == UNDEFINED


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("labels", [[0, 1], [1, 1]])
def test_broken_scores_are_refused(broken, labels):
    with pytest.raises(ValueError, match="score_N"):
        image_metrics(np.array([0.5, broken]), np.array(labels))


def test_other_labels_are_refused():
    with pytest.raises(AssertionError, match="labels"):
        image_metrics(np.array([0.1, 0.2]), np.array([-1, 1]))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1), st.sampled_from("abcd")), min_size=2, max_size=12))
def test_an_objects_score_is_its_highest_and_one_anomaly_makes_it_one(images):
    score_N, label_N, group_N = (list(column) for column in zip(*images, strict=True))
    objects = {name: [(s, y) for s, y, g in images if g == name] for name in set(group_N)}
    highest = {name: max(s for s, _ in views) for name, views in objects.items()}
    normal = [highest[name] for name, views in objects.items() if not any(y for _, y in views)]
    anomalous = [highest[name] for name, views in objects.items() if any(y for _, y in views)]
    found = object_metrics(np.array(score_N, np.float32), np.array(label_N), group_N)
    if len(objects) == len(images):
        assert found == {}
    else:
        expected = pair_count(normal, anomalous) if normal and anomalous else None
        assert found == {"s_auroc": pytest.approx(expected) if expected is not None else None}


def test_no_image_is_no_object():
    assert object_metrics(np.empty(0), np.empty(0, int), []) == {}


def test_every_image_metric_has_a_title() -> None:
    assert set(MEASURES) == {name for name, metric in METRICS.items() if metric.level == "image"}


def test_the_tables_have_their_metrics_in_their_order() -> None:
    assert list(of_run())[:4] == ["contamination", "residual_contamination", "normals_lost", "i_auroc"]
    assert list(of_run())[-1] == "aupro"
    first = ["i_auroc", "s_auroc", "aupro", "p_auroc", "residual_contamination", "normals_lost"]
    assert list(of_scan()) == [*first, "i_ap", "i_f1_max", "p_ap", "p_f1_max"]
    detection = ("i_auroc", "s_auroc", "p_auroc", "aupro", "i_ap", "p_ap", "i_f1_max", "p_f1_max")
    assert of_detection() == detection, "columns of files that are there"
