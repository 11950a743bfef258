"""The patches that a memory's coreset is chosen from, and which of contaminated images' are left out.

Shapes: N rows (images, then copies of all of them), L cells, P candidates, D patch dimensions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from llb_ray.detectors.base import Report, Source, row_batches
from llb_ray.detectors.local_outlier_factor import mutual_factors
from llb_ray.seeding import stream

# Patches of some rows [B, D, H, W]; image by image [D, Q] where they are of the cells that are looked at.
Patches = torch.Tensor | Sequence[torch.Tensor]
Read = Callable[[npt.NDArray[np.int64]], Patches]
SOFTPATCH_NEIGHBOURS, SOFTPATCH_LEFT_OUT = 6, 0.15  # as published
_SPARE = 1.5  # times the candidates: patches that are looked at for the good ones among them


class Candidates(NamedTuple):
    """Patches, the row of the source that each is of, and what distances to it are multiplied by once it is nearest."""

    patch_PD: torch.Tensor
    row_P: torch.Tensor | None = None  # None: drawn from all of them
    weight_P: torch.Tensor | None = None


class PatchSample:
    """At most `wanted` patches, the same number from each row of a source (give or take one)."""

    def __init__(self, source: Source, wanted: int, seed: int) -> None:
        self._image_ids, self._seed = source.image_ids, seed
        self._quota_N = _quotas(len(source), wanted, seed)
        self._row_P = torch.empty(int(self._quota_N.sum()), dtype=torch.int64)
        self._patch_PD: torch.Tensor | None = None
        self._count = 0  # of them that are filled in

    def add(self, rows: npt.NDArray[np.int64], patches: Patches) -> None:
        """Take the share of these rows from their patches."""
        for row, patch_DHW in zip(rows, patches, strict=True):
            copy, image = divmod(int(row), len(self._image_ids))
            quota = int(self._quota_N[row])
            self._keep(sample_patches(patch_DHW, quota, self._seed, self._image_ids[image], copy), int(row))

    def _keep(self, patch_KD: torch.Tensor, row: int) -> None:
        """In one tensor from the start: a small one for each of many images would leave the heap full of holes."""
        if self._patch_PD is None:
            self._patch_PD = patch_KD.new_empty((len(self._row_P), patch_KD.shape[1]))
        stop = self._count + len(patch_KD)
        self._patch_PD[self._count : stop] = patch_KD
        self._row_P[self._count : stop] = row
        self._count = stop

    def candidates(self) -> Candidates | None:
        """The patches with their rows; None where nothing was added."""
        if self._patch_PD is None:
            return None
        return Candidates(self._patch_PD[: self._count], self._row_P[: self._count].to(self._patch_PD.device))


def every(read: Read, source: Source, wanted: int, seed: int, report: Report, batch: int) -> Candidates:
    """At most so many patches, the same number from each row (give or take one); `batch` rows are read at once."""
    sample = PatchSample(source, wanted, seed)
    for rows in row_batches(len(source), batch):
        sample.add(rows, read(rows))
        report(int(rows[-1]) + 1, len(source), "images")
    found = sample.candidates()
    assert found is not None, "a source has rows"
    return found


def softpatch(read: Read, source: Source, wanted: int, seed: int, report: Report, batch: int) -> Candidates:
    """At most so many patches with their outlier factors for weights, without the worst 15 % (arXiv 2403.14233)."""
    patch_NLD = _at_common_cells(read, source, wanted, seed, report, batch)
    factor_NL = mutual_factors(patch_NLD, len(source.image_ids), SOFTPATCH_NEIGHBOURS)
    # Sorted: torch's own quantile takes no more than 16 million values.
    threshold = factor_NL.flatten().sort().values[math.ceil((1 - SOFTPATCH_LEFT_OUT) * factor_NL.numel()) - 1]
    return _drawn(patch_NLD, factor_NL <= threshold, factor_NL.exp(), wanted, seed)


GATHER: Mapping[
    Literal["plain", "placed", "softpatch"], Callable[[Read, Source, int, int, Report, int], Candidates]
] = {
    "plain": every,
    "placed": every,
    "softpatch": softpatch,
}


def _drawn(
    patch_NLD: torch.Tensor, good_NL: torch.Tensor, weight_NL: torch.Tensor | None, wanted: int, seed: int
) -> Candidates:
    """As many of the good ones as are wanted, drawn at random."""
    drawn = stream(seed, "dense").permutation(int(good_NL.sum()))[:wanted]
    row_P = torch.from_numpy(drawn).sort().values.to(patch_NLD.device)
    weight_P = None if weight_NL is None else weight_NL[good_NL][row_P]
    return Candidates(patch_NLD[good_NL][row_P], weight_P=weight_P)


def _at_common_cells(read: Read, source: Source, wanted: int, seed: int, report: Report, batch: int) -> torch.Tensor:
    """Every row's patches [N, L, D] at the same L cells, drawn at random: `_SPARE` times what is wanted."""
    num_cells = math.ceil(_SPARE * wanted / len(source))
    cell_L: torch.Tensor | None = None
    parts = []
    for rows in row_batches(len(source), batch):
        patches = read(rows)
        # The same cells are looked at in all images: `ignored_pixels.refuse_common_cells` allows no others.
        patch_BDHW = patches if isinstance(patches, torch.Tensor) else torch.stack([*patches])
        patch_BQD = patch_BDHW.flatten(2).transpose(1, 2)
        if cell_L is None:
            drawn = np.sort(stream(seed, "cells").permutation(patch_BQD.shape[1])[:num_cells])
            cell_L = torch.from_numpy(drawn).to(patch_BQD.device)
        parts.append(patch_BQD[:, cell_L])
        report(int(rows[-1]) + 1, len(source), "images")
    return torch.cat(parts)


def _quotas(num_images: int, candidates: int, seed: int) -> npt.NDArray[np.int64]:
    """Number of patches to take from each row [N]: equal shares, the remainder to rows drawn at random."""
    quota_N = np.full(num_images, candidates // num_images)
    quota_N[stream(seed, "candidates").choice(num_images, candidates % num_images, replace=False)] += 1
    return quota_N


def sample_patches(patch_DHW: torch.Tensor, quota: int, seed: int, image_id: str, copy: int) -> torch.Tensor:
    """`quota` patches [quota, D] of one image, or all where there are fewer; each copy of it gives other cells."""
    patch_QD = patch_DHW.flatten(1).T
    rows = np.roll(stream(seed, "candidates", image_id).permutation(len(patch_QD)), -copy * quota)[:quota]
    return patch_QD[torch.from_numpy(rows).to(patch_QD.device)]
