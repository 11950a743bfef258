"""Patches at some places are those of all places."""

import pytest
import torch
from torch.nn import functional

from llb_ray.detectors import patches as patches_module
from llb_ray.detectors.patches import at_places, nearest_distance, patches, placed_patches


@pytest.mark.parametrize("wanted", [1, 7, 30, 1000])
@pytest.mark.parametrize("sizes", [[(12, 12), (6, 6)], [(9, 14), (5, 7), (3, 3)], [(8, 8), (8, 8)]])
def test_places_are_sampled_as_the_whole_grid_is(sizes: list[tuple[int, int]], wanted: int) -> None:
    generator = torch.Generator().manual_seed(0)
    layers = tuple(torch.randn(2, 3 + number, *size, generator=generator) for number, size in enumerate(sizes))
    some = placed_patches(layers, 3, wanted)
    assert torch.allclose(some, at_places(patches(layers, 3), wanted), atol=1e-5)
    assert some.shape[2] * some.shape[3] <= max(wanted, 1) or wanted == 1


def test_a_thousand_places_of_a_small_grid_are_the_grid() -> None:
    layers = (torch.arange(24.0).reshape(1, 1, 4, 6),)
    assert placed_patches(layers, 1, 1000).shape == (1, 1, 4, 6)


@pytest.mark.parametrize("size", [(3, 40, 28, 28), (1, 112, 14, 14), (2, 1, 5, 7), (1, 3, 1, 1)])
@pytest.mark.parametrize("side", [1, 3, 5])
def test_the_pool_of_a_cpu_has_the_same_bits_as_torchs_own(size: tuple[int, ...], side: int) -> None:
    layer = torch.randn(size, generator=torch.Generator().manual_seed(0))
    plain = functional.avg_pool2d(layer, side, stride=1, padding=side // 2, count_include_pad=False)
    pooled = patches_module._pool(layer, side)
    assert torch.equal(pooled, plain)
    assert pooled.is_contiguous()


def test_the_nearest_entry_is_the_first_of_equally_near_ones() -> None:
    memory = torch.tensor([[3.0, 0.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    weight = torch.tensor([1.0, 2.0, 5.0, 7.0])
    assert nearest_distance(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), memory, weight).tolist() == [1.0, 2.0]
