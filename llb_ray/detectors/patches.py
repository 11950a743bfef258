"""Patch descriptors of frozen layers; shapes as in `base`."""

import torch
from torch.nn import functional

from llb_ray.detectors.base import Layers


def patches(layers: Layers, side: int) -> torch.Tensor:
    """Patch descriptors [B, D, H, W] on the first layer's grid: each layer averaged over the `side` x `side` cells
    about each cell, brought to that grid, and all of them concatenated."""
    pooled = [
        functional.avg_pool2d(layer, side, stride=1, padding=side // 2, count_include_pad=False) for layer in layers
    ]
    grid = pooled[0].shape[-2:]
    resized = [functional.interpolate(layer, grid, mode="bilinear", align_corners=False) for layer in pooled]
    return torch.cat(resized, dim=1)


def usable_spread(point_PD: torch.Tensor) -> torch.Tensor:
    """What each channel is divided by [D]: its spread, or one for a channel that is all but constant."""
    spread_D = point_PD.std(dim=0, correction=0)
    return torch.where(spread_D > 1e-3 * spread_D.mean(), spread_D, torch.ones_like(spread_D))
