"""The rules of other methods, on scores whose answer is known."""

import numpy as np
import pytest

from llb_ray.config import parse
from llb_ray.ensemble.filters.base import filter_of
from llb_ray.ensemble.filters.memory_ensemble import average_and_limit
from llb_ray.ensemble.filters.srr import objections, otsu

LOW = np.arange(40) / 10  # 0 to 3.9


def test_otsu_parts_two_heaps() -> None:
    assert 3.9 <= otsu(np.concatenate([LOW, LOW[:10] + 20])) < 20


def test_otsu_looks_at_256_bins() -> None:
    assert otsu(np.repeat([0.0, 1.0], 5)) == pytest.approx(1 / 256)
    assert otsu(np.repeat([0.0, 1.0, 1.1], [50, 3, 2])) == pytest.approx(1.1 / 256)


def test_otsu_of_equal_scores_parts_nothing() -> None:
    assert otsu(np.full(5, 2.0)) == 2.0


def test_srr_keeps_what_no_member_objects_to() -> None:
    one = np.concatenate([LOW, [30.0, 1.0, 30.0]])
    other = np.concatenate([LOW, [30.0, 30.0, 1.0]]) * 100  # scales of their own
    score_NK = np.stack([one, other], axis=1)
    value_N = objections(score_NK, np.zeros(score_NK.shape, bool))
    assert value_N[-3:].tolist() == [2, 1, 1]
    assert not value_N[:-3].any()


def test_srr_asks_no_member_about_images_that_it_has_seen() -> None:
    score_NK = np.stack([np.concatenate([LOW, [30.0] * 3]) + 10] * 3, axis=1)
    in_fold_NK = np.eye(3, dtype=bool)[np.arange(len(score_NK)) % 3]
    score_NK[in_fold_NK] = 0  # what a memory has seen is no distance away from it
    value_N = objections(score_NK, in_fold_NK)
    assert value_N[-3:].tolist() == [2, 2, 2]
    assert not value_N[:-3].any()


def test_a_memory_ensemble_has_many_small_memories_of_all_images() -> None:
    config = parse({"purify": {"filter": "memory_ensemble", "memories": 7}, "detector": {"candidates": 12345}})
    rule, detector = filter_of(config.purify), config.detector
    found = rule.member_detector(detector).model_dump()
    assert (found["memory"], found["coreset"], found["coreset_size"]) == ("plain", "random", 1234)
    assert rule.num_members(3) == 7
    assert rule.training_sets([["b", "d"], ["a", "c"]]) == [["a", "b", "c", "d"]] * 2
    assert config.detector_of("final").model_dump()["coreset_size"] == detector.model_dump()["coreset_size"]


def test_a_memory_ensemble_keeps_up_to_three_deviations() -> None:
    scores = np.random.default_rng(0).normal(5, 1, size=(2000, 4))
    value_N, cut = average_and_limit(scores)
    assert value_N == pytest.approx(scores.mean(axis=1))
    assert cut == pytest.approx(5 + 3 * 0.5, abs=0.1)  # the mean of four has half the spread
