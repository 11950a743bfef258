"""The image in context: a memory of the deepest layer, which knows what an object is where shallow ones know texture.

Its cells see most of the image, so their distances tell that something is odd and hardly where.  They take part in the
score of an image and not in its map.  The grid is small (7 x 7 cells at 224 px), so it costs little.

Shapes as in `base`; P patches, M memory entries, Q cells.
"""

from collections.abc import Mapping

import torch
from torch.nn import functional

from llb_ray.detectors.base import State
from llb_ray.detectors.patches import relative_distance, standardize, usable_spread


def remember_context(patch_PD: torch.Tensor, reach_P: torch.Tensor | None) -> State:
    """A memory of these deep patches, standardised, with each channel's mean and spread, and the reach of each patch
    unless it is 1 (see `patches.least_distance`)."""
    mean_D, scale_D = patch_PD.mean(dim=0), usable_spread(patch_PD)
    state = {
        "context_mean_D": mean_D,
        "context_scale_D": scale_D,
        "context_memory_MD": (patch_PD - mean_D) / scale_D,
    }
    return state if reach_P is None else state | {"context_reach_M": reach_P}


def context_distances(patch_BDhw: torch.Tensor, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Distance of each deep patch to the nearest one remembered, per root of D [B, h, w]."""
    scaled_BDhw = standardize(patch_BDhw, state["context_mean_D"], state["context_scale_D"])
    patch_QD, memory_MD = scaled_BDhw.permute(0, 2, 3, 1).flatten(0, 2), state["context_memory_MD"]
    distance_Q = relative_distance(patch_QD, memory_MD, state.get("context_reach_M"))
    return distance_Q.view(-1, *patch_BDhw.shape[2:])


def interpolate_to(value_Bhw: torch.Tensor, grid: torch.Size) -> torch.Tensor:
    """Values of the deep grid on another one [B, H, W], interpolated."""
    return functional.interpolate(value_Bhw[:, None], grid, mode="bilinear", align_corners=False)[:, 0]
