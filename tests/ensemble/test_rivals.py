"""The rules of other methods, on scores whose answer is known."""

import numpy as np
import pytest

from llb_ray.ensemble.filters.memory_ensemble import averaged
from llb_ray.ensemble.filters.srr import objections, otsu

LOW = np.arange(40) / 10  # 0 to 3.9


def test_otsu_parts_two_heaps() -> None:
    assert 3.9 <= otsu(np.concatenate([LOW, LOW[:10] + 20])) < 20


def test_otsu_of_equal_scores_parts_nothing() -> None:
    assert otsu(np.full(5, 2.0)) == 2.0


def test_srr_keeps_what_no_member_objects_to() -> None:
    one = np.concatenate([LOW, [30.0, 1.0, 30.0]])
    other = np.concatenate([LOW, [30.0, 30.0, 1.0]]) * 100  # scales of their own
    value_N = objections(np.stack([one, other], axis=1))
    assert value_N[-3:].tolist() == [2, 1, 1]
    assert not value_N[:-3].any()


def test_a_memory_ensemble_keeps_up_to_three_deviations() -> None:
    scores = np.random.default_rng(0).normal(5, 1, size=(2000, 4))
    value_N, cut = averaged(scores)
    assert value_N == pytest.approx(scores.mean(axis=1))
    assert cut == pytest.approx(5 + 3 * 0.5, abs=0.1)  # the mean of four has half the spread
