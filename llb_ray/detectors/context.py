"""The image in context: a memory of the deepest layer, which knows what an object is where shallow ones know texture.

Its cells see most of the image, so their distances tell that something is odd and hardly where.  They take part in the
score of an image and not in its map.  The grid is small (7 x 7 cells at 224 px), so it costs little.

Shapes as in `base`; M memory entries, Q cells.
"""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from llb_ray.detectors.base import State
from llb_ray.detectors.patch_selection import quotas, sample_patches
from llb_ray.detectors.patches import nearest_distance, usable_spread


class ContextSample:
    """The same number of deep patches of every image (give or take one), `size` at most."""

    def __init__(self, image_ids: list[str], num_rows: int, size: int, seed: int) -> None:
        self._image_ids, self._seed = image_ids, seed
        self._quota_N = quotas(num_rows, size, seed)
        self._chosen: list[torch.Tensor] = []

    def add(self, rows: npt.NDArray[np.int64], patch_BDhw: torch.Tensor) -> None:
        """Takes the share of these rows."""
        for row, patch_Dhw in zip(rows, patch_BDhw, strict=True):
            copy, image = divmod(int(row), len(self._image_ids))
            quota = int(self._quota_N[row])
            self._chosen.append(sample_patches(patch_Dhw, quota, self._seed, self._image_ids[image], copy))

    def state(self) -> State:
        """The memory, standardised, with each channel's mean and spread; empty where nothing was added."""
        if not self._chosen:
            return {}
        patch_MD = torch.cat(self._chosen)
        mean_D, scale_D = patch_MD.mean(dim=0), usable_spread(patch_MD)
        return {
            "context_mean_D": mean_D,
            "context_scale_D": scale_D,
            "context_memory_MD": (patch_MD - mean_D) / scale_D,
        }


def context_distances(patch_BDhw: torch.Tensor, state: Mapping[str, torch.Tensor], grid: torch.Size) -> torch.Tensor:
    """Distance of each deep patch to the nearest one remembered, per root of D, on another grid [B, H, W]."""
    scaled_BDhw = (patch_BDhw - state["context_mean_D"][:, None, None]) / state["context_scale_D"][:, None, None]
    patch_QD = scaled_BDhw.permute(0, 2, 3, 1).flatten(0, 2)
    distance_Q = nearest_distance(patch_QD, state["context_memory_MD"]) / math.sqrt(patch_QD.shape[1])
    distance_B1hw = distance_Q.view(-1, 1, *patch_BDhw.shape[2:])
    return functional.interpolate(distance_B1hw, grid, mode="bilinear", align_corners=False)[:, 0]
