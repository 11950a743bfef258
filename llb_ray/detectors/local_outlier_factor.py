"""Local outlier factor of an image's patches at one place of the grid, against the same place of other images.

An image is compared with others at the *same* place, so a patch need not be usual elsewhere to be odd here, and the
distances are divided by what is common among its neighbours, so that rough areas are not called odd.  SoftPatch (arXiv
2403.14233) compares so too; what differs here is how many neighbours there are (`num_neighbours`).

Shapes as in `base`; L places (the cells of the grid that are looked at), R reference images, k neighbours.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from llb_ray.detectors.patches import usable_spread
from llb_ray.seeding import stream

SCREENING = 0.2  # of the reference images at a place are neighbours: see `num_neighbours`
MAX_REFERENCES = 256  # images that others are compared with: time and memory then grow with N, not with its square
LEAST_NEIGHBOURS = 3
TWINS = 2  # references that make an odd image a repeated one
_CHUNK = 64  # images whose distances are held at once while fitting
BLOCK = 16  # images that are judged at once


def references(num_rows: int, seed: int) -> npt.NDArray[np.int64]:
    """Rows that others are compared with, ascending: all, or so many drawn at random."""
    if num_rows <= MAX_REFERENCES:
        return np.arange(num_rows)
    return np.sort(stream(seed, "references").choice(num_rows, MAX_REFERENCES, replace=False))


def num_neighbours(num_references: int, share: float, copies: int = 1) -> int:
    """Number of the references that are an image's neighbours: this share of them, at least three, where there are.

    An image is no neighbour of its own, nor are its augmented copies: so many are there of each.

    To screen contaminated images (`SCREENING`), more than share a defect, or these would be each other's neighbours and
    look normal.  The 6 of SoftPatch (arXiv 2403.14233) are too few: on magnetic tile with 40 % anomalies, 600 images,
    the AUROC of anomalous against normal training images is 0.60 with 12, 0.74 with 24, 0.79 with 48, 0.81 with 96 and
    0.83 with 180; with 10 % it is 0.90, 0.89, 0.87, 0.86 and 0.86.
    """
    return min(num_references - copies, max(LEAST_NEIGHBOURS, round(share * num_references)))


def distances(patch_LBD: torch.Tensor, reference_LRD: torch.Tensor) -> torch.Tensor:
    """Euclidean distances [L, B, R] between the patches of images at each place."""
    square_LB1 = patch_LBD.square().sum(dim=2, keepdim=True)
    square_L1R = reference_LRD.square().sum(dim=2)[:, None]
    product_LBR = torch.baddbmm(square_L1R, patch_LBD, reference_LRD.transpose(1, 2), alpha=-2)
    return product_LBR.add_(square_LB1).clamp_(min=0).sqrt_()


def outlier_factors(
    distance_LBR: torch.Tensor, reach_LR: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logarithms of the local outlier factors [L, B], 0 where an image is as dense as its neighbours, and the mean
    reach [L, B] of these neighbours.

    The mean distance to the `count` nearest references, over the mean of *their* reach: the simplified factor
    (Schubert et al., 2014) of LOF (Breunig et al., 2000).  Where both are 0, images are doubles: the factor is 0.
    """
    nearest_LBk, index_LBk = distance_LBR.topk(count, dim=2, largest=False)
    theirs_LBk = torch.gather(reach_LR[:, None].expand(-1, distance_LBR.shape[1], -1), 2, index_LBk)
    least = torch.finfo(torch.float32).tiny
    own_LB, usual_LB = (mean.clamp(min=least) for mean in (nearest_LBk.mean(dim=2), theirs_LBk.mean(dim=2)))
    return own_LB.log() - usual_LB.log(), usual_LB


class Judged(NamedTuple):
    """Outlier factors of B images against the references."""

    factor_LB: torch.Tensor  # logarithms of the local outlier factors, place by place
    loneliness_B: torch.Tensor  # see `loneliness`


def score_outliers(
    patch_LBD: torch.Tensor, reference_LRD: torch.Tensor, reach_LR: torch.Tensor, share: float
) -> Judged:
    """Outlier factors of images that are none of the references; `share` of these are neighbours."""
    distance_LBR = distances(patch_LBD, reference_LRD)
    factor_LB, usual_LB = outlier_factors(distance_LBR, reach_LR, num_neighbours(len(reach_LR[0]), share))
    return Judged(factor_LB, loneliness(distance_LBR / usual_LB[..., None], factor_LB))


def score_outliers_in_blocks(
    patch_LBD: torch.Tensor, reference_LRD: torch.Tensor, reach_LR: torch.Tensor, share: float
) -> Judged:
    """As `score_outliers`, with the same numbers for an image in whatever batch it comes; alone within 1e-5 of them.

    Blocks are filled up, so that every product has the same shape, and rounding; one by one would take 8 times as long,
    since the references are read again for each.  A single image would wait four times as long for a full block.
    """
    if patch_LBD.shape[1] == 1:
        return score_outliers(patch_LBD, reference_LRD, reach_LR, share)
    blocks = []
    for part_LBD in torch.split(patch_LBD, BLOCK, dim=1):
        full_LBD = functional.pad(part_LBD, (0, 0, 0, BLOCK - part_LBD.shape[1]))
        block = score_outliers(full_LBD, reference_LRD, reach_LR, share)
        blocks.append(Judged(block.factor_LB[:, : part_LBD.shape[1]], block.loneliness_B[: part_LBD.shape[1]]))
    factor_LB, loneliness_B = zip(*blocks, strict=True)
    return Judged(torch.cat(factor_LB, dim=1), torch.cat(loneliness_B))


def loneliness(ratio_LBR: torch.Tensor, factor_LB: torch.Tensor) -> torch.Tensor:
    """Logarithm of how far the nearest `TWINS` references are from each image [B], over its more outlying half of the
    places; distances are given as ratios to what is usual among the neighbours there.

    An odd pattern that is normal but rare comes as a whole: the same few images have it at all of its places.  Defects
    are alone: others that have one at the same place have none, or another, at the next.
    """
    half = max(1, len(factor_LB) // 2)
    index_LB1 = factor_LB.topk(half, dim=0).indices[..., None]
    ratio_BR = ratio_LBR.gather(0, index_LB1.expand(-1, -1, ratio_LBR.shape[2])).mean(dim=0)
    nearest_Bk = ratio_BR.topk(min(TWINS, ratio_BR.shape[1]), dim=1, largest=False).values
    return nearest_Bk.mean(dim=1).clamp(min=torch.finfo(torch.float32).tiny).log()


def by_place(patch_BDHW: torch.Tensor, mean_D: torch.Tensor, scale_D: torch.Tensor) -> torch.Tensor:
    """Standardised patches [L, B, D] of all cells."""
    return (patch_BDHW.flatten(2).permute(2, 0, 1) - mean_D) / scale_D


def reaches(reference_LRD: torch.Tensor, image_R: torch.Tensor, count: int) -> torch.Tensor:
    """Each reference's mean distance [L, R] to the `count` nearest of other images; `image_R` numbers these."""
    distance_LRR = apart(distances(reference_LRD, reference_LRD), image_R, image_R)
    return distance_LRR.topk(count, dim=2, largest=False).values.mean(dim=2)


def apart(distance_LBR: torch.Tensor, image_B: torch.Tensor, image_R: torch.Tensor) -> torch.Tensor:
    """The distances, infinite from an image to itself and its copies, changed in place; the numbers tell images."""
    return distance_LBR.masked_fill_(image_B[:, None] == image_R, torch.inf)


def mutual_factors(patch_NLD: torch.Tensor, num_images: int, count: int) -> torch.Tensor:
    """Logarithms of the local outlier factors [N, L] of all rows among themselves, with so many neighbours; rows are
    images, then copies of all of them.  Takes O(N^2 L D) time.
    """
    image_N = torch.arange(len(patch_NLD), device=patch_NLD.device) % num_images
    point_PD = patch_NLD.flatten(0, 1)
    scaled_LND = ((patch_NLD - point_PD.mean(dim=0)) / usable_spread(point_PD)).transpose(0, 1).contiguous()
    count = min(count, len(patch_NLD) - len(patch_NLD) // num_images)
    reach_LN = reaches(scaled_LND, image_N, count)
    chunks = zip(torch.split(scaled_LND, _CHUNK, dim=1), torch.split(image_N, _CHUNK), strict=True)
    factor_LN = [
        outlier_factors(apart(distances(part_LBD, scaled_LND), image_B, image_N), reach_LN, count)[0]
        for part_LBD, image_B in chunks
    ]
    return torch.cat(factor_LN, dim=1).T
