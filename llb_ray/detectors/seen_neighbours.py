"""Local outlier factor as in `local_outlier_factor`, where photographs are looked at in part: an image is compared, at
each place that it shows, with the references that show it.

A place that hardly any reference shows says nothing of an image.  Shapes as in `local_outlier_factor`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.nn import functional

from llb_ray.detectors.local_outlier_factor import (
    BLOCK,
    LEAST_NEIGHBOURS,
    TWINS,
    Judged,
    distances,
    num_neighbours,
)

_TINY = torch.finfo(torch.float32).tiny


class SeenReferences(NamedTuple):
    """Patches that images are compared with, and the places where these show something."""

    patch_LRD: torch.Tensor
    reach_LR: torch.Tensor
    shown_LR: torch.Tensor  # bool


def seen_reaches(patch_LRD: torch.Tensor, shown_LR: torch.Tensor, share: float) -> torch.Tensor:
    """Each reference's mean distance [L, R] to its neighbours among the others that show the place."""
    distance_LRR = distances(patch_LRD, patch_LRD)
    distance_LRR.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    nearest_LRk, _ = _nearest(distance_LRR, shown_LR, share)
    return torch.nan_to_num(_mean_of_used(nearest_LRk, _count_neighbours(shown_LR, share)), posinf=0.0)


def judge_seen_in_blocks(
    patch_LBD: torch.Tensor, seen_LB: torch.Tensor, references: SeenReferences, share: float
) -> Judged:
    """As `judge_seen`; blocks of images are filled up, so that rounding is the same in any batch."""
    blocks = [judge_seen(*block, references, share) for block in _blocks(patch_LBD, seen_LB)]
    factor_LB, loneliness_B = (torch.cat(parts, dim=-1) for parts in zip(*blocks, strict=True))
    num_images = patch_LBD.shape[1]
    return Judged(factor_LB[:, :num_images], loneliness_B[:num_images])


def _blocks(patch_LBD: torch.Tensor, seen_LB: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The images in blocks of one size, the last filled up; a single image is not."""
    size = BLOCK if patch_LBD.shape[1] > 1 else 1
    parts = zip(torch.split(patch_LBD, size, dim=1), torch.split(seen_LB, size, dim=1), strict=True)
    for part_LBD, part_LB in parts:
        lacking = size - part_LB.shape[1]
        yield functional.pad(part_LBD, (0, 0, 0, lacking)), functional.pad(part_LB, (0, lacking))


def judge_seen(patch_LBD: torch.Tensor, seen_LB: torch.Tensor, references: SeenReferences, share: float) -> Judged:
    """Outlier factors of images that are none of the references, 0 at places that are not looked at, or that hardly
    any reference shows."""
    shown_LR = references.shown_LR
    distance_LBR = distances(patch_LBD, references.patch_LRD)
    nearest_LBk, index_LBk = _nearest(distance_LBR, shown_LR, share)
    theirs_LBk = torch.gather(references.reach_LR[:, None].expand_as(distance_LBR), 2, index_LBk)
    count_L = _count_neighbours(shown_LR, share)
    own_LB, usual_LB = (_mean_of_used(value, count_L).clamp(min=_TINY) for value in (nearest_LBk, theirs_LBk))
    known_LB = seen_LB & (shown_LR.sum(dim=1) > LEAST_NEIGHBOURS)[:, None]
    factor_LB = torch.where(known_LB, own_LB.log() - usual_LB.log(), 0.0)
    ratio_LBR = torch.where(shown_LR[:, None], distance_LBR / usual_LB[..., None], torch.inf)
    return Judged(factor_LB, _loneliness(ratio_LBR, factor_LB, known_LB))


def _nearest(distance_LBR: torch.Tensor, shown_LR: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances and numbers of as many references as are neighbours at most, those that show the place first."""
    most = num_neighbours(shown_LR.shape[1], share)
    nearest_LBk, index_LBk = torch.where(shown_LR[:, None], distance_LBR, torch.inf).topk(most, dim=2, largest=False)
    return nearest_LBk, index_LBk


def _count_neighbours(shown_LR: torch.Tensor, share: float) -> torch.Tensor:
    """Number of neighbours at each place [L]: see `num_neighbours`."""
    num_L = shown_LR.sum(dim=1)
    wanted_L = (share * num_L).round().clamp(min=LEAST_NEIGHBOURS)
    return torch.minimum(wanted_L, (num_L - 1).to(wanted_L.dtype)).clamp(min=1)


def _mean_of_used(value_LBk: torch.Tensor, count_L: torch.Tensor) -> torch.Tensor:
    """The mean [L, B] of the first `count_L` of each row."""
    used_L1k = torch.arange(value_LBk.shape[2], device=value_LBk.device) < count_L[:, None, None]
    return torch.where(used_L1k, value_LBk, 0.0).sum(dim=2) / count_L[:, None]


def _loneliness(ratio_LBR: torch.Tensor, factor_LB: torch.Tensor, known_LB: torch.Tensor) -> torch.Tensor:
    """See `local_outlier_factor.loneliness`, over the places that are judged; of references that show at least half of
    these.  0 where there is none."""
    half = max(1, len(factor_LB) // 2)
    count_B = (known_LB.sum(dim=0) // 2).clamp(min=1)
    index_hB = torch.where(known_LB, factor_LB, -torch.inf).topk(half, dim=0).indices
    used_hB = (torch.arange(half, device=factor_LB.device)[:, None] < count_B) & known_LB.gather(0, index_hB)
    ratio_hBR = ratio_LBR.gather(0, index_hB[..., None].expand(-1, -1, ratio_LBR.shape[2]))
    both_hBR = used_hB[..., None] & ratio_hBR.isfinite()
    num_BR = both_hBR.sum(dim=0)
    mean_BR = torch.where(both_hBR, ratio_hBR, 0.0).sum(dim=0) / num_BR.clamp(min=1)
    mean_BR = torch.where(2 * num_BR >= count_B[:, None], mean_BR, torch.inf)
    nearest_Bk = mean_BR.topk(min(TWINS, mean_BR.shape[1]), dim=1, largest=False).values
    known_Bk = nearest_Bk.isfinite()
    mean_B = torch.where(known_Bk, nearest_Bk, 0.0).sum(dim=1) / known_Bk.sum(dim=1).clamp(min=1)
    return torch.where(known_Bk.any(dim=1), mean_B.clamp(min=_TINY).log(), 0.0)
