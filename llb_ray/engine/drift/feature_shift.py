"""Shift of features: has the mean of the images' features moved?  It looks at no score and at no detector.

Hotelling's statistic of two means, on the first principal components of both sets of images together, and its
distribution over random divisions of all images into sets of these sizes, which supposes nothing but that images are
exchangeable.  Features count by their normal scores, so that no odd image moves a mean far.

Shapes: M reference images, N of a lot, A of both together, S features, K components, R random divisions.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llb_ray.seeding import stream

FEWEST = 5  # images of a lot, or of a reference
_MOST = 2000  # images of either, drawn at random
_MOST_COMPONENTS, _IMAGES_EACH = 16, 5
_MOST_DIVISIONS, _BEYOND = 20_000, 20  # as many as it takes for so many of them to be beyond the limit
_AT_ONCE = 1_000_000  # numbers drawn
_NOTHING = 1e-6  # of the largest component
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FeatureShift:
    """Distance of two means, in standard deviations of images, and what is said of it."""

    distance: float
    limit: float  # that unchanged images exceed with the probability asked for
    p: float


def feature_shift(reference_MS: Floats, lot_NS: Floats, level: float) -> FeatureShift | None:
    """Result of the test; None for fewer than `FEWEST` images on either side."""
    if min(len(reference_MS), len(lot_NS)) < FEWEST:
        return None
    reference_MS, lot_NS = _some(reference_MS), _some(lot_NS)
    component_AK = _components(np.concatenate([reference_MS, lot_NS]).astype(np.float64))
    squared = _squared(component_AK[None, len(reference_MS) :], len(component_AK))[0]
    null_R = np.concatenate([*_divided(component_AK, len(lot_NS), level)])
    num_beyond = int((null_R >= squared * (1 - 1e-9)).sum())
    p = (1 + num_beyond) / (1 + len(null_R)) if num_beyond else _tail(squared, component_AK, len(lot_NS), len(null_R))
    return FeatureShift(math.sqrt(squared), math.sqrt(np.quantile(null_R, 1 - level)), p)


def _some(image_NS: Floats) -> Floats:
    if len(image_NS) <= _MOST:
        return image_NS
    return image_NS[stream(0, "feature shift", "images").permutation(len(image_NS))[:_MOST]]


def _components(feature_AS: Floats) -> Floats:
    """The first principal components of the features' normal scores, each with variance 1 [A, K]."""
    from scipy import stats

    num = len(feature_AS)
    moving_AS = feature_AS[:, np.ptp(feature_AS, axis=0) > 0]
    score_AS = stats.norm.ppf(stats.rankdata(moving_AS, axis=0) / (num + 1))
    left_AK, size_K, _ = np.linalg.svd(score_AS - score_AS.mean(axis=0), full_matrices=False)
    most = min(_MOST_COMPONENTS, num // _IMAGES_EACH)
    usable_K = size_K[:most] > _NOTHING * size_K.max(initial=_NOTHING)
    kept_AK: Floats = left_AK[:, :most][:, usable_K] * math.sqrt(num - 1)
    return kept_AK


def _squared(lot_RNK: Floats, num: int) -> Floats:
    """The squared distance [R] of the mean of each lot from that of the others of `num` images, whose mean is 0."""
    apart_RK = lot_RNK.mean(axis=1) * num / (num - lot_RNK.shape[1])
    squared_R: Floats = np.square(apart_RK).sum(axis=1)
    return squared_R


def _divided(component_AK: Floats, num_lot: int, level: float) -> Iterator[Floats]:
    """The squared distances of random lots of this size, some at a time."""
    generator, num = stream(0, "feature shift", "divisions"), len(component_AK)
    left = min(_MOST_DIVISIONS, math.ceil(_BEYOND / level))
    while left > 0:
        drawn_RA = generator.random((min(left, max(1, _AT_ONCE // num)), num))
        rows_RN = drawn_RA.argpartition(num_lot, axis=1)[:, :num_lot]
        yield _squared(component_AK[rows_RN], num)
        left -= len(drawn_RA)


def _tail(squared: float, component_AK: Floats, num_lot: int, num_divisions: int) -> float:
    """The probability of a distance that no random division has, from the beta distribution of Gaussian components."""
    from scipy import stats

    num, num_components = component_AK.shape
    null = stats.beta(num_components / 2, (num - 1 - num_components) / 2)
    share = squared * num_lot * (num - num_lot) / num / (num - 1)
    return min(1 / (1 + num_divisions), float(null.sf(share)))
