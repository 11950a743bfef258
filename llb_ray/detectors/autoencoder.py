"""A small autoencoder trained from scratch: the detector that needs no pretrained weights.

It learns to redraw the training images through a bottleneck; where it fails, the image is unusual.  It models the
*difference* from the mean training image, which a sub-model of few steps would otherwise spend its time on.  A map
cell is measured against the errors that training images had in that cell (as PaDiM measures features, arXiv
2011.08785), so that edges, always hard to redraw, are not called defects.  The price: a fault that recurs in the
training images widens the spread it is measured by, which is one way that contamination hurts.

Shapes as in `base`; pixels are 0..255 outside the network and unit-free, centred and scaled, inside it.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional

from llb_ray.config import AutoencoderConfig, ImportanceConfig
from llb_ray.detectors.base import FitLog, Layers, Report, Scores, Source, State, row_batches, silent, top_mean
from llb_ray.detectors.importance import ImportanceWeights
from llb_ray.detectors.training import descend, initialised, moments, placed, snapshot
from llb_ray.seeding import seed_for, stream

GRADIENT_NORM = 1.0
TOP_SHARE = 0.01  # of a map's cells, averaged to the image score (LLBNAD, stage 1)
LAST_RATE_SHARE = 0.05  # of the learning rate, reached along a cosine: the last steps settle, they do not wander
GREY_LEVEL = 1.0  # least scale, so that identical training images do not divide by zero
LEAST_SPREAD = 1e-4  # of a cell's error, in squared units of the scale; ordinary spreads are hundreds of times that
PASS_SIZE = 64  # images at a time in the passes that only measure; it bounds memory


class Pixels:
    """The encoder of a detector that learns from pixels: the identity, cached as bytes."""

    cache_dtypes: tuple[torch.dtype, ...] = (torch.uint8,)

    def __init__(self, image_size_px: int, device: torch.device) -> None:
        self.image_size_px = image_size_px
        self._device = device

    def fingerprint(self) -> Mapping[str, Any]:
        """The size alone: there are no weights."""
        return {"encoder": "pixels", "image_size_px": self.image_size_px}

    def encode(self, image_B3HW: torch.Tensor) -> Layers:
        """One layer [B, 3, H, W], the image itself as float32 from 0 to 255."""
        return (image_B3HW.to(self._device).float(),)


class Autoencoder:
    """Scores an image by how badly it is redrawn; a `Detector` over the layers of `Pixels`."""

    def __init__(
        self,
        config: AutoencoderConfig,
        steps: int,
        device: torch.device,
        importance: ImportanceConfig | None = None,
    ) -> None:
        self._config = config
        self._steps = steps
        self._device = device
        self._importance = importance
        self._network: _Network | None = None
        self._log: FitLog | None = None

    def fit(self, source: Source, seed: int, report: Report = silent) -> Self:
        """Itself after `steps` optimiser steps from seeded weights; raises MemberError if the loss is not finite."""
        build = partial(_Network, self._config)
        network = placed(initialised(build, seed_for(seed, "autoencoder", "weights")), self._device)
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            network.measure_pixels(self._passes(source))
            weights = self._weights()
            self._train(network, source, seed, report, weights)
            network.measure_errors(self._passes(source))
            with torch.no_grad():
                self._log = weights.log(map(network.loss, self._passes(source))) if weights else None
        self._network = network
        return self

    @torch.inference_mode()
    def score(self, layers: Layers) -> Scores:
        """Standard deviations above the usual error, per cell of two pixels; an image's score is its worst 1 %."""
        assert self._network is not None, "score needs fit or load_state first"
        map_BHW = self._network.abnormality(self._ready(layers))
        return Scores(top_mean(map_BHW, TOP_SHARE).cpu().numpy(), map_BHW.cpu().numpy())

    def state(self) -> State:
        """The weights, the mean image, the scale and each cell's usual error."""
        assert self._network is not None, "state needs fit or load_state first"
        return snapshot(self._network)

    def load_state(self, state: Mapping[str, torch.Tensor]) -> Self:
        """Itself, as it was when `state` was taken."""
        network = initialised(partial(_Network, self._config), seed=0)
        network.load_state_dict(dict(state))
        self._network = placed(network, self._device)
        self._log = None
        return self

    def log(self) -> FitLog | None:
        """Loss and weights by step, and the weight each training image ends with; None for an unweighted loss."""
        return self._log

    def _weights(self) -> ImportanceWeights | None:
        return ImportanceWeights(self._importance, self._steps, self._device) if self._importance else None

    def _train(
        self, network: "_Network", source: Source, seed: int, report: Report, weights: ImportanceWeights | None
    ) -> None:
        rng = stream(seed, "autoencoder", "batches")
        optimizer = torch.optim.Adam(network.parameters(), lr=self._config.learning_rate)
        least = LAST_RATE_SHARE * self._config.learning_rate
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self._steps, least)
        batch_size = min(self._config.batch_size, len(source))
        for step in range(self._steps):
            rows = rng.choice(len(source), batch_size, replace=False)
            loss_B = network.loss(self._ready(source.batch(rows)))
            # The score that weighs an image is its loss of this very step: no second pass is needed.
            loss = loss_B.mean() if weights is None else weights.mean(loss_B)
            descend(network, optimizer, loss, GRADIENT_NORM, step)
            schedule.step()
            report(step + 1, self._steps, "step")

    def _passes(self, source: Source) -> Iterable[torch.Tensor]:
        """All images of the source once, a few at a time."""
        return (self._ready(source.batch(rows)) for rows in row_batches(len(source), PASS_SIZE))

    def _ready(self, layers: Layers) -> torch.Tensor:
        return layers[0].to(self._device, memory_format=torch.channels_last)


class _Network(nn.Module):
    """Encoder and decoder around a vector, and what was measured on the training images."""

    mean_3HW: torch.Tensor
    scale: torch.Tensor
    usual_HW: torch.Tensor
    spread_HW: torch.Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        size, cells = config.image_size_px, config.image_size_px // 2
        self.redraw = _layers(config.channels, config.latent_dim, size // 8)
        self.register_buffer("mean_3HW", torch.zeros(3, size, size))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("usual_HW", torch.zeros(cells, cells))
        self.register_buffer("spread_HW", torch.ones(cells, cells))

    def loss(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        """Mean squared error of each image [B], in units of the scale."""
        return self._squared_error(image_B3HW).mean(dim=(1, 2, 3))

    @torch.no_grad()
    def measure_pixels(self, batches: Iterable[torch.Tensor]) -> None:
        """Learn the mean image, and one scale for all pixels (each its own would drown defects in quiet places)."""
        mean_3HW, variance_3HW = moments(batches)
        self.mean_3HW.copy_(mean_3HW)
        self.scale.copy_(variance_3HW.mean().sqrt().clamp(min=GREY_LEVEL))

    @torch.no_grad()
    def measure_errors(self, batches: Iterable[torch.Tensor]) -> None:
        """Learn the usual error of each cell and its spread, both averaged over near cells, for want of data."""
        mean_HW, variance_HW = moments(self._error_map(batch) for batch in batches)
        self.usual_HW.copy_(_blurred(mean_HW))
        self.spread_HW.copy_(_blurred(variance_HW).sqrt().clamp(min=LEAST_SPREAD))

    def abnormality(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        """Each cell's error [B, H/2, W/2], in standard deviations above what is usual there."""
        return (self._error_map(image_B3HW) - self.usual_HW) / self.spread_HW

    def _squared_error(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        centred_B3HW = (image_B3HW - self.mean_3HW) / self.scale
        redrawn_B3HW: torch.Tensor = self.redraw(centred_B3HW)
        return (redrawn_B3HW - centred_B3HW).square()

    def _error_map(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        error_B1HW = self._squared_error(image_B3HW).mean(dim=1, keepdim=True)
        pooled = functional.avg_pool2d(error_B1HW, kernel_size=4, stride=2, padding=1, count_include_pad=False)
        return pooled[:, 0]


def _layers(channels: int, latent_dim: int, side: int) -> nn.Sequential:
    """Patches of 4 px, then of 8, then one vector, and back; unshuffling is far quicker on a CPU than strides."""
    return nn.Sequential(
        *(nn.PixelUnshuffle(4), nn.Conv2d(48, channels, 1), nn.LeakyReLU(0.1)),
        *(nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, 2 * channels, 1), nn.LeakyReLU(0.1)),
        *(nn.Conv2d(2 * channels, channels, 3, padding=1), nn.LeakyReLU(0.1)),
        *(nn.Flatten(), nn.Linear(channels * side * side, latent_dim)),
        *(nn.Linear(latent_dim, channels * side * side), nn.LeakyReLU(0.1), nn.Unflatten(1, (channels, side, side))),
        *(nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.LeakyReLU(0.1)),
        *(nn.Conv2d(2 * channels, 4 * channels, 1), nn.PixelShuffle(2), nn.LeakyReLU(0.1)),
        *(nn.Conv2d(channels, 48, 1), nn.PixelShuffle(4)),
    )


def _blurred(map_HW: torch.Tensor) -> torch.Tensor:
    """The map averaged over 5 x 5 cells."""
    padded = functional.pad(map_HW[None, None], (2, 2, 2, 2), mode="replicate")
    return functional.avg_pool2d(padded, kernel_size=5, stride=1)[0, 0]
