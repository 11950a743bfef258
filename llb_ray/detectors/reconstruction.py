"""Feature reconstruction: Dinomaly (Guo et al., arXiv 2405.14325) and its convolutional relative, on cached layers.

A decoder learns to redraw what a frozen backbone says about normal images; where the direction of a redrawn vector
differs from the backbone's, the image is unusual.  Layers of one shape (a transformer's) are redrawn by linear
attention in groups, layers of different shapes (a CNN's) by convolutions, each on its own: see `decoders`.

Shapes as in `base`; L backbone layers, G groups of them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Self, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from llb_ray.config import ImportanceConfig, ReconstructionConfig
from llb_ray.detectors.base import FitLog, Layers, Report, Scores, Source, State, row_batches, silent, top_mean
from llb_ray.detectors.decoders import Decoder, Shape, attention_decoder, pyramid_decoder
from llb_ray.detectors.importance import ImportanceWeights
from llb_ray.detectors.training import descend, initialised, moments, placed, snapshot
from llb_ray.seeding import seed_for, stream

TOP_SHARE = 0.01  # of a map's cells, averaged to the image score (LLBNAD, stage 1)
RATE_BATCH = 16  # the learning rate is per 16 images (LLBNAD)
LAST_RATE_SHARE = 0.1  # of the learning rate, reached along a cosine (Dinomaly: 2e-3 to 2e-4)
PASS_SIZE = 32  # images at a time in the pass that only measures; it bounds memory
LEAST_SPREAD = 1e-3  # of the mean spread: a channel that is all but constant is left as it is


class Reconstruction:
    """Scores an image by how badly its backbone layers are redrawn; a `Detector` over the layers of a `Backbone`."""

    def __init__(
        self,
        config: ReconstructionConfig,
        steps: int,
        device: torch.device,
        importance: ImportanceConfig | None = None,
    ) -> None:
        self._config = config
        self._steps = steps
        self._device = device
        self._importance = importance
        self._network: Network | None = None
        self._log: FitLog | None = None

    def fit(self, source: Source, seed: int, report: Report = silent) -> Self:
        """Itself after `steps` optimiser steps from seeded weights; raises MemberError if the loss is not finite,
        ConfigError for a decoder that does not suit the backbone."""
        shapes = [_shape(layer) for layer in source.batch(np.zeros(1, np.int64))]
        build = partial(Network, self._config, shapes)
        network = placed(initialised(build, seed_for(seed, "reconstruction", "weights")), self._device)
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            if self._config.standardize:
                network.measure(source)
            weights = ImportanceWeights(self._importance, self._steps, self._device) if self._importance else None
            self._train(network, source, seed, report, weights)
            self._log = weights.log(self._losses(network, source)) if weights else None
        self._network = network
        return self

    def log(self) -> FitLog | None:
        """Loss and weights by step, and the weight each training image ends with; None for an unweighted loss."""
        return self._log

    @torch.inference_mode()
    def score(self, layers: Layers) -> Scores:
        """Mean over the groups of 1 - cosine, 0 to 2, on the first layer's grid; an image's score is its worst 1 %."""
        assert self._network is not None, "score needs fit or load_state first"
        map_BHW = self._network.abnormality(tuple(layer.to(self._device) for layer in layers))
        return Scores(top_mean(map_BHW, TOP_SHARE).cpu().numpy(), map_BHW.cpu().numpy())

    def state(self) -> State:
        """The decoder's weights, the channel scales, and the shapes of the layers it was made for."""
        assert self._network is not None, "state needs fit or load_state first"
        return snapshot(self._network)

    def load_state(self, state: Mapping[str, torch.Tensor]) -> Self:
        """Itself, as it was when `state` was taken."""
        shapes = [cast(Shape, tuple(row)) for row in state["shape_L3"].tolist()]
        network = initialised(partial(Network, self._config, shapes), seed=0)
        network.load_state_dict(dict(state))
        self._network = placed(network, self._device)
        self._log = None
        return self

    @torch.no_grad()
    def _losses(self, network: "Network", source: Source) -> Iterator[torch.Tensor]:
        """Every image's loss as it ends, without dropout and without mining."""
        for rows in row_batches(len(source), PASS_SIZE):
            layers = tuple(layer.to(self._device) for layer in source.batch(rows))
            yield network.loss(layers, None, 0)

    def _train(
        self, network: "Network", source: Source, seed: int, report: Report, weights: ImportanceWeights | None
    ) -> None:
        config, rng = self._config, stream(seed, "reconstruction", "batches")
        noise = torch.Generator(self._device).manual_seed(seed_for(seed, "reconstruction", "dropout"))
        batch_size = min(config.batch_size, len(source))
        optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=config.learning_rate * batch_size / RATE_BATCH,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        shape = partial(rate_share, steps=self._steps, warmup_steps=config.warmup_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
        for step in range(self._steps):
            rows = rng.choice(len(source), batch_size, replace=False)
            layers = tuple(layer.to(self._device) for layer in source.batch(rows))
            loss_B = network.loss(layers, noise, self._percentile(step))
            # The score that weighs an image is its loss of this very step: no second pass is needed.
            loss = loss_B.mean() if weights is None else weights.mean(loss_B)
            descend(network, optimizer, loss, config.gradient_norm, step)
            schedule.step()
            report(step + 1, self._steps, "step")

    def _percentile(self, step: int) -> float:
        """Below which a point counts as easy at this step: it rises linearly, for at first all points are hard."""
        ramp = self._config.hard_ramp_steps
        return self._config.hard_percentile * (min(step / ramp, 1) if ramp else 1)


class Network(nn.Module):
    """A decoder, and what makes the channels of its layers comparable."""

    shape_L3: torch.Tensor

    def __init__(self, config: ReconstructionConfig, shapes: Sequence[Shape]) -> None:
        super().__init__()
        self._hard_factor = config.hard_factor
        self._side = config.neighbourhood
        self.decoder = _decoder(config, shapes)
        self.scale_C = nn.ParameterList(nn.Parameter(torch.ones(shape[0]), requires_grad=False) for shape in shapes)
        self.register_buffer("shape_L3", torch.tensor(shapes))

    @torch.no_grad()
    def measure(self, source: Source) -> None:
        """Learn the spread of each channel of each layer."""
        for index, scale_C in enumerate(self.scale_C):
            spread_C = moments(_cells(source, index, self._side))[1].sqrt()
            usable_C = spread_C > LEAST_SPREAD * spread_C.mean()
            scale_C.copy_(torch.where(usable_C, spread_C, torch.ones_like(spread_C)))

    def loss(self, layers: Layers, noise: torch.Generator | None, percentile: float) -> torch.Tensor:
        """Each image's loss [B]: mean over groups of 1 - cosine of the flattened maps; an image weighs by its mean.

        The gradient of points easier than the batch's `percentile` is multiplied by the configured factor.
        """
        loss_GB = []
        for target, redrawn in self._pairs(layers, noise):
            mined = _mined(target, redrawn, percentile, self._hard_factor) if percentile > 0 else redrawn
            loss_GB.append(1 - functional.cosine_similarity(target.flatten(1), mined.flatten(1)))
        return torch.stack(loss_GB).mean(dim=0)

    def abnormality(self, layers: Layers) -> torch.Tensor:
        """1 - cosine of each cell [B, H, W], its mean over the groups, on the first layer's grid."""
        size = layers[0].shape[-2:]
        maps_B1HW = [_distance(*pair)[:, None] for pair in self._pairs(layers, None)]
        large_B1HW = [functional.interpolate(one, size, mode="bilinear", align_corners=False) for one in maps_B1HW]
        return torch.stack(large_B1HW).mean(dim=0)[:, 0]

    def _pairs(self, layers: Layers, noise: torch.Generator | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """What is to be redrawn and what is made of it, group by group."""
        level = tuple(
            _averaged(layer, self._side) / scale_C[:, None, None]
            for layer, scale_C in zip(layers, self.scale_C, strict=True)
        )
        return zip(self.decoder.targets(level), self.decoder.redrawn(level, noise), strict=True)


def rate_share(step: int, steps: int, warmup_steps: int) -> float:
    """Share of the learning rate at a step: a linear warm-up, then a cosine down to `LAST_RATE_SHARE`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return LAST_RATE_SHARE + (1 - LAST_RATE_SHARE) * (1 + math.cos(math.pi * progress)) / 2


def _mined(target: torch.Tensor, redrawn: torch.Tensor, percentile: float, factor: float) -> torch.Tensor:
    """`redrawn`, the same in value, with the gradient of easy points multiplied by `factor` (hard mining, Dinomaly)."""
    with torch.no_grad():
        distance_BHW = _distance(target, redrawn)
        num_hard = max(1, round(distance_BHW.numel() * (1 - percentile)))
        easy_B1HW = (distance_BHW < distance_BHW.flatten().topk(num_hard).values[-1])[:, None]
    return torch.where(easy_B1HW, factor * redrawn + (1 - factor) * redrawn.detach(), redrawn)


def _decoder(config: ReconstructionConfig, shapes: Sequence[Shape]) -> Decoder:
    """Attention where all layers have one shape, else convolutions."""
    if len(set(shapes)) == 1:
        return attention_decoder(shapes, config.groups, config.decoder_depth, config.dropout)
    return pyramid_decoder(shapes, config.groups, config.channels, config.decoder_depth, config.dropout)


def _distance(target: torch.Tensor, redrawn: torch.Tensor) -> torch.Tensor:
    """1 - cosine between the vectors of each cell [B, H, W]."""
    return 1 - functional.cosine_similarity(target, redrawn, dim=1)


def _averaged(layer_BCHW: torch.Tensor, side: int) -> torch.Tensor:
    """Each cell's mean over its neighbourhood, as in PatchCore: fine texture, which no decoder can redraw, fades."""
    return functional.avg_pool2d(layer_BCHW, side, stride=1, padding=side // 2, count_include_pad=False)


def _cells(source: Source, index: int, side: int) -> Iterator[torch.Tensor]:
    """The vectors [P, C] of one layer over all images, a few images at a time."""
    for rows in row_batches(len(source), PASS_SIZE):
        yield _averaged(source.batch(rows)[index], side).movedim(1, -1).flatten(0, 2)


def _shape(layer: torch.Tensor) -> Shape:
    _, channels, height, width = layer.shape
    return channels, height, width
