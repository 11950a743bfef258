"""A small autoencoder trained from scratch: the detector that needs no pretrained weights.

It learns to redraw the training images through a bottleneck; where it fails, the image is unusual.  It models the
*difference* from the mean training image, which a sub-model of few steps would otherwise spend its time on.  A map
cell is measured against the errors that training images had in that cell (as PaDiM measures features, arXiv
2011.08785), so that edges, always hard to redraw, are not called defects.  The price: a fault that recurs in the
training images widens the spread it is measured by, which is one way that contamination hurts.

Shapes as in `base`, C being 3 (RGB) or the number of bands; pixels are 0..255 outside the network and unit-free,
centred and scaled, inside it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.optim import Optimizer

from llb_ray.config import Size
from llb_ray.detectors.autoencoder_config import AutoencoderConfig
from llb_ray.detectors.base import Layers, MapScorer, Scores, Source
from llb_ray.detectors.data_parallel import Turn
from llb_ray.detectors.gradient_detector import GradientDetector, moments
from llb_ray.detectors.tiles import WorstTile
from llb_ray.detectors.train_step import cosine_share

TOP_SHARE = 0.01  # of a map's cells, averaged to the image score (LLBNAD, stage 1)
LAST_RATE_SHARE = 0.05  # of the learning rate, reached along a cosine: the last steps settle, they do not wander
GREY_LEVEL = 1.0  # least scale, so that identical training images do not divide by zero
PASS_CHANNELS = 64 * 48  # of all images at a time in a pass that only measures: 200 bands take memory
LEAST_SPREAD = 1e-4  # of a cell's error, in squared units of the scale; ordinary spreads are hundreds of times that


class Pixels:
    """The encoder of a detector that learns from pixels: the identity, cached as bytes."""

    cache_dtypes: tuple[torch.dtype, ...] = (torch.uint8,)

    def __init__(self, image_size_px: int | Size, device: torch.device) -> None:
        self.image_size_px = image_size_px
        self._device = device

    def fingerprint(self) -> Mapping[str, Any]:
        """The size alone: there are no weights."""
        return {"encoder": "pixels", "image_size_px": self.image_size_px}

    def network(self) -> nn.Module:
        """The identity, as floats."""
        return _Identity()

    def encode(self, image_BCHW: torch.Tensor) -> Layers:
        """One layer [B, C, H, W], the image itself as float32 from 0 to 255."""
        return (image_BCHW.to(self._device).float(),)


class _Identity(nn.Module):
    def forward(self, image_BCHW: torch.Tensor) -> Layers:
        return (image_BCHW.float(),)


class Autoencoder(GradientDetector[AutoencoderConfig, "_Network"]):
    """Scores an image by how badly it is redrawn; a `Detector` over the layers of `Pixels`."""

    name = "autoencoder"
    pass_size = 64
    _gradient_norm = 1.0

    @torch.inference_mode()
    def score(self, layers: Layers) -> Scores:
        """Standard deviations above the usual error, per cell of two pixels; an image's score is its worst 1 %."""
        map_BHW = self._network(*self._ready(layers))
        return Scores(self._score(map_BHW).cpu().numpy(), map_BHW.cpu().numpy())

    @property
    def _score(self) -> WorstTile:
        return WorstTile(self._config, TOP_SHARE)

    def scorer(self) -> nn.Module:
        """See `Exportable`."""
        return MapScorer(self._network, self._score)

    def _network_for(self, layers: Layers) -> "_Network":
        return _Network(self._config, num_channels=layers[0].shape[1])

    def _network_of(self, state: Mapping[str, torch.Tensor]) -> "_Network":
        return _Network(self._config, num_channels=len(state["mean_3HW"]))

    def _optimizer(self, network: "_Network", batch_size: int) -> Optimizer:
        return torch.optim.Adam(network.parameters(), lr=self._config.learning_rate)

    def _rate_share(self, step: int) -> float:
        return cosine_share(step, self._steps, warmup_steps=0, last=LAST_RATE_SHARE)

    def _losses(self, network: "_Network", layers: Layers, step: int, turn: Turn) -> torch.Tensor:
        return network.loss(*layers)

    def _plain_losses(self, network: "_Network", layers: Layers) -> torch.Tensor:
        return network.loss(*layers)

    def _measure_before(self, network: "_Network", source: Source) -> None:
        network.measure_pixels(image for (image,) in self._passes(network, source))

    def _measure_after(self, network: "_Network", source: Source) -> None:
        network.measure_errors(image for (image,) in self._passes(network, source))

    def _pass_size(self, network: "_Network") -> int:
        return max(1, min(self.pass_size, PASS_CHANNELS // len(network.mean_3HW)))

    def _ready(self, layers: Layers) -> Layers:
        return tuple(layer.to(self._device, memory_format=torch.channels_last) for layer in layers)


class _Network(nn.Module):
    """Encoder and decoder around a vector, and what was measured on the training images."""

    mean_3HW: torch.Tensor  # [C, H, W]: its name is part of the files of runs that knew RGB alone
    scale: torch.Tensor
    usual_HW: torch.Tensor
    spread_HW: torch.Tensor

    def __init__(self, config: AutoencoderConfig, num_channels: int) -> None:
        super().__init__()
        size, cells = config.size, [side // 2 for side in config.size]
        self.redraw = _layers(num_channels, config.channels, config.latent_dim, [side // 8 for side in size])
        self.register_buffer("mean_3HW", torch.zeros(num_channels, *size))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("usual_HW", torch.zeros(*cells))
        self.register_buffer("spread_HW", torch.ones(*cells))

    def loss(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """Mean squared error of each image [B], in units of the scale."""
        return self._squared_error(image_BCHW).mean(dim=(1, 2, 3))

    @torch.no_grad()
    def measure_pixels(self, batches: Iterable[torch.Tensor]) -> None:
        """Learn the mean image, and one scale for all pixels (each its own would drown defects in quiet places)."""
        mean_CHW, variance_CHW = moments(batches)
        self.mean_3HW.copy_(mean_CHW)
        self.scale.copy_(variance_CHW.mean().sqrt().clamp(min=GREY_LEVEL))

    @torch.no_grad()
    def measure_errors(self, batches: Iterable[torch.Tensor]) -> None:
        """Learn the usual error of each cell and its spread, both averaged over near cells, for want of data."""
        mean_HW, variance_HW = moments(self._error_map(batch) for batch in batches)
        self.usual_HW.copy_(_blurred(mean_HW))
        self.spread_HW.copy_(_blurred(variance_HW).sqrt().clamp(min=LEAST_SPREAD))

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """Each cell's error [B, H/2, W/2], in standard deviations above what is usual there."""
        return (self._error_map(image_BCHW) - self.usual_HW) / self.spread_HW

    def _squared_error(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        centred_BCHW = (image_BCHW - self.mean_3HW) / self.scale
        redrawn_BCHW: torch.Tensor = self.redraw(centred_BCHW)
        return (redrawn_BCHW - centred_BCHW).square()

    def _error_map(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        error_B1HW = self._squared_error(image_BCHW).mean(dim=1, keepdim=True)
        pooled = functional.avg_pool2d(error_B1HW, kernel_size=4, stride=2, padding=1, count_include_pad=False)
        return pooled[:, 0]


def _layers(num_channels: int, channels: int, latent_dim: int, grid: Sequence[int]) -> nn.Sequential:
    """Patches of 4 px, then of 8, then one vector, and back; unshuffling is far quicker on a CPU than strides."""
    return nn.Sequential(
        *(nn.PixelUnshuffle(4), nn.Conv2d(16 * num_channels, channels, 1), nn.LeakyReLU(0.1)),
        *(nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, 2 * channels, 1), nn.LeakyReLU(0.1)),
        *(nn.Conv2d(2 * channels, channels, 3, padding=1), nn.LeakyReLU(0.1)),
        *(nn.Flatten(), nn.Linear(channels * math.prod(grid), latent_dim)),
        *(nn.Linear(latent_dim, channels * math.prod(grid)), nn.LeakyReLU(0.1), nn.Unflatten(1, (channels, *grid))),
        *(nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.LeakyReLU(0.1)),
        *(nn.Conv2d(2 * channels, 4 * channels, 1), nn.PixelShuffle(2), nn.LeakyReLU(0.1)),
        *(nn.Conv2d(channels, 16 * num_channels, 1), nn.PixelShuffle(4)),
    )


def _blurred(map_HW: torch.Tensor) -> torch.Tensor:
    """The map averaged over 5 x 5 cells."""
    padded = functional.pad(map_HW[None, None], (2, 2, 2, 2), mode="replicate")
    return functional.avg_pool2d(padded, kernel_size=5, stride=1)[0, 0]
