"""A memory of normal patches: PatchCore (Roth et al., arXiv 2106.08265) on cached backbone features.

With ``patches=detailed`` the entries tell which cell of a neighbourhood has what, where averages lose it.
With ``memory=placed`` the distance to the nearest entry is multiplied by the Mahalanobis distance at the patch's place
of the grid (`place_gaussians`, of single cells), and the map is the root of the product.  The score of an image is made
of three: the distance of a deeper layer (`context`) is multiplied too, where the network has one.
``memory=plain`` is PatchCore's.
``memory=softpatch`` doubts outlying patches in the way of that paper (see `patch_selection`).

Shapes: N and B images, C channels and H x W cells of a layer, h x w places, D dimensions of a patch in the memory, E of
a cell, P candidate patches, Q cells of one image, M memory entries.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from llb_ray.detectors.base import (
    Layers,
    Report,
    Scores,
    Source,
    State,
    row_batches,
    silent,
)
from llb_ray.detectors.context import remember_context
from llb_ray.detectors.coreset import k_center, random_subset
from llb_ray.detectors.inspected import masked_state, seen_cells, seen_only, split_share
from llb_ray.detectors.memory_bank_config import MemoryBankConfig
from llb_ray.detectors.memory_scoring import (
    KERNEL,
    MemoryScorer,
    at_places,
    cells,
    deep_cells,
    remembered,
    score_images,
    shallow,
    shown_places,
)
from llb_ray.detectors.patch_selection import GATHER, Candidates, PatchSample
from llb_ray.detectors.patches import on_one_grid, random_kernels, usable_spread
from llb_ray.detectors.place_gaussians import fit_places
from llb_ray.detectors.tiles import WorstTile

# Image AUROC with the mean of the top 1 / 5 / 10 % and the maximum (MobileNetV2 layers 2 and 3, k_center, seed 0):
# magnetic tile clean 82.5 / 88.4 / 89.7, 77.4; with 20 % defects in the fit 66.0 / 70.7 / 72.4, 65.0; juice bottle
# clean 95.1 / 95.9 / 95.9, 93.5; with 20 % 89.9 / 92.3 / 92.5, 87.6.  More than 5 % would dilute small defects.
TOP_SHARE = 0.05
_FIT_BATCH = 32  # images, or tiles, read at once while fitting


class MemoryBank:
    """A `Detector`: a patch is as anomalous as it is far from the nearest patch kept from the training images.

    Memory is bounded by `candidates` patches, `coreset_size` entries and one batch, whatever the number of images.
    """

    def __init__(self, config: MemoryBankConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self._state: State = {}
        self._is_masked = False
        self._score = WorstTile(config, TOP_SHARE)
        self._fit_batch = config.images_at_once(_FIT_BATCH)

    def fit(self, source: Source, seed: int, report: Report = silent, trust: Sequence[float] | None = None) -> Self:
        """Itself, fitted: every image is read once for the memory, and once more for the places.

        See `WeighingDetector`: distances to the patches of an image are divided by the root of the trust in it, and
        it has this weight in the statistics of the places.
        """
        memory, trust_N = self._memory(source), _of_rows(source, trust, self.device)
        few = self._few(source)
        state = masked_state(self._is_masked) | self._kernels(few)
        read = partial(self._read, source, state)
        gathered = GATHER[memory](read, source, self.config.candidates, seed, report, self._fit_batch)
        state |= self._entries(gathered, seed, trust_N)
        if memory == "placed":
            state |= self._cell_standards(few, state)
            state |= self._learn_places(source, state, seed, trust_N)
        return self.load_state(state)

    def _few(self, source: Source) -> Layers:
        """Layers of the first images, by which channels are standardised; none where that is not needed."""
        count = self.config.first_reads(len(source))
        return source.batch(np.arange(count)) if count else ()

    def _kernels(self, few: Layers) -> State:
        """Filters of detailed patches, of channels divided by their spread; none for averaged patches."""
        if self.config.patches == "averaged":
            return {}
        kernels = random_kernels(shallow(few, self.config), self.config.neighbourhood, self.config.standardize)
        return {f"{KERNEL}{number}": kernel for number, kernel in enumerate(kernels)}

    def _cell_standards(self, few: Layers, state: State) -> State:
        """Mean and divisor of each channel of the cells at the places."""
        seen = self._seen(on_one_grid(shallow(few, self.config)), few, state)
        cell_PE = seen.movedim(1, -1).flatten(0, -2) if isinstance(seen, torch.Tensor) else torch.cat([*seen], dim=1).T
        return {"cell_mean_E": cell_PE.mean(dim=0), "cell_scale_E": self._scale(cell_PE)}

    def _learn_places(self, source: Source, state: State, seed: int, trust_N: torch.Tensor) -> State:
        """Statistics of the places and the memory of the context, of one pass over the images."""
        sample = PatchSample(source, self.config.coreset_size, seed)
        standardized = self._standardized(source, state, sample, trust_N)
        placed = fit_places(standardized, len(state["cell_mean_E"]), seed)
        deep = sample.candidates()
        return placed if deep is None else placed | remember_context(deep.patch_PD, _reach(deep, trust_N))

    def _entries(self, gathered: Candidates, seed: int, trust_N: torch.Tensor) -> State:
        """The memory, what it is standardised by, and the weights and the reach of its entries where they are not 1."""
        mean_D, scale_D = gathered.patch_PD.mean(dim=0), self._scale(gathered.patch_PD)
        candidate_PD = gathered.patch_PD.sub_(mean_D).div_(scale_D)  # in place: they are most of a fit's memory
        rows = self._coreset(candidate_PD, self.config.coreset_size, seed)
        of_candidates = {"weight_M": gathered.weight_P, "reach_M": _reach(gathered, trust_N)}
        of_entries = {name: value_P[rows] for name, value_P in of_candidates.items() if value_P is not None}
        return {"mean_D": mean_D, "scale_D": scale_D, "memory_MD": candidate_PD[rows]} | of_entries

    def _standardized(
        self, source: Source, state: State, sample: PatchSample, trust_N: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """All images' cells [B, E, h, w] at their places, and the trust in them [B], times the share of each place that
        they show [B, h, w]; deep cells are sampled too."""
        for rows in row_batches(len(source), self._fit_batch):
            layers, share_B1HW = split_share(source.batch(rows), state)
            if (deep_BChw := deep_cells(layers, self.config)) is not None:
                sample.add(rows, seen_only(deep_BChw, seen_cells(share_B1HW, deep_BChw.shape[2:])))
            shown_Bhw = shown_places(seen_cells(share_B1HW, layers[0].shape[2:]))
            weight = trust_N[rows] if shown_Bhw is None else trust_N[rows, None, None] * shown_Bhw
            yield at_places(cells(layers, self.config), state), weight

    @torch.inference_mode()
    def score(self, layers: Layers) -> Scores:
        """Distances to the nearest memory entry, per root of D so that layers of any width compare, and for a placed
        memory the geometric mean of these and the distances at the place.

        The score of an image is the mean of the highest `TOP_SHARE` of its map, or with a context of the geometric mean
        of all three distances; of an image in tiles, that of its worst tile.
        """
        # Image by image, so that every product has the same shape, and rounding, in any batch.
        ones = [tuple(layer[row : row + 1] for layer in layers) for row in range(len(layers[0]))]
        scored = [score_images(one, self.config, self._score, self._state) for one in ones]
        score_B, map_BHW = (torch.cat(parts) for parts in zip(*scored, strict=True))
        return Scores(score_B.cpu().numpy(), map_BHW.cpu().numpy())

    def scorer(self) -> nn.Module:
        """See `Exportable`."""
        return MemoryScorer(self.config, self._score, self._state)

    def state(self) -> State:
        return {name: tensor.cpu().contiguous() for name, tensor in self._state.items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> Self:
        self._state = {name: tensor.to(self.device, torch.float32) for name, tensor in state.items()}
        return self

    def _memory(self, source: Source) -> Literal["plain", "placed", "softpatch"]:
        """Memory of the training images; one image alone cannot be compared with others."""
        memory = "placed" if self.config.memory == "by_filter" else self.config.memory
        return memory if len(source.image_ids) > 1 else "plain"

    def leave_out(self) -> None:
        """See `LeavingOut`."""
        self._is_masked = True

    def _read(self, source: Source, state: State, rows: npt.NDArray[np.int64]) -> torch.Tensor | Sequence[torch.Tensor]:
        """The patches of these rows that are looked at."""
        layers = source.batch(rows)
        return self._seen(remembered(layers, self.config, state), layers, state)

    def _seen(self, patch_BDHW: torch.Tensor, layers: Layers, state: State) -> torch.Tensor | Sequence[torch.Tensor]:
        """The patches of the cells that are looked at (`seen_only`), of images with these layers."""
        _, share_B1HW = split_share(layers, state)
        return seen_only(patch_BDHW, seen_cells(share_B1HW, patch_BDHW.shape[2:]))

    def _scale(self, candidate_PD: torch.Tensor) -> torch.Tensor:
        """Divisor of each channel [D]."""
        spread_D = usable_spread(candidate_PD)
        return spread_D if self.config.standardize else torch.ones_like(spread_D)

    def _coreset(self, point_PD: torch.Tensor, count: int, seed: int) -> torch.Tensor:
        if self.config.coreset == "random":
            return random_subset(len(point_PD), count, seed).to(point_PD.device)
        return k_center(point_PD, count, seed, self.config.projection_dim)


def _of_rows(source: Source, trust: Sequence[float] | None, device: torch.device) -> torch.Tensor:
    """The trust in the image of each row of a source [N]."""
    of_images = torch.ones(len(source.image_ids)) if trust is None else torch.tensor(trust, dtype=torch.float32)
    return of_images.repeat(len(source) // len(of_images)).to(device)


def _reach(found: Candidates, trust_N: torch.Tensor) -> torch.Tensor | None:
    """Factors [P] of distances to these patches (see `patches.least_distance`); None where all images are trusted."""
    if found.row_P is None or bool((trust_N == 1).all()):
        return None
    return trust_N[found.row_P].rsqrt()
