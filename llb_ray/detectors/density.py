"""Outlying patches, place by place: the screening detector on frozen features.

An image is as anomalous as its most outlying patches are, compared with what the training images show at the same
place, and as it is without a twin among them.  It learns nothing, so that there is no bias for anomalies to exploit
either, and costs a fraction of a memory bank: a matrix product per place.  It suits purification better than final
detection: a map is coarse, and an image without a twin is not yet defective.

Shapes as in `local_outlier_factor`.
"""

from collections.abc import Callable, Mapping
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from llb_ray.detectors.base import Layers, Report, Scores, Source, State, row_batches, silent
from llb_ray.detectors.density_config import DensityConfig
from llb_ray.detectors.inspected import MASKED, image_scores, masked_state, seen_cells, split_share
from llb_ray.detectors.local_outlier_factor import (
    SCREENING,
    by_place,
    num_neighbours,
    reaches,
    references,
    score_outliers,
    score_outliers_in_blocks,
)
from llb_ray.detectors.patches import placed_patches, usable_spread
from llb_ray.detectors.seen_neighbours import SeenReferences, judge_seen, judge_seen_in_blocks, seen_reaches
from llb_ray.errors import DataError

TOP_SHARE = 0.05  # of a map's cells, averaged to the image score; 2 and 15 % separate magnetic tiles as well
_FIT_BATCH = 32  # images read at once while fitting
SHOWN = "shown_LR"  # of a state: the places that each reference shows, where others are ignored
_NAMES = ("reference_LRD", "reach_LR", "mean_D", "scale_D", "loneliness_1")


class Density:
    """A `Detector`: how much sparser an image's patches are than their neighbours, at each of some places."""

    def __init__(self, config: DensityConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self._state: State = {}
        self._is_masked = False

    def fit(self, source: Source, seed: int, report: Report = silent) -> Self:
        """Itself, fitted in one pass over the source, or part of it; raises DataError for a single image."""
        num_images = len(source.image_ids)
        if num_images < 2:
            raise DataError("density compares images with each other and was given one; lower members.count")
        chosen = references(len(source), seed)
        reference_RDHW, shown_LR = self._read(source, chosen, report)
        point_PD = reference_RDHW.permute(0, 2, 3, 1).flatten(0, 2)
        if shown_LR is not None:
            point_PD = point_PD[shown_LR.T.flatten()]
        mean_D, scale_D = point_PD.mean(dim=0), usable_spread(point_PD)
        reference_LRD = by_place(reference_RDHW, mean_D, scale_D).contiguous()
        image_R = torch.from_numpy(chosen % num_images).to(self.device)
        reach_LR = _reaches(reference_LRD, shown_LR, image_R, len(source) // num_images)
        # In the state, because scores depend on it.
        loneliness_1 = torch.tensor([float(self.config.rescue)])
        state = dict(zip(_NAMES, (reference_LRD, reach_LR, mean_D, scale_D, loneliness_1), strict=True))
        shown = {} if shown_LR is None else {SHOWN: shown_LR.float()}
        return self.load_state(state | shown | masked_state(self._is_masked))

    def leave_out(self) -> None:
        """See `LeavingOut`."""
        self._is_masked = True

    @torch.inference_mode()
    def score(self, layers: Layers) -> Scores:
        """Logarithms of the local outlier factors, 0 where a patch is as dense as its neighbours; the score of an
        image is the mean of the highest `TOP_SHARE` of its map, and with `rescue` its loneliness
        (`local_outlier_factor.loneliness`) added.
        """
        score_B, map_BHW = _scores(layers, self._placed, self._state, in_blocks=True)
        return Scores(score_B.cpu().numpy(), map_BHW.cpu().numpy())

    def scorer(self) -> nn.Module:
        """See `Exportable`."""
        return _Scorer(self._placed, self._state)

    def state(self) -> State:
        return {name: tensor.cpu().contiguous() for name, tensor in self._state.items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> Self:
        names = [*_NAMES, *([SHOWN, MASKED] if MASKED in state else [])]
        self._state = {name: state[name].to(self.device, torch.float32) for name in names}
        return self

    def _read(
        self, source: Source, chosen: npt.NDArray[np.int64], report: Report
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The patches [R, D, H, W] of the chosen images at some places, and which of these they show [L, R]; None: all
        of them."""
        read, shown = [], []
        for rows in row_batches(len(chosen), _FIT_BATCH):
            layers, share_B1HW = split_share(source.batch(chosen[rows]), masked_state(self._is_masked))
            read.append(self._placed(layers))
            if (seen_Bhw := seen_cells(share_B1HW, read[-1].shape[2:])) is not None:
                shown.append(seen_Bhw.flatten(1).T)
            report(int(rows[-1]) + 1, len(chosen), "images")
        return torch.cat(read), torch.cat(shown, dim=1) if shown else None

    def _placed(self, layers: Layers) -> torch.Tensor:
        shared = layers[: self.config.backbone.num_layers]  # a final memory bank has one more
        return placed_patches(shared, self.config.neighbourhood, self.config.places)


def _reaches(
    reference_LRD: torch.Tensor, shown_LR: torch.Tensor | None, image_R: torch.Tensor, copies: int
) -> torch.Tensor:
    """The reach [L, R] of each reference among those that show the place; `image_R` tells images and their copies."""
    if shown_LR is not None:
        return seen_reaches(reference_LRD, shown_LR, SCREENING)
    return reaches(reference_LRD, image_R, num_neighbours(len(image_R), SCREENING, copies))


def _scores(
    layers: Layers,
    placed: Callable[[Layers], torch.Tensor],
    state: Mapping[str, torch.Tensor],
    in_blocks: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score [B] and map [B, H, W]."""
    layers, share_B1HW = split_share(layers, state)
    patch_BDHW = placed(layers)
    patch_LBD = by_place(patch_BDHW, state["mean_D"], state["scale_D"])
    seen_BHW = seen_cells(share_B1HW, patch_BDHW.shape[2:])
    if seen_BHW is None:
        judge = score_outliers_in_blocks if in_blocks else score_outliers
        found = judge(patch_LBD, state["reference_LRD"], state["reach_LR"], SCREENING)
    else:
        references = SeenReferences(state["reference_LRD"], state["reach_LR"], state[SHOWN] > 0)
        judge_cells = judge_seen_in_blocks if in_blocks else judge_seen
        found = judge_cells(patch_LBD, seen_BHW.flatten(1).T, references, SCREENING)
    map_BHW = found.factor_LB.T.reshape(-1, *patch_BDHW.shape[2:])
    score_B = image_scores(map_BHW, seen_BHW, TOP_SHARE)
    return score_B + state["loneliness_1"] * found.loneliness_B, map_BHW


class _Scorer(nn.Module):
    """`Density.score` of a whole batch at once: the same within float noise."""

    def __init__(self, placed: Callable[[Layers], torch.Tensor], state: State) -> None:
        super().__init__()
        self._placed = placed
        for name, tensor in state.items():
            self.register_buffer(name, tensor)

    def forward(self, *layers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _scores(layers, self._placed, dict(self.named_buffers()), in_blocks=False)
