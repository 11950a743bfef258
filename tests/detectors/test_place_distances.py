"""Distances at a place: Mahalanobis's, with covariances that are shrunk towards those of all places."""

import numpy as np
import pytest
import torch

from llb_ray.detectors.base import State
from llb_ray.detectors.place_gaussians import SHRINKAGE, fit_places, place_distances, pool_places, unpool_places

_RIDGE = 0.01


def patches(count: int, dims: int = 5, side: int = 3, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.5, 2, size=(1, dims, side, side))
    return torch.from_numpy(rng.normal(size=(count, dims, side, side)) * spread + spread).float()


def places(*batches: torch.Tensor, dims: int = 5) -> State:
    return fit_places(((batch, torch.ones(len(batch))) for batch in batches), dims, 0)


def test_the_distance_is_mahalanobis_of_a_shrunk_covariance() -> None:
    train, test = patches(40), patches(2, seed=1)
    found = place_distances(test, places(train))
    place_NPD = train.flatten(2).permute(0, 2, 1).double().numpy()
    covariances = [np.cov(place_NPD[:, place].T, bias=True) for place in range(9)]
    shared = np.mean(covariances, axis=0)
    shared += _RIDGE * np.trace(shared) / 5 * np.eye(5)
    for place, covariance in enumerate(covariances):
        away = test[0].flatten(1)[:, place].double().numpy() - place_NPD[:, place].mean(axis=0)
        precision = np.linalg.inv((1 - SHRINKAGE) * covariance + SHRINKAGE * shared)
        assert float(found[0].flatten()[place]) == pytest.approx(np.sqrt(away @ precision @ away / 5), rel=1e-4)


@pytest.mark.parametrize("sizes", [[40], [1] * 40, [7, 30, 3]])
def test_it_does_not_matter_how_the_images_are_dealt_to_batches(sizes: list[int]) -> None:
    whole = places(patches(40))
    parts = places(*torch.split(patches(40), sizes))
    test = patches(3, seed=1)
    assert torch.allclose(place_distances(test, parts), place_distances(test, whole), rtol=1e-4)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_fewer_images_than_channels_still_have_a_distance(count: int) -> None:
    state = places(patches(count, dims=30), dims=30)
    seen, other = (place_distances(patches(2, dims=30, seed=seed), state) for seed in (0, 1))
    assert torch.isfinite(other).all()
    assert other.mean() > seen.mean()


def test_equal_images_are_no_division_by_zero() -> None:
    state = places(torch.ones(3, 5, 2, 2))
    assert torch.equal(place_distances(torch.ones(1, 5, 2, 2), state), torch.zeros(1, 2, 2))
    assert torch.isfinite(place_distances(torch.full((1, 5, 2, 2), 3.0), state)).all()


def test_long_patches_are_projected_and_keep_their_order() -> None:
    train = patches(20, dims=600)
    state = places(train, dims=600)
    assert state["place_precision_Ldd"].shape == (9, 256, 256)
    test = patches(2, dims=600, seed=1)
    test[1] += 5
    plain, strange = place_distances(test, state)
    assert (strange > 2 * plain).all()


@pytest.mark.parametrize(
    ("grid", "places"), [((14, 14), (14, 14)), ((28, 28), (14, 14)), ((29, 27), (15, 14)), ((1, 500), (1, 250))]
)
def test_cells_are_pooled_to_about_two_hundred_places(grid: tuple[int, int], places: tuple[int, int]) -> None:
    pooled = pool_places(torch.ones(1, 2, *grid))
    assert pooled.shape[2:] == places
    assert torch.equal(pooled, torch.ones_like(pooled))


def test_many_images_do_not_wear_the_statistics_out() -> None:
    """The same images 40 times, 20,000 in all: the sums stay those of one time."""
    once, often = (places(*(patches(500) for _ in range(times))) for times in (1, 40))
    test = patches(4, seed=99)
    assert torch.allclose(place_distances(test, once), place_distances(test, often), rtol=1e-4)


@pytest.mark.parametrize("side", [7, 14, 15, 28, 32, 40, 47])
def test_a_place_is_found_again_where_it_was(side: int) -> None:
    """A grid that the squares do not fill is not squeezed."""
    cell_HW = torch.arange(side, dtype=torch.float32).expand(1, 1, side, side)
    found_BHW = unpool_places(pool_places(cell_HW)[:, 0], side, side)
    assert found_BHW.shape == (1, side, side)
    assert (found_BHW - cell_HW[0]).abs().max() <= 1.5


def test_a_weight_counts_as_so_many_images() -> None:
    doubled, single = patches(6, seed=3), patches(5, seed=4)
    weights = torch.cat([torch.full((6,), 2.0), torch.ones(5)])
    weighted = fit_places([(torch.cat([doubled, single]), weights)], 5, 0)
    repeated = places(torch.cat([doubled, doubled, single]))
    test = patches(3, seed=5)
    assert torch.allclose(place_distances(test, weighted), place_distances(test, repeated), rtol=1e-4)
