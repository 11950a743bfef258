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
from llb_ray.detectors.inspected import SEEN, blank, image_scores, inspected_cells, seen_cells
from llb_ray.detectors.local_outlier_factor import (
    SCREENING,
    Judged,
    by_place,
    num_neighbours,
    reaches,
    references,
    score_outliers,
    score_outliers_in_blocks,
)
from llb_ray.detectors.patches import placed_patches, usable_spread
from llb_ray.errors import DataError

TOP_SHARE = 0.05  # of a map's cells, averaged to the image score; 2 and 15 % separate magnetic tiles as well
_FIT_BATCH = 32  # images read at once while fitting
_NAMES = ("reference_LRD", "reach_LR", "mean_D", "scale_D", "loneliness_1")


class Density:
    """A `Detector`: how much sparser an image's patches are than their neighbours, at each of some places."""

    def __init__(self, config: DensityConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self._state: State = {}
        self._ignored_HW: npt.NDArray[np.bool_] | None = None

    def fit(self, source: Source, seed: int, report: Report = silent) -> Self:
        """Itself, fitted in one pass over the source, or part of it; raises DataError for a single image."""
        num_images = len(source.image_ids)
        if num_images < 2:
            raise DataError("density compares images with each other and was given one; lower members.count")
        chosen = references(len(source), seed)
        reference_RDHW = self._read(source, chosen, report)
        point_PD = reference_RDHW.permute(0, 2, 3, 1).flatten(0, 2)
        mean_D, scale_D = point_PD.mean(dim=0), usable_spread(point_PD)
        reference_LRD = by_place(reference_RDHW, mean_D, scale_D).contiguous()
        image_R = torch.from_numpy(chosen % num_images).to(self.device)
        count = num_neighbours(len(chosen), SCREENING, len(source) // num_images)
        reach_LR = reaches(reference_LRD, image_R, count)
        # In the state, because scores depend on it.
        loneliness_1 = torch.tensor([float(self.config.rescue)])
        state = dict(zip(_NAMES, (reference_LRD, reach_LR, mean_D, scale_D, loneliness_1), strict=True))
        if self._ignored_HW is not None:
            state[SEEN] = inspected_cells(self._ignored_HW, *reference_RDHW.shape[2:]).float()
        return self.load_state(state)

    def leave_out(self, ignored_HW: npt.NDArray[np.bool_]) -> None:
        """See `LeavingOut`."""
        self._ignored_HW = ignored_HW

    @torch.inference_mode()
    def score(self, layers: Layers) -> Scores:
        """Logarithms of the local outlier factors, 0 where a patch is as dense as its neighbours; the score of an
        image is the mean of the highest `TOP_SHARE` of its map, and with `rescue` its loneliness
        (`local_outlier_factor.loneliness`) added.
        """
        score_B, map_BHW = _scores(self._placed(layers), self._state, score_outliers_in_blocks)
        return Scores(score_B.cpu().numpy(), map_BHW.cpu().numpy())

    def scorer(self) -> nn.Module:
        """See `Exportable`."""
        return _Scorer(self._placed, self._state)

    def state(self) -> State:
        return {name: tensor.cpu().contiguous() for name, tensor in self._state.items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> Self:
        names = [*_NAMES, *([SEEN] if SEEN in state else [])]
        self._state = {name: state[name].to(self.device, torch.float32) for name in names}
        return self

    def _read(self, source: Source, chosen: npt.NDArray[np.int64], report: Report) -> torch.Tensor:
        """The patches [R, D, H, W] of the chosen images at the places that are looked at."""
        read = []
        for rows in row_batches(len(chosen), _FIT_BATCH):
            read.append(self._placed(source.batch(chosen[rows])))
            report(int(rows[-1]) + 1, len(chosen), "images")
        return torch.cat(read)

    def _placed(self, layers: Layers) -> torch.Tensor:
        shared = layers[: self.config.backbone.num_layers]  # a final memory bank has one more
        return placed_patches(shared, self.config.neighbourhood, self.config.places)


def _scores(
    patch_BDHW: torch.Tensor, state: Mapping[str, torch.Tensor], judge: Callable[..., Judged]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score [B] and map [B, H, W]."""
    patch_LBD = by_place(patch_BDHW, state["mean_D"], state["scale_D"])
    found = judge(patch_LBD, state["reference_LRD"], state["reach_LR"], SCREENING)
    map_BHW = found.factor_LB.T.reshape(-1, *patch_BDHW.shape[2:])
    seen_HW = seen_cells(state)
    score_B = image_scores(map_BHW, seen_HW, TOP_SHARE)
    return score_B + state["loneliness_1"] * found.loneliness_B, blank(map_BHW, seen_HW)


class _Scorer(nn.Module):
    """`Density.score` of a whole batch at once: the same within float noise."""

    def __init__(self, placed: Callable[[Layers], torch.Tensor], state: State) -> None:
        super().__init__()
        self._placed = placed
        for name, tensor in state.items():
            self.register_buffer(name, tensor)

    def forward(self, *layers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _scores(self._placed(layers), dict(self.named_buffers()), score_outliers)
