"""The usual look of each place of the grid: one Gaussian per place, shrunk towards what all places share.

The distance of a patch is Mahalanobis's at its place, as in PaDiM (Defard et al., arXiv 2011.08785).  With fewer images
than channels a place's covariance is singular; shrinkage makes directions that its images do not span as costly as they
are on average over the grid, so the distance is one to the subspace of the place.

One Gaussian says little about a rare normal look and a memory of patches says little about the place, so the two err on
different images.  `MemoryBank` multiplies them.

Where photographs are looked at in part, the statistics of a place are those of the photographs that show it.  What few
show is taken together with all places.

Shapes as in `base`; L places, d dimensions after the projection.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch.nn import functional

from llb_ray.detectors.base import State
from llb_ray.seeding import stream

PLACES = 200  # places, at most about: neighbouring cells of a finer grid are averaged
# Share of a place's covariance that comes from all places.  Between .03 and .6 the image AUROC of eight sets moves by
# less than half a point on average: what counts is the directions that a place's own images do not span.
SHRINKAGE = 0.1
_RIDGE = 0.01  # of the mean variance, so that channels which never vary do not divide by zero
_ENOUGH = 10  # images that show a place: of fewer, all places count as well
_MOST_DIMS = 256  # wider patches are projected: 200 places take 52 MB


def pool_places(patch_BDHW: torch.Tensor) -> torch.Tensor:
    """Patches averaged over squares of cells [B, D, h, w], so that there are about `PLACES` places or fewer."""
    side = _side(*patch_BDHW.shape[-2:])
    if side == 1:
        return patch_BDHW
    return functional.avg_pool2d(patch_BDHW, side, ceil_mode=True, count_include_pad=False)


def unpool_places(value_Bhw: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Values of the places of `pool_places` on the grid that was averaged [B, H, W], interpolated."""
    side = _side(height, width)
    # The last squares may reach beyond the grid: without them all would be squeezed towards the first.
    reach = [side * count for count in value_Bhw.shape[-2:]]
    whole_B1HW = functional.interpolate(value_Bhw[:, None], reach, mode="bilinear", align_corners=False)
    return whole_B1HW[:, 0, :height, :width]


def _side(height: int, width: int) -> int:
    """Of the squares of cells that are one place."""
    return max(1, math.ceil(math.sqrt(height * width / PLACES)))


def fit_places(batches: Iterable[tuple[torch.Tensor, torch.Tensor]], num_dims: int, seed: int) -> State:
    """The mean and inverse covariance of each place, from standardised patches [B, D, h, w] of all images and the
    weights of these [B], or of what they show of each place [B, h, w]; read once.

    Takes O(L d^2) memory, whatever the number of images.
    """
    basis_Dd = _basis(num_dims, seed)
    count, sum_Ld, square_Ldd = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for patch_BDhw, weight in batches:
        patch_LBd = _placed(patch_BDhw, basis_Dd)
        weight_LB = weight.flatten(1).T if weight.dim() > 1 else weight
        weighted_LBd = patch_LBd * weight_LB[..., None]
        # Sums of many squares: in double precision, a batch's own in single, which is fast.
        count = count + weight_LB.sum(dim=-1).double()
        sum_Ld = sum_Ld + weighted_LBd.sum(dim=1).double()
        square_Ldd = square_Ldd + (weighted_LBd.transpose(1, 2) @ patch_LBd).double()
    mean_Ld, second_Ldd = _moments(sum_Ld, square_Ldd, count)
    covariance_Ldd = second_Ldd - mean_Ld[:, :, None] * mean_Ld[:, None]
    precision_Ldd = _precision(covariance_Ldd, count)
    state = {"place_mean_Ld": mean_Ld.float(), "place_precision_Ldd": precision_Ldd.float().contiguous()}
    return state if basis_Dd is None else state | {"place_basis_Dd": basis_Dd}


def place_distances(patch_BDhw: torch.Tensor, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Mahalanobis distance of each standardised patch at its place [B, h, w], per root of d."""
    patch_LBd = _placed(patch_BDhw, state.get("place_basis_Dd")) - state["place_mean_Ld"][:, None]
    square_LB = ((patch_LBd @ state["place_precision_Ldd"]) * patch_LBd).sum(dim=2)
    distance_BL = (square_LB.T / patch_LBd.shape[2]).clamp(min=0).sqrt()
    return distance_BL.reshape(patch_BDhw.shape[0], *patch_BDhw.shape[2:])


def _placed(patch_BDhw: torch.Tensor, basis_Dd: torch.Tensor | None) -> torch.Tensor:
    """Patches by place [L, B, d]."""
    patch_LBD = patch_BDhw.flatten(2).permute(2, 0, 1)
    return patch_LBD if basis_Dd is None else patch_LBD @ basis_Dd.to(patch_LBD.device)


def _moments(sum_Ld: torch.Tensor, square_Ldd: torch.Tensor, count: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [L, d] and mean square [L, d, d] of the places, of which all images show the same `count` [], or each its
    own [L]: where this is small, mixed with the moments of all places."""
    if count.dim() == 0:
        return sum_Ld / count, square_Ldd / count
    own_L = (count / count.max().clamp(max=_ENOUGH)).clamp(max=1)
    count_L1 = count.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    mean_Ld = torch.lerp(sum_Ld.sum(dim=0) / count.sum(), sum_Ld / count_L1, own_L[:, None])
    all_dd = square_Ldd.sum(dim=0) / count.sum()
    return mean_Ld, torch.lerp(all_dd, square_Ldd / count_L1[..., None], own_L[:, None, None])


def _precision(covariance_Ldd: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Inverses [L, d, d] of the covariances, each shrunk towards their mean, weighted by counts that differ [L]."""
    if count.dim() == 0:
        shared_dd = covariance_Ldd.mean(dim=0)
    else:
        shared_dd = torch.tensordot(count / count.sum(), covariance_Ldd, dims=1)
    ridge = _RIDGE * float(shared_dd.diagonal().mean()) or 1.0  # 1: all images are equal
    shared_dd = shared_dd + ridge * torch.eye(len(shared_dd), dtype=shared_dd.dtype, device=shared_dd.device)
    shrunk_Ldd = torch.lerp(covariance_Ldd, shared_dd.expand_as(covariance_Ldd), SHRINKAGE)
    return torch.cholesky_inverse(torch.linalg.cholesky(shrunk_Ldd))


def _basis(num_dims: int, seed: int) -> torch.Tensor | None:
    """Orthonormal directions [D, d] drawn at random, which PaDiM found to serve better than principal ones; None where
    the patches are short enough as they are."""
    if num_dims <= _MOST_DIMS:
        return None
    normal = stream(seed, "places", "basis").standard_normal((num_dims, _MOST_DIMS), dtype="float32")
    basis_Dd: torch.Tensor = torch.linalg.qr(torch.from_numpy(normal)).Q
    return basis_Dd.contiguous()
