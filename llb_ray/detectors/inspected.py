"""The cells of a grid that are looked at, where some pixels of all photographs are ignored.

Shapes as in `base`; T parts of a map with Q cells each.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from llb_ray.detectors.base import top_mean
from llb_ray.errors import DataError

SEEN = "seen_HW"  # of a detector's state: cells that are looked at, where others are not


def inspected_cells(ignored_HW: npt.NDArray[np.bool_], height: int, width: int) -> torch.Tensor:
    """True for the cells of a grid [height, width] over these pixels of which no more than half are ignored.

    Raises DataError where there is none.
    """
    share_hw = functional.adaptive_avg_pool2d(torch.from_numpy(ignored_HW)[None, None].float(), (height, width))[0, 0]
    seen_hw: torch.Tensor = share_hw <= 0.5
    if not seen_hw.any():
        raise DataError(
            "data.ignore_mask, data.inspect_mask: what is left to look at is smaller than a cell of the map; leave "
            "more, or raise detector.image_size_px"
        )
    return seen_hw


def seen_cells(state: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """True for the cells that a detector of this state looks at [H, W]; None where it looks at all."""
    return state[SEEN] > 0 if SEEN in state else None


def seen_only(patch_BDHW: torch.Tensor, seen_HW: torch.Tensor | None) -> torch.Tensor:
    """The patches of the cells that are looked at [B, D, Q, 1]; all as they are for None."""
    return patch_BDHW if seen_HW is None else patch_BDHW.flatten(2)[..., seen_HW.flatten()][..., None]


def blank(map_BHW: torch.Tensor, seen_HW: torch.Tensor | None) -> torch.Tensor:
    """The maps, 0 where they are not looked at: the least distance, or as dense as usual."""
    return map_BHW if seen_HW is None else torch.where(seen_HW, map_BHW, 0.0)


def image_scores(map_BHW: torch.Tensor, seen_HW: torch.Tensor | None, share: float) -> torch.Tensor:
    """The mean [B] of the highest share of each map's cells that are looked at; None: of all."""
    if seen_HW is None:
        return top_mean(map_BHW, share)
    return seen_top_mean(map_BHW.flatten(1)[:, None], seen_HW.reshape(1, -1), share)[:, 0]


def seen_top_mean(map_BTQ: torch.Tensor, seen_TQ: torch.Tensor, share: float) -> torch.Tensor:
    """The mean [B, T] of the highest share of the cells that are looked at, at least one; -inf of parts without any."""
    most = max(1, round(share * map_BTQ.shape[2]))
    highest_BTk = torch.where(seen_TQ, map_BTQ, -torch.inf).topk(most, dim=2).values
    count_T1 = (share * seen_TQ.sum(dim=1, keepdim=True)).round().clamp(min=1)
    used_Tk = torch.arange(most, device=map_BTQ.device) < count_T1
    mean_BT: torch.Tensor = torch.where(used_Tk, highest_BTk, 0.0).sum(dim=2) / count_T1[:, 0]
    return mean_BT
