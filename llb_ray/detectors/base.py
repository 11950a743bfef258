"""The detector protocol, the orientation of scores, the names of shapes.

Orientation: **anomaly scores and maps rise with abnormality, everywhere in llb_ray.**

Shape suffixes: N images, B batch, C channels, H x W cells of a layer or map, P patches, D patch dimensions,
M memory entries, K members.  ``layer_BCHW`` is one tensor of frozen encoder output, ``map_NHW`` an anomaly map.

A picture reaches a detector as `Layers`: the frozen encoder's outputs.  The encoder of a detector that learns
from pixels is the identity; that of a memory bank is a pretrained backbone.  Encoders run once per image and
their output is cached, so a detector never sees a path, a label or a file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from llb_ray.config import Size
from llb_ray.detectors.data_parallel import ALONE, ProcessGroup

Layers = tuple[torch.Tensor, ...]  # one BCHW tensor per layer, float32, on the detector's device
State = dict[str, torch.Tensor]
NO_FIGURES: Mapping[str, float] = MappingProxyType({})


class Report(Protocol):
    """Called as work goes on, with what is there to be watched: loss, effective_sample_size."""

    def __call__(self, done: int, total: int, unit: str, figures: Mapping[str, float] = NO_FIGURES) -> None: ...


def silent(done: int, total: int, unit: str, figures: Mapping[str, float] = NO_FIGURES) -> None:
    """A no-op progress callback."""


@dataclass(frozen=True)
class Scores:
    """Anomaly scores of a batch: one per image and one per map cell, float32 on the CPU."""

    score_N: npt.NDArray[np.float32]
    map_NHW: npt.NDArray[np.float32]  # at the detector's own resolution; `upsample` brings it to pixels


@dataclass(frozen=True)
class FitLog:
    """Notes of a fit besides its state, as columns by name; the same bytes for the same fit."""

    steps: Mapping[str, npt.NDArray[Any]]  # one row per optimiser step
    images: Mapping[str, npt.NDArray[Any]]  # one row per training image, in the source's order; none of a plain mean


class Encoder(Protocol):
    """The frozen part in front of a detector; runs once per image."""

    image_size_px: int | Size
    cache_dtypes: tuple[torch.dtype, ...]  # what each layer is stored as: uint8 pixels, float16 features

    def fingerprint(self) -> Mapping[str, Any]:
        """Everything its output depends on, JSON-ready: settings and the digest of the weights."""

    def network(self) -> nn.Module:
        """uint8 images [B, C, H, W] to layers, unchecked and not rounded, as one module that can be exported."""

    def encode(self, image_BCHW: torch.Tensor) -> Layers:
        """Layers for uint8 images, of RGB unless it takes any bands; the same image gives the same layers in any
        batch, within float noise."""


class Source(Protocol):
    """Random access to the layers of a fixed list of images, and of augmented copies of them.

    It has image_ids x copies rows: first the plain images in the order of `image_ids`, then copy after copy of all of
    them in that order.  Learning and measuring use every row; what is said of an image, its plain row.
    """

    @property
    def image_ids(self) -> Sequence[str]: ...

    def __len__(self) -> int:
        """Number of rows, a multiple of the number of images."""

    def batch(self, rows: npt.NDArray[np.int64]) -> Layers:
        """Layers of the images at `rows`, float32, in that order."""


class Checkpoints(Protocol):
    """Storage for one fit's progress; its owner ensures that settings, source and seed are the same."""

    def load(self) -> State | None:
        """The last saved state; None for a fit that starts."""

    def due(self, num_done: int) -> bool:
        """True if to save now, `num_done` steps after the start."""

    def save(self, state: State) -> None:
        """Keep a state, as named CPU tensors (safetensors-ready), instead of the one before."""


class Detector(Protocol):
    """Learns what is normal from a `Source`; construct with settings, `fit` or `load_state`, then `score`."""

    def fit(
        self,
        source: Source,
        seed: int,
        report: Report = silent,
    ) -> Self:
        """Itself, fitted; a pure function of settings, source and seed (bit-equal on one machine and thread count)."""

    def score(self, layers: Layers) -> Scores:
        """Scores of a batch; does not change the detector, and depends on neither batch size nor order, but for
        rounding (tests allow 1e-4 of a score)."""

    def state(self) -> State:
        """Everything learnt, as named CPU tensors (safetensors-ready)."""

    def load_state(self, state: Mapping[str, torch.Tensor]) -> Self:
        """Itself, as it was when `state` was taken."""


class SteppedDetector(Detector, Protocol):
    """A detector whose settings say `trains_by_gradient`: its fits can be resumed, shared by workers, and watched."""

    def fit(
        self,
        source: Source,
        seed: int,
        report: Report = silent,
        checkpoints: Checkpoints | None = None,
        peers: ProcessGroup = ALONE,
    ) -> Self:
        """Itself, fitted: the same from whichever of the checkpoints it goes on.

        Every one of `peers` makes the same call; how many there are moves the result within float noise.
        """

    def log(self) -> FitLog | None:
        """The log of the last `fit`; None where there was nothing to note, and after `load_state`."""


class WeighingDetector(Detector, Protocol):
    """A detector whose settings say `weighs_images`: it can learn less from some images than from others."""

    def fit(self, source: Source, seed: int, report: Report = silent, trust: Sequence[float] | None = None) -> Self:
        """Itself, fitted; `trust` in each of the source's images is in (0, 1], None: 1 of all."""


class LeavingOut(Detector, Protocol):
    """A detector whose settings say `leaves_out`: it can do without regions of images."""

    def leave_out(self) -> None:
        """Take layers that end with the share of each cell that is ignored (`inspected`) from the next `fit` on.

        Nothing is learnt from cells that are mostly ignored, and none of them decides a score; the state says so.
        """


@runtime_checkable
class Exportable(Protocol):
    """A detector that can be exported to other runtimes."""

    def scorer(self) -> nn.Module:
        """Layers to what `score` says of them, score [B] and map [B, H, W], as one module."""


def row_batches(num_rows: int, batch_size: int) -> Iterator[npt.NDArray[np.int64]]:
    """Consecutive row numbers in chunks of at most `batch_size`."""
    for start in range(0, num_rows, batch_size):
        yield np.arange(start, min(start + batch_size, num_rows))


def upsample(map_NHW: npt.NDArray[np.float32], size: Size, sigma_px: float) -> npt.NDArray[np.float32]:
    """Anomaly maps at `size`: bilinear, then a Gaussian of `sigma_px` (LLBNAD and PatchCore: 4)."""
    from scipy.ndimage import gaussian_filter

    map_N1HW = torch.tensor(map_NHW)[:, None]  # a copy: memory-mapped maps are read-only
    large_NHW = functional.interpolate(map_N1HW, size=size, mode="bilinear", align_corners=False)[:, 0].numpy()
    smooth: npt.NDArray[np.float32] = gaussian_filter(large_NHW, sigma=(0, sigma_px, sigma_px))
    return smooth


def top_mean(map_NHW: torch.Tensor, share: float) -> torch.Tensor:
    """Image scores [N]: the mean of the highest `share` of each map's cells, at least one cell (LLBNAD: 1 %)."""
    flat = map_NHW.flatten(1)
    count = max(1, round(share * flat.shape[1]))
    return flat.topk(count, dim=1).values.mean(dim=1)


class MapScorer(nn.Module):
    """A network that draws maps, and the image score made of them."""

    def __init__(self, network: nn.Module, score: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.network = network
        self._score = score

    def forward(self, *layers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score [B] and map [B, H, W]."""
        map_BHW = self.network(*layers)
        return self._score(map_BHW), map_BHW
