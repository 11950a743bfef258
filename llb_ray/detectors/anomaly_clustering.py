"""Families of odd images that are odd in the same way.

No statistic that we tried tells a rare normal kind from a defect that recurs at the same place; a person does, at a
glance, and for all of a kind at once.  So images are grouped by *what* is odd about them and where: the direction in
which their patches deviate from what usual images show at that place.

Shapes as in `base`; R usual images, L places, S sketched dimensions.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from llb_ray.detectors.base import Layers
from llb_ray.detectors.local_outlier_factor import by_place
from llb_ray.detectors.patches import placed_patches, usable_spread
from llb_ray.seeding import seed_for

# Families merge up to this mean of 1 - cosine: of 9 sets of odd images (metal, wood, gears, juice bottles, tiles) none
# had a mixed family then; at 0.5 two had, and at 0.3 there were a tenth more families.
REACH = 0.4
_LAYERS = 2  # a deeper one for the context says little of places
_SIDE, _PLACES = 3, 100  # as density members look at images
_LEAST_RADIUS = 0.1  # of the mean over all places: a black border is not odd for a little noise
_SKETCH = 64  # random directions that a patch is projected on: enough for angles (Johnson and Lindenstrauss, 1984)


class Usual(NamedTuple):
    """Usual images: their mean and spread at each place."""

    mean_D: torch.Tensor
    scale_D: torch.Tensor
    centre_LD: torch.Tensor
    radius_L: torch.Tensor  # within which half of them are


def comparison_patches(layers: Layers) -> torch.Tensor:
    """The patches [B, D, h, w] that images are compared by, of any detector's layers."""
    return placed_patches(layers[:_LAYERS], _SIDE, _PLACES)


def fit_usual(patch_RDHW: torch.Tensor) -> Usual:
    """Statistics of these images, taken for normal, at each place."""
    point_PD = patch_RDHW.permute(0, 2, 3, 1).flatten(0, 2)
    mean_D, scale_D = point_PD.mean(dim=0), usable_spread(point_PD)
    patch_LRD = by_place(patch_RDHW, mean_D, scale_D)
    centre_LD = patch_LRD.mean(dim=1)
    radius_L = (patch_LRD - centre_LD[:, None]).norm(dim=2).median(dim=1).values
    least = float(_LEAST_RADIUS * radius_L.mean()) or 1.0  # of images that are all equal
    return Usual(mean_D, scale_D, centre_LD, radius_L.clamp(min=least))


def oddness(patch_BDHW: torch.Tensor, beside: Usual) -> npt.NDArray[np.float32]:
    """Direction of each image's oddness [B, L x S], of length one; all zeros for an image without odd patches.

    At each place the direction of its deviation counts by how far beyond the usual radius it goes.
    """
    away_LBD = by_place(patch_BDHW, beside.mean_D, beside.scale_D) - beside.centre_LD[:, None]
    length_LB1 = away_LBD.norm(dim=2, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    beyond_LB1 = (length_LB1 / beside.radius_L[:, None, None] - 1).clamp(min=0)
    sketch_LBS = (away_LBD / length_LB1) @ _directions(away_LBD.shape[2]).to(away_LBD) * beyond_LB1
    odd_BF = torch.nn.functional.normalize(sketch_LBS.transpose(0, 1).flatten(1), dim=1)
    result: npt.NDArray[np.float32] = odd_BF.cpu().numpy()
    return result


def families(odd_NF: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The family of each image [N], 0 the largest, by average linkage of the cosines between what is odd about them.

    Takes N x N memory.
    """
    if len(odd_NF) < 2:
        return np.zeros(len(odd_NF), np.int64)
    distance_NN = np.clip(1 - odd_NF @ odd_NF.T, 0, None).astype(np.float64)
    tree = linkage(squareform(distance_NN, checks=False), method="average")
    label_N = fcluster(tree, REACH, criterion="distance")
    _, first_C, label_N, size_C = np.unique(label_N, return_index=True, return_inverse=True, return_counts=True)
    place_C = np.argsort(np.lexsort((first_C, -size_C)))  # of each cluster, the largest first
    numbered: npt.NDArray[np.int64] = place_C[label_N]
    return numbered


def _directions(dim: int) -> torch.Tensor:
    """The random directions [D, S], always the same."""
    generator = torch.Generator().manual_seed(seed_for(0, "lookalikes"))
    drawn_DS: torch.Tensor = torch.randn(dim, _SKETCH, generator=generator) / _SKETCH**0.5
    return drawn_DS
