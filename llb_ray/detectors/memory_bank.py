"""A memory of normal patches: PatchCore (Roth et al., arXiv 2106.08265) on cached backbone features.

With ``memory=robust`` it is told to distrust its training images, in two ways that are local to a place of the grid
(see `neighbours`).  Patches that no other image is like are kept apart, in a small memory that counts the less the more
of them there are (see `candidates`): rare normal ones in a clean set, defects in a dirty one.  And distances are
multiplied by the local outlier factor, so that a patch that is near to one odd entry, but not to what is usual at its
place, still counts; suspects have no say in what is usual.  ``memory=softpatch`` does so in the way of that paper.

Shapes: N and B images, C channels and H x W cells of a layer, D patch dimensions, P candidate patches, Q cells of
one image, M memory entries, O outlying ones.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from llb_ray.config import MemoryBankConfig
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
from llb_ray.detectors.candidates import GATHER, Candidates
from llb_ray.detectors.coreset import k_center, random_subset
from llb_ray.detectors.neighbours import (
    MAX_REFERENCES,
    WEIGHING,
    Judged,
    by_place,
    judged,
    judged_in_blocks,
    num_neighbours,
    reaches,
    references,
)
from llb_ray.detectors.patches import at_places, patches, usable_spread
from llb_ray.detectors.peers import ALONE, Peers

# Image AUROC with the mean of the top 1 / 5 / 10 % and the maximum (MobileNetV2 layers 2 and 3, k_center, seed 0):
# magnetic tile clean 82.5 / 88.4 / 89.7, 77.4; with 20 % defects in the fit 66.0 / 70.7 / 72.4, 65.0; juice bottle
# clean 95.1 / 95.9 / 95.9, 93.5; with 20 % 89.9 / 92.3 / 92.5, 87.6.  More than 5 % would dilute small defects.
TOP_SHARE = 0.05
_FIT_BATCH = 32  # images read at once while fitting
_PLACES = 200  # cells of the grid, about, at which distances are weighed
_REFERENCE_VALUES, _LEAST_REFERENCES = 2**25, 32  # 128 MiB in memory and in the file; a ViT's patches are long
_OUTLYING = 5  # one in so many entries of the memory is an outlying patch, where these are trusted at all
_CHUNK_CELLS = 1024  # cells compared with the memory at once: 16 MB of distances at 4,000 entries


class MemoryBank:
    """A `Detector`: a patch is as anomalous as it is far from the nearest patch kept from the training images.

    Memory is bounded by `candidates` patches, `coreset_size` entries and one batch, whatever the number of images.
    """

    def __init__(self, config: MemoryBankConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self._state: State = {}

    def patches(self, layers: Layers) -> torch.Tensor:
        """Patch descriptors [B, D, H, W] on the first layer's grid."""
        return patches(layers, self.config.neighbourhood)

    def fit(
        self,
        source: Source,
        seed: int,
        report: Report = silent,
        checkpoints: Checkpoints | None = None,
        peers: Peers = ALONE,
    ) -> Self:
        """Itself, fitted in one pass over the source; `checkpoints` are left alone, there is little to go on from."""
        assert peers is ALONE, "RunConfig.final_workers has one worker fit a memory bank"
        memory = self._memory(source)
        gathered = GATHER[memory](partial(self._read, source), source, self.config.candidates, seed, report)
        mean_D, scale_D = gathered.patch_PD.mean(dim=0), self._scale(gathered.patch_PD)
        state = {"mean_D": mean_D, "scale_D": scale_D} | self._entries(gathered, mean_D, scale_D, seed)
        state |= self._usual(source, seed, mean_D, scale_D) if memory == "robust" else {}
        return self.load_state(state)

    def _entries(self, gathered: Candidates, mean_D: torch.Tensor, scale_D: torch.Tensor, seed: int) -> State:
        """The memory, and apart from it the outlying patches, where these are trusted at all."""
        size, state = self.config.coreset_size, State()
        few = size // _OUTLYING
        if gathered.outlying_OD is not None and len(gathered.outlying_OD) and few:
            outlying_OD = (gathered.outlying_OD - mean_D) / scale_D
            state = {"outlying_OD": outlying_OD[self._coreset(outlying_OD, few, seed)]}
            state["trust_1"], size = torch.tensor([gathered.trust]), size - few
        candidate_PD = (gathered.patch_PD - mean_D) / scale_D
        rows = self._coreset(candidate_PD, size, seed)
        weighted = {} if gathered.weight_P is None else {"weight_M": gathered.weight_P[rows]}
        return state | {"memory_MD": candidate_PD[rows]} | weighted

    @torch.inference_mode()
    def score(self, layers: Layers) -> Scores:
        """Distances to the nearest memory entry, per root of D so that layers of any width compare, and times the local
        outlier factor where the memory is robust; the score of an image is the mean of the highest `TOP_SHARE` of its
        map.
        """
        patch_BDHW = self.patches(layers)
        # Image by image, so that every product has the same shape, and rounding, in any batch.
        map_BHW = torch.stack([self._map(patch_DHW) for patch_DHW in patch_BDHW])
        if "reach_LR" in self._state:
            map_BHW *= _weights(patch_BDHW, self._state, judged_in_blocks)
        return Scores(top_mean(map_BHW, TOP_SHARE).cpu().numpy(), map_BHW.cpu().numpy())

    def scorer(self) -> nn.Module:
        """See `Detector`."""
        return TopMean(_Nearest(self.patches, self._state), TOP_SHARE)

    def state(self) -> State:
        return {name: tensor.cpu().contiguous() for name, tensor in self._state.items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> Self:
        self._state = {name: tensor.to(self.device, torch.float32) for name, tensor in state.items()}
        return self

    def log(self) -> None:
        """Nothing: there are no steps to note."""

    def _memory(self, source: Source) -> Literal["plain", "robust", "softpatch"]:
        """How the training images are taken.

        One that is alone cannot be compared with others; and a detector outside of a run knows of no filter.
        """
        memory = self.config.memory
        if memory == "by_filter" or len(source.image_ids) < 2:
            memory = "plain"
        assert memory == "robust" or not source.suspects, "RunConfig.reads_suspects gives them to robust memories alone"
        return memory

    def _usual(self, source: Source, seed: int, mean_D: torch.Tensor, scale_D: torch.Tensor) -> State:
        """What is usual at each place: references, none of them suspects, and how far these are from each other."""
        num_images = len(source.image_ids)
        plain = [row for row, image_id in enumerate(source.image_ids) if image_id not in source.suspects]
        rows_V = (np.arange(0, len(source), num_images)[:, None] + np.array(plain)).ravel()
        most = min(MAX_REFERENCES, max(_LEAST_REFERENCES, _REFERENCE_VALUES // (_PLACES * len(mean_D))))
        chosen = rows_V[references(len(rows_V), seed, most)]
        parts = (self._read(source, chosen[rows]) for rows in row_batches(len(chosen), _FIT_BATCH))
        patch_LRD = torch.cat([by_place(at_places(part, _PLACES), mean_D, scale_D) for part in parts], dim=1)
        image_R = torch.from_numpy(chosen % num_images).to(self.device)
        count = num_neighbours(len(chosen), WEIGHING, len(rows_V) // len(plain))
        return {"reference_LRD": patch_LRD, "reach_LR": reaches(patch_LRD, image_R, count)}

    def _read(self, source: Source, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        return self.patches(source.batch(rows))

    def _scale(self, candidate_PD: torch.Tensor) -> torch.Tensor:
        """What each channel is divided by [D]."""
        spread_D = usable_spread(candidate_PD)
        return spread_D if self.config.standardize else torch.ones_like(spread_D)

    def _coreset(self, point_PD: torch.Tensor, count: int, seed: int) -> torch.Tensor:
        if self.config.coreset == "random":
            return random_subset(len(point_PD), count, seed).to(point_PD.device)
        return k_center(point_PD, count, seed, self.config.projection_dim)

    def _map(self, patch_DHW: torch.Tensor) -> torch.Tensor:
        """Distances [H, W] of one image's patches to the memory."""
        patch_QD = (patch_DHW.flatten(1).T - self._state["mean_D"]) / self._state["scale_D"]
        chunks = torch.split(patch_QD, _CHUNK_CELLS)
        distance_Q = torch.cat([distance(chunk, self._state) for chunk in chunks])
        return distance_Q.view(patch_DHW.shape[1:]) / math.sqrt(patch_QD.shape[1])


class _Nearest(nn.Module):
    """The maps of `MemoryBank.score`, of a whole batch at once: the same distances within float noise."""

    mean_D: torch.Tensor
    scale_D: torch.Tensor

    def __init__(self, patches: Callable[[Layers], torch.Tensor], state: State) -> None:
        super().__init__()
        self._patches = patches
        self._is_robust = "reach_LR" in state
        for name, tensor in state.items():
            self.register_buffer(name, tensor)

    def forward(self, *layers: torch.Tensor) -> torch.Tensor:
        patch_BDHW = self._patches(layers)
        patch_BHWD = patch_BDHW.permute(0, 2, 3, 1)
        patch_QD = ((patch_BHWD - self.mean_D) / self.scale_D).flatten(0, 2)
        state = dict(self.named_buffers())
        map_BHW = distance(patch_QD, state).view(patch_BHWD.shape[:3]) / math.sqrt(patch_QD.shape[1])
        return map_BHW * _weights(patch_BDHW, state, judged) if self._is_robust else map_BHW


def _weights(patch_BDHW: torch.Tensor, state: Mapping[str, torch.Tensor], judge: Callable[..., Judged]) -> torch.Tensor:
    """Local outlier factors [B, H, W], brought from some places to the whole grid."""
    placed_BDHW = at_places(patch_BDHW, _PLACES)
    patch_LBD = by_place(placed_BDHW, state["mean_D"], state["scale_D"])
    factor_LB = judge(patch_LBD, state["reference_LRD"], state["reach_LR"], WEIGHING).factor_LB
    factor_B1HW = factor_LB.T.reshape(-1, 1, *placed_BDHW.shape[2:]).exp()
    return functional.interpolate(factor_B1HW, patch_BDHW.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def distance(patch_QD: torch.Tensor, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Distance [Q] from each patch to the memory; a nearer outlying entry shortens it as far as it is trusted."""
    near_Q = nearest_distance(patch_QD, state["memory_MD"], state.get("weight_M"))
    if "outlying_OD" not in state:
        return near_Q
    nearer_Q = near_Q - nearest_distance(patch_QD, state["outlying_OD"])
    return near_Q - state["trust_1"] * nearer_Q.clamp(min=0)


def nearest_distance(
    patch_QD: torch.Tensor, memory_MD: torch.Tensor, weight_M: torch.Tensor | None = None
) -> torch.Tensor:
    """Euclidean distance [Q] from each patch to its nearest memory entry, times the entry's weight where there are
    weights; exact, in Q x M memory."""
    square_M = memory_MD.square().sum(dim=1)
    nearest_Q = torch.addmm(square_M, patch_QD, memory_MD.T, alpha=-2).argmin(dim=1)
    # The product finds the neighbour fast; the distance is taken again because the product cancels near zero.
    distance_Q = (patch_QD - memory_MD[nearest_Q]).square().sum(dim=1).sqrt()
    return distance_Q if weight_M is None else distance_Q * weight_M[nearest_Q]
