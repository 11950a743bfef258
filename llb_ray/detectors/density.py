"""Outlying patches, place by place: the screening detector on frozen features.

An image is as anomalous as its most outlying patches are, compared with what the training images show at the same
place.  It learns nothing, so that there is no bias for anomalies to exploit either, and costs a fraction of a memory
bank: a matrix product per place.  It suits purification better than final detection: a map is coarse.

Shapes as in `neighbours`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from llb_ray.config import DensityConfig
from llb_ray.detectors.base import (
    Checkpoints,
    Layers,
    Report,
    Scores,
    Source,
    State,
    TopMean,
    row_batches,
    silent,
    top_mean,
)
from llb_ray.detectors.neighbours import distances, num_neighbours, outlier_factors, reaches, references
from llb_ray.detectors.patches import patches, usable_spread
from llb_ray.detectors.peers import ALONE, Peers
from llb_ray.errors import DataError

TOP_SHARE = 0.05  # of a map's cells, averaged to the image score; 2 and 15 % separate magnetic tiles as well
_FIT_BATCH = 32  # images read at once while fitting
_BLOCK = 16  # images compared with the references at once


class Density:
    """A `Detector`: how much sparser an image's patches lie than their neighbours, at each of some places."""

    def __init__(self, config: DensityConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self._state: State = {}

    def fit(
        self,
        source: Source,
        seed: int,
        report: Report = silent,
        checkpoints: Checkpoints | None = None,
        peers: Peers = ALONE,
    ) -> Self:
        """Itself, fitted in one pass over the source, or part of it; raises DataError for a single image."""
        assert peers is ALONE, "RunConfig.final_workers has one worker fit it"
        num_images = len(source.image_ids)
        if num_images < 2:
            raise DataError("density compares images with each other and was given one; lower members.count")
        chosen = references(len(source), seed)
        reference_LRD = self._read(source, chosen, report).transpose(0, 1).contiguous()
        point_PD = reference_LRD.flatten(0, 1)
        mean_D, scale_D = point_PD.mean(dim=0), usable_spread(point_PD)
        reference_LRD = (reference_LRD - mean_D) / scale_D
        image_R = torch.from_numpy(chosen % num_images).to(self.device)
        reach_LR = reaches(reference_LRD, image_R, num_neighbours(len(chosen), len(source) // num_images))
        return self.load_state(
            {"reference_LRD": reference_LRD, "reach_LR": reach_LR, "mean_D": mean_D, "scale_D": scale_D}
        )

    @torch.inference_mode()
    def score(self, layers: Layers) -> Scores:
        """Logarithms of the local outlier factors, 0 where a patch lies as dense as its neighbours; the score of an
        image is the mean of the highest `TOP_SHARE` of its map.
        """
        patch_BDHW = self._placed(layers)
        map_BHW = torch.cat([self._maps(part_BDHW) for part_BDHW in torch.split(patch_BDHW, _BLOCK)])
        return Scores(top_mean(map_BHW, TOP_SHARE).cpu().numpy(), map_BHW.cpu().numpy())

    def scorer(self) -> nn.Module:
        """See `Detector`."""
        return TopMean(_Factors(self._placed, self._state), TOP_SHARE)

    def state(self) -> State:
        return {name: tensor.cpu().contiguous() for name, tensor in self._state.items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> Self:
        names = ("reference_LRD", "reach_LR", "mean_D", "scale_D")
        self._state = {name: state[name].to(self.device, torch.float32) for name in names}
        return self

    def log(self) -> None:
        """Nothing: there are no steps to note."""

    def _read(self, source: Source, chosen: npt.NDArray[np.int64], report: Report) -> torch.Tensor:
        """The patches [R, L, D] of the chosen images at the places that are looked at."""
        read = []
        for rows in row_batches(len(chosen), _FIT_BATCH):
            read.append(self._placed(source.batch(chosen[rows])).flatten(2).transpose(1, 2))
            report(int(rows[-1]) + 1, len(chosen), "images")
        return torch.cat(read)

    def _placed(self, layers: Layers) -> torch.Tensor:
        """The patches [B, D, H, W] of every so many cells of the first layer's grid, `places` at most or so."""
        patch_BDHW = patches(layers, self.config.neighbourhood)
        height, width = patch_BDHW.shape[-2:]
        step = max(1, math.ceil(math.sqrt(height * width / self.config.places)))
        return patch_BDHW[..., min(step // 2, height - 1) :: step, min(step // 2, width - 1) :: step]

    def _maps(self, patch_BDHW: torch.Tensor) -> torch.Tensor:
        """Factors [B, H, W] of at most `_BLOCK` images."""
        patch_LBD = _by_place(patch_BDHW, self._state["mean_D"], self._state["scale_D"])
        # Filled up, so that every product has the same shape, and rounding, in any batch; one by one takes 8 times as
        # long, since the references are read anew for each.
        full_LBD = functional.pad(patch_LBD, (0, 0, 0, _BLOCK - len(patch_BDHW)))
        reference_LRD, reach_LR = self._state["reference_LRD"], self._state["reach_LR"]
        count = num_neighbours(reference_LRD.shape[1])
        factor_LB = outlier_factors(distances(full_LBD, reference_LRD), reach_LR, count)
        return factor_LB[:, : len(patch_BDHW)].T.reshape(-1, *patch_BDHW.shape[2:])


class _Factors(nn.Module):
    """The maps of `Density.score`, of a whole batch at once: the same factors within float noise."""

    reference_LRD: torch.Tensor
    reach_LR: torch.Tensor
    mean_D: torch.Tensor
    scale_D: torch.Tensor

    def __init__(self, placed: Callable[[Layers], torch.Tensor], state: State) -> None:
        super().__init__()
        self._placed = placed
        for name, tensor in state.items():
            self.register_buffer(name, tensor)

    def forward(self, *layers: torch.Tensor) -> torch.Tensor:
        patch_BDHW = self._placed(layers)
        patch_LBD = _by_place(patch_BDHW, self.mean_D, self.scale_D)
        count = num_neighbours(self.reference_LRD.shape[1])
        factor_LB = outlier_factors(distances(patch_LBD, self.reference_LRD), self.reach_LR, count)
        return factor_LB.T.reshape(-1, *patch_BDHW.shape[2:])


def _by_place(patch_BDHW: torch.Tensor, mean_D: torch.Tensor, scale_D: torch.Tensor) -> torch.Tensor:
    """Standardised patches [L, B, D]."""
    return (patch_BDHW.flatten(2).permute(2, 0, 1) - mean_D) / scale_D
