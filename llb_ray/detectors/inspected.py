"""The cells of a grid that are looked at, where some pixels of photographs are ignored.

The layers of such photographs end with one more: the share of each cell of the first layer's grid that is ignored
[B, 1, H, W].  The state of a detector that expects it has the entry `MASKED`.

Shapes as in `base`; T parts of a map with Q cells each; h x w cells of another grid.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch.nn import functional

from llb_ray.detectors.base import Layers, State, top_mean

MASKED = "masked_1"
_MOST_IGNORED = 0.5  # of a cell that is looked at
_LEAST_WEIGHT = 1e-3  # of what is interpolated: below, there is nothing to interpolate


def masked_state(is_masked: bool) -> State:
    """The entry of the state of a detector whose layers end with the ignored share; nothing for another."""
    return {MASKED: torch.ones(1)} if is_masked else {}


def split_share(layers: Layers, state: Mapping[str, torch.Tensor]) -> tuple[Layers, torch.Tensor | None]:
    """The layers of a detector of this state without the ignored share, and this; None where all is looked at."""
    return (layers[:-1], layers[-1]) if MASKED in state else (layers, None)


def ignored_share(ignored_BHW: torch.Tensor, grid: torch.Size) -> torch.Tensor:
    """The share of each cell of a grid that is ignored [B, 1, h, w], of pixels that are."""
    return functional.adaptive_avg_pool2d(ignored_BHW[:, None].float(), (grid[0], grid[1]))


def seen_cells(share_B1HW: torch.Tensor | None, grid: torch.Size) -> torch.Tensor | None:
    """True for the cells of a grid that are looked at [B, h, w]; None for all of them.

    No more than half of such a cell is ignored, or, where there is none, no more than of any other.
    """
    if share_B1HW is None:
        return None
    if share_B1HW.shape[2:] != grid:
        share_B1HW = functional.adaptive_avg_pool2d(share_B1HW, (grid[0], grid[1]))
    share_Bhw = share_B1HW[:, 0]
    seen_Bhw: torch.Tensor = share_Bhw <= share_Bhw.amin(dim=(1, 2), keepdim=True).clamp(min=_MOST_IGNORED)
    return seen_Bhw


def seen_only(patch_BDHW: torch.Tensor, seen_BHW: torch.Tensor | None) -> torch.Tensor | Sequence[torch.Tensor]:
    """The patches of the cells that are looked at, image by image [D, Q]; all as they are for None."""
    if seen_BHW is None:
        return patch_BDHW
    return [patch_DHW[:, seen_HW] for patch_DHW, seen_HW in zip(patch_BDHW, seen_BHW, strict=True)]


def zero_unseen(map_BHW: torch.Tensor, seen_BHW: torch.Tensor | None) -> torch.Tensor:
    """The maps, 0 where they are not looked at: the least distance, or as dense as usual."""
    return map_BHW if seen_BHW is None else torch.where(seen_BHW, map_BHW, 0.0)


def interpolate_seen(
    value_Bhw: torch.Tensor, weight_Bhw: torch.Tensor | None, onto: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Values [B, H, W] interpolated `onto` a finer grid from cells that have a weight, and True where such are near.

    Without weights: from all cells, and None in place of True everywhere.
    """
    if weight_Bhw is None:
        return onto(value_Bhw), None
    weight_BHW = onto(weight_Bhw)
    return onto(value_Bhw * weight_Bhw) / weight_BHW.clamp(min=_LEAST_WEIGHT), weight_BHW > _LEAST_WEIGHT


def image_scores(map_BHW: torch.Tensor, seen_BHW: torch.Tensor | None, share: float) -> torch.Tensor:
    """The mean [B] of the highest share of each map's cells that are looked at; None: of all."""
    if seen_BHW is None:
        return top_mean(map_BHW, share)
    return seen_top_mean(map_BHW.flatten(1)[:, None], seen_BHW.flatten(1)[:, None], share)[:, 0]


def seen_top_mean(map_BTQ: torch.Tensor, seen_BTQ: torch.Tensor, share: float) -> torch.Tensor:
    """The mean [B, T] of the highest share of the cells that are looked at, at least one; -inf of parts without any."""
    most = max(1, round(share * map_BTQ.shape[2]))
    highest_BTk = torch.where(seen_BTQ, map_BTQ, -torch.inf).topk(most, dim=2).values
    count_BT1 = (share * seen_BTQ.sum(dim=2, keepdim=True)).round().clamp(min=1)
    used_BTk = torch.arange(most, device=map_BTQ.device) < count_BT1
    mean_BT: torch.Tensor = torch.where(used_BTk, highest_BTk, 0.0).sum(dim=2) / count_BT1[..., 0]
    return mean_BT
