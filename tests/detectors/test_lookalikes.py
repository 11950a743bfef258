"""Families on hand-made patches, and what makes no difference to them."""

import numpy as np
import pytest
import torch

from llb_ray.detectors.anomaly_clustering import Usual, comparison_patches, families, fit_usual, oddness

DIM, SIDE = 8, 4


def _images(count: int, seed: int) -> torch.Tensor:
    """Images [B, D, h, w] of nothing but noise."""
    return torch.randn(count, DIM, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def _spoilt(image_BDHW: torch.Tensor, channel: int, row: int) -> torch.Tensor:
    """The images with one channel far off in one row of cells."""
    spoilt_BDHW = image_BDHW.clone()
    spoilt_BDHW[:, channel, row] += 30
    return spoilt_BDHW


@pytest.fixture
def beside() -> Usual:
    return fit_usual(_images(40, seed=0))


def test_what_is_odd_has_length_one_and_nothing_where_nothing_is(beside: Usual) -> None:
    odd_BF = oddness(_spoilt(_images(3, seed=1), 2, 0), beside)
    np.testing.assert_allclose(np.linalg.norm(odd_BF, axis=1), 1, rtol=1e-5)
    centre_BDHW = (beside.centre_LD * beside.scale_D + beside.mean_D).T.reshape(1, DIM, SIDE, SIDE)
    assert not oddness(centre_BDHW, beside).any()


def test_odd_in_the_same_way_at_the_same_place_is_one_family(beside: Usual) -> None:
    image_BDHW = _images(9, seed=2)
    kinds = [(2, 0)] * 4 + [(2, 3)] * 3 + [(5, 0)] * 2  # the channel, and where
    spoilt = torch.cat([_spoilt(one[None], *kind) for one, kind in zip(image_BDHW, kinds, strict=True)])
    assert families(oddness(spoilt, beside)).tolist() == [0] * 4 + [1] * 3 + [2] * 2


def test_order_changes_no_family(beside: Usual) -> None:
    spoilt = torch.cat([_spoilt(_images(3, seed=3), 1, 1), _spoilt(_images(2, seed=4), 6, 2), _images(1, seed=5)])
    order = torch.tensor([5, 3, 0, 4, 1, 2])
    assert families(oddness(spoilt[order], beside)).tolist() == families(oddness(spoilt, beside))[order].tolist()


def test_those_that_are_odd_in_no_way_are_alone() -> None:
    odd_NF = np.zeros((4, 3), np.float32)
    odd_NF[:2, 0] = 1
    assert families(odd_NF).tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("count", [0, 1])
def test_one_image_or_none(count: int) -> None:
    assert families(np.ones((count, 3), np.float32)).tolist() == [0] * count


def test_equal_images_are_usual_to_each_other(beside: Usual) -> None:
    same = _images(1, seed=6).repeat(5, 1, 1, 1)
    assert np.isfinite(oddness(_images(2, seed=7), fit_usual(same))).all()


def test_layers_of_any_detector_have_places() -> None:
    assert comparison_patches((torch.rand(2, 3, 64, 64),)).shape[:2] == (2, 3)
    assert comparison_patches((torch.rand(2, 8, 28, 28), torch.rand(2, 16, 14, 14))).shape[:2] == (2, 24)
