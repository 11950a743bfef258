"""Patch descriptors of frozen layers; shapes as in `base`."""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional

from llb_ray.detectors.base import Layers
from llb_ray.seeding import stream

DETAIL_DIMS = 128  # of a layer, at most: random projections to more tell distances hardly better


def patches(layers: Layers, side: int) -> torch.Tensor:
    """Patch descriptors [B, D, H, W] on the first layer's grid: each layer averaged over the `side` x `side` cells
    about each cell, brought to that grid, and all of them concatenated."""
    return on_one_grid(_pooled(layers, side))


def random_kernels(layers: Layers, side: int, standardize: bool) -> list[torch.Tensor]:
    """Filters [d, C, side, side] for each layer, the same for all fits: a random projection of the cells about each
    cell to as many dimensions as the layer has channels, or `DETAIL_DIMS` of more.

    With `standardize`, of channels divided by their spread over these images.
    """
    return [_random_kernel(layer, side, number, standardize) for number, layer in enumerate(layers)]


def detailed_patches(layers: Layers, kernels: Sequence[torch.Tensor]) -> torch.Tensor:
    """Patch descriptors [B, D, H, W] as `patches` makes them, but of filtered layers instead of averaged ones: they
    tell which cell about a cell has what, as those of PatchCore's own code do."""
    filtered = [
        functional.conv2d(layer, kernel, padding=kernel.shape[-1] // 2)
        for layer, kernel in zip(layers, kernels, strict=True)
    ]
    return on_one_grid(filtered)


def on_one_grid(layers: Sequence[torch.Tensor]) -> torch.Tensor:
    """The layers on the grid of the first, concatenated."""
    grid = layers[0].shape[-2:]
    resized = [functional.interpolate(layer, grid, mode="bilinear", align_corners=False) for layer in layers]
    return torch.cat(resized, dim=1)


def placed_patches(layers: Layers, side: int, wanted: int) -> torch.Tensor:
    """The patches that `at_places` takes of `patches`, at the cost of these places alone."""
    first, *others = _pooled(layers, side)
    height, width = first.shape[-2:]
    rows, columns = _places(height, width, wanted)
    y_h = (2 * torch.arange(height, device=first.device)[rows] + 1) / height - 1
    x_w = (2 * torch.arange(width, device=first.device)[columns] + 1) / width - 1
    grid_hw2 = torch.stack(torch.meshgrid(x_w, y_h, indexing="xy"), dim=-1)
    grid_Bhw2 = grid_hw2.expand(first.shape[0], -1, -1, -1)  # `len` would fix the size of batches where it is traced
    # With border padding this is `interpolate` at some of its points.
    sampled = [
        functional.grid_sample(layer, grid_Bhw2, mode="bilinear", padding_mode="border", align_corners=False)
        for layer in others
    ]
    return torch.cat([first[..., rows, columns], *sampled], dim=1)


def at_places(patch_BDHW: torch.Tensor, wanted: int) -> torch.Tensor:
    """Every so many cells of the grid in both directions [B, D, h, w], about as many as wanted or fewer."""
    height, width = patch_BDHW.shape[-2:]
    rows, columns = _places(height, width, wanted)
    return patch_BDHW[..., rows, columns]


def usable_spread(point_PD: torch.Tensor) -> torch.Tensor:
    """Divisor of each channel [D]: its spread, or one for a channel that is all but constant."""
    spread_D = point_PD.std(dim=0, correction=0)
    return torch.where(spread_D > 1e-3 * spread_D.mean(), spread_D, torch.ones_like(spread_D))


def standardize(patch_BDHW: torch.Tensor, mean_D: torch.Tensor, scale_D: torch.Tensor) -> torch.Tensor:
    """Patches less the mean, in units of each channel's scale."""
    return (patch_BDHW - mean_D[:, None, None]) / scale_D[:, None, None]


def relative_distance(
    patch_QD: torch.Tensor,
    memory_MD: torch.Tensor,
    reach_M: torch.Tensor | None = None,
    weight_M: torch.Tensor | None = None,
    search: torch.dtype = torch.float32,
) -> torch.Tensor:
    """`least_distance` where entries have a reach, else `nearest_distance`, per root of D, so that layers of any width
    compare."""
    if reach_M is None:
        found_Q = nearest_distance(patch_QD, memory_MD, weight_M, search)
    else:
        found_Q = least_distance(patch_QD, memory_MD, reach_M, search)
    return found_Q / math.sqrt(patch_QD.shape[1])


def nearest_distance(
    patch_QD: torch.Tensor,
    memory_MD: torch.Tensor,
    weight_M: torch.Tensor | None = None,
    search: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Euclidean distance [Q] from each patch to its nearest memory entry, times the entry's weight where there are
    weights; in Q x M memory.

    Exact; in a shorter format of `search` another entry may be found that is nearly as near.
    """
    nearest_Q = _argmin(_comparison(patch_QD, memory_MD, search))
    # The product finds the neighbour fast; the distance is taken again because the product cancels near zero.
    distance_Q = (patch_QD - memory_MD[nearest_Q]).square().sum(dim=1).sqrt()
    return distance_Q if weight_M is None else distance_Q * weight_M[nearest_Q]


def least_distance(
    patch_QD: torch.Tensor, memory_MD: torch.Tensor, reach_M: torch.Tensor, search: torch.dtype = torch.float32
) -> torch.Tensor:
    """The least product [Q] of an entry's distance to each patch and its reach, 1 or more, found as `nearest_distance`
    finds it.

    An entry of a long reach counts only where no other is nearly as near.
    """
    distance_QM = _comparison(patch_QD, memory_MD, search) + patch_QD.square().sum(dim=1, keepdim=True)
    nearest_Q = _argmin(distance_QM.clamp(min=0) * reach_M.square())
    return (patch_QD - memory_MD[nearest_Q]).square().sum(dim=1).sqrt() * reach_M[nearest_Q]


def _comparison(patch_QD: torch.Tensor, memory_MD: torch.Tensor, search: torch.dtype) -> torch.Tensor:
    """Squared distances [Q, M] less the square of each patch, of a product in the format `search`."""
    square_M = memory_MD.square().sum(dim=1)
    return torch.addmm(square_M.to(search), patch_QD.to(search), memory_MD.to(search).T, alpha=-2).float()


def _random_kernel(layer_BCHW: torch.Tensor, side: int, number: int, standardize: bool) -> torch.Tensor:
    channels = layer_BCHW.shape[1]
    shape = min(channels, DETAIL_DIMS), channels, side, side
    values = stream(0, "patch kernels", number).normal(scale=1 / math.sqrt(channels * side * side), size=shape)
    kernel = torch.from_numpy(values).float().to(layer_BCHW.device)
    if not standardize:
        return kernel
    return kernel / usable_spread(layer_BCHW.movedim(1, -1).flatten(0, -2))[None, :, None, None]


def _pooled(layers: Layers, side: int) -> list[torch.Tensor]:
    return [_pool(layer, side) for layer in layers]


def _pool(layer_BCHW: torch.Tensor, side: int) -> torch.Tensor:
    """On a CPU the same bits in a fifth of the time, channels last (0.21 ms for 40 x 28 x 28)."""
    if _is_eager_on_cpu(layer_BCHW):
        layer_BCHW = layer_BCHW.contiguous(memory_format=torch.channels_last)
    pooled = functional.avg_pool2d(layer_BCHW, side, stride=1, padding=side // 2, count_include_pad=False)
    return pooled.contiguous()


def _argmin(distance_QM: torch.Tensor) -> torch.Tensor:
    """Index [Q] of each row's least, the first one; on a CPU by numpy, in a tenth of torch's 1 ms for 784 x 2,000."""
    if _is_eager_on_cpu(distance_QM):
        return torch.from_numpy(distance_QM.numpy().argmin(axis=1))
    return distance_QM.argmin(dim=1)


def _is_eager_on_cpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()  # which an export is as well


def _places(height: int, width: int, wanted: int) -> tuple[slice, slice]:
    step = max(1, math.ceil(math.sqrt(height * width / wanted)))
    return slice(min(step // 2, height - 1), None, step), slice(min(step // 2, width - 1), None, step)
