"""Trust in training images: which of the kept ones count for less."""

import numpy as np
import pyarrow as pa
import pytest

from llb_ray.config import PurifyConfig
from llb_ray.ensemble.filters.base import DECISIONS, Evidence, filter_of
from llb_ray.ensemble.purify import cut, selection
from llb_ray.ensemble.trust import DOUBTED, TRUSTED, UNTRUSTED, trust

IDS = [f"{number:03d}" for number in range(40)]
SCORES = np.linspace(1, 2, 40)


@pytest.mark.parametrize(
    ("keep_ratio", "doubted", "expected"),
    [
        (1.0, 0.1, [TRUSTED] * 36 + [DOUBTED] * 4),
        (0.5, 0.1, [TRUSTED] * 18 + [DOUBTED] * 2 + [UNTRUSTED] * 20),
        (1.0, 0.0, [TRUSTED] * 40),
        (0.9, 0.01, [TRUSTED] * 36 + [UNTRUSTED] * 4),  # less than half an image
    ],
)
def test_the_most_anomalous_of_the_kept_images_are_doubted(
    keep_ratio: float, doubted: float, expected: list[float]
) -> None:
    assert trust(cut(IDS, SCORES, keep_ratio, "score"), doubted).tolist() == expected


def test_the_order_of_rows_means_nothing() -> None:
    order = np.random.default_rng(0).permutation(40)
    decided = cut(IDS, SCORES, 0.8, "score")
    assert trust(decided.take(order), 0.2).tolist() == trust(decided, 0.2)[order].tolist()


def test_equal_scores_still_give_the_same_number_of_doubted_images() -> None:
    assert (trust(cut(IDS, np.ones(40), 1.0, "score"), 0.1) == DOUBTED).sum() == 4


def test_images_without_a_rank_are_not_doubted() -> None:
    decided = filter_of(PurifyConfig(filter="none")).decide(Evidence(IDS, 0)).table
    assert decided.schema == DECISIONS
    assert trust(decided, 0.5).tolist() == [TRUSTED] * 40


@pytest.mark.parametrize("name", ["none", "random", "oracle", "srr", "softpatch", "memory_ensemble"])
def test_filters_other_than_llb_trust_what_they_keep(name: str) -> None:
    changed = PurifyConfig(filter=name, doubted=0.2)
    assert any(notice.startswith("purify.doubted has no effect") for notice in changed.notices())


@pytest.mark.parametrize(
    ("count", "away", "rejected", "expected"),
    [
        (40, 9, 40, 16),  # clearly apart: rejected, and a tenth of the others is doubted
        (80, 9, 0, 80),  # too many to be sure of
        (50, 3.3, 0, 46),  # too near to be sure of
        (1, 30, 1, 20),
        (0, 0, 0, 20),
    ],
)
def test_what_is_apart_but_not_clearly_is_doubted_rather_than_rejected(
    count: int, away: float, rejected: int, expected: int
) -> None:
    scores = np.random.default_rng(0).normal(size=200)
    evidence = np.r_[scores[count:], scores[:count] + away]
    keep_ratio, doubted = selection(PurifyConfig(), evidence)
    assert round(200 * (1 - keep_ratio)) == rejected
    assert round(200 * keep_ratio * doubted) == pytest.approx(expected, abs=2)
    assert selection(PurifyConfig(doubted=0), evidence) == (keep_ratio, 0)


def test_a_ratio_that_is_given_is_kept_to() -> None:
    assert selection(PurifyConfig(keep_ratio=0.6), None) == (0.6, 0.1)


def test_a_doubted_image_counts_for_three_quarters() -> None:
    assert (TRUSTED, DOUBTED, UNTRUSTED) == (1, 0.75, 0)


def test_a_single_kept_image_is_trusted() -> None:
    assert trust(cut(IDS[:2], np.array([1.0, 2.0]), 0.5, "score"), 0.4).tolist() == [TRUSTED, UNTRUSTED]
    assert trust(pa.table({"decision": ["kept"], "rank": [1]}), 0.4).tolist() == [TRUSTED]
