"""Patches at some places are those of all places."""

import pytest
import torch

from llb_ray.detectors.patches import at_places, patches, placed_patches


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
