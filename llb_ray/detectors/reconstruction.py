"""Feature reconstruction: Dinomaly (Guo et al., arXiv 2405.14325) and its convolutional relative, on cached layers.

A decoder learns to redraw what a frozen backbone says about normal images; where the direction of a redrawn vector
differs from the backbone's, the image is unusual.  Layers of one shape (a transformer's) are redrawn by linear
attention in groups, layers of different shapes (a CNN's) by convolutions, each on its own: see `decoders`.

Shapes as in `base`; L backbone layers, G groups of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import nn
from torch.nn import functional
from torch.optim import Optimizer

from llb_ray.detectors.base import Layers, MapScorer, Scores, Source
from llb_ray.detectors.data_parallel import Turn
from llb_ray.detectors.decoders import AttentionDecoder, Decoder, Shape, attention_decoder, pyramid_decoder
from llb_ray.detectors.gradient_detector import GradientDetector, moments
from llb_ray.detectors.reconstruction_config import ReconstructionConfig
from llb_ray.detectors.tiles import WorstTile
from llb_ray.detectors.train_step import cosine_share

TOP_SHARE = 0.01  # of a map's cells, averaged to the image score (LLBNAD, stage 1)
RATE_BATCH = 16  # the learning rate is per 16 images (LLBNAD)
LAST_RATE_SHARE = 0.1  # of the learning rate, reached along a cosine (Dinomaly: 2e-3 to 2e-4)
LEAST_SPREAD = 1e-3  # of the mean spread: a channel that is all but constant is left as it is


class Reconstruction(GradientDetector[ReconstructionConfig, "Network"]):
    """Scores an image by how badly its backbone layers are redrawn; a `Detector` over the layers of a `Backbone`."""

    name = "reconstruction"
    pass_size = 32

    @property
    def _gradient_norm(self) -> float:
        return self._config.gradient_norm

    def suits(self, layers: Layers) -> list[str]:
        """One sentence for each setting without effect on such layers; raises ConfigError if no decoder fits them."""
        with torch.device("meta"):
            decoder = self._network_for(layers).decoder
        idle = isinstance(decoder, AttentionDecoder) and "channels" in self._config.model_fields_set
        return ["detector.channels has no effect: a transformer's decoder is as wide as it is"] if idle else []

    @torch.inference_mode()
    def score(self, layers: Layers) -> Scores:
        """Mean over the groups of 1 - cosine, 0 to 2, on the first layer's grid; an image's score is its worst 1 %."""
        map_BHW = self._network(*self._ready(layers))
        return Scores(self._score(map_BHW).cpu().numpy(), map_BHW.cpu().numpy())

    @property
    def _score(self) -> WorstTile:
        return WorstTile(self._config, TOP_SHARE)

    def scorer(self) -> nn.Module:
        """See `Exportable`."""
        return MapScorer(self._network, self._score)

    def _network_for(self, layers: Layers) -> "Network":
        return Network(self._config, [cast(Shape, tuple(layer.shape[1:])) for layer in layers])

    def _network_of(self, state: Mapping[str, torch.Tensor]) -> "Network":
        return Network(self._config, [cast(Shape, tuple(row)) for row in state["shape_L3"].tolist()])

    def _optimizer(self, network: "Network", batch_size: int) -> Optimizer:
        config = self._config
        rate = config.learning_rate * batch_size / RATE_BATCH
        return torch.optim.AdamW(network.parameters(), rate, betas=config.betas, weight_decay=config.weight_decay)

    def _rate_share(self, step: int) -> float:
        return cosine_share(step, self._steps, self._config.warmup_steps, LAST_RATE_SHARE)

    def _pass_size(self, network: "Network") -> int:
        return self._config.images_at_once(self.pass_size)

    def _losses(self, network: "Network", layers: Layers, step: int, turn: Turn) -> torch.Tensor:
        return network.loss(layers, turn, self._percentile(step))

    def _plain_losses(self, network: "Network", layers: Layers) -> torch.Tensor:
        return network.loss(layers, None, 0)

    def _measure_before(self, network: "Network", source: Source) -> None:
        if self._config.standardize:
            network.measure(partial(self._passes, network, source))

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
    def measure(self, passes: Callable[[], Iterable[Layers]]) -> None:
        """Learn the spread of each channel of each layer; `passes` gives all images again at each call."""
        for index, scale_C in enumerate(self.scale_C):
            spread_C = moments(_cells(layers[index], self._side) for layers in passes())[1].sqrt()
            usable_C = spread_C > LEAST_SPREAD * spread_C.mean()
            scale_C.copy_(torch.where(usable_C, spread_C, torch.ones_like(spread_C)))

    def loss(self, layers: Layers, turn: Turn | None, percentile: float) -> torch.Tensor:
        """Each image's loss [B]: mean over groups of 1 - cosine of the flattened maps; an image weighs by its mean.

        The gradient of points easier than the batch's `percentile` is multiplied by the configured factor.
        """
        loss_GB = []
        for target, redrawn in self._pairs(layers, turn):
            if turn is not None and percentile > 0:
                redrawn = _mined(target, redrawn, turn, percentile, self._hard_factor)
            loss_GB.append(1 - functional.cosine_similarity(target.flatten(1), redrawn.flatten(1)))
        return torch.stack(loss_GB).mean(dim=0)

    def forward(self, *layers: torch.Tensor) -> torch.Tensor:
        """1 - cosine of each cell [B, H, W], its mean over the groups, on the first layer's grid."""
        size = layers[0].shape[-2:]
        maps_B1HW = [_distance(*pair)[:, None] for pair in self._pairs(layers, None)]
        large_B1HW = [functional.interpolate(one, size, mode="bilinear", align_corners=False) for one in maps_B1HW]
        return torch.stack(large_B1HW).mean(dim=0)[:, 0]

    def _pairs(self, layers: Layers, turn: Turn | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Targets and their reconstructions, group by group."""
        level = tuple(
            _averaged(layer, self._side) / scale_C[:, None, None]
            for layer, scale_C in zip(layers, self.scale_C, strict=True)
        )
        return zip(self.decoder.targets(level), self.decoder.redrawn(level, turn), strict=True)


def _mined(target: torch.Tensor, redrawn: torch.Tensor, turn: Turn, percentile: float, factor: float) -> torch.Tensor:
    """`redrawn`, the same in value, with the gradient of easy points multiplied by `factor` (hard mining, Dinomaly)."""
    with torch.no_grad():
        distance_BHW = _distance(target, redrawn)
        all_distances = turn.all_gather(distance_BHW).flatten()
        num_hard = max(1, round(len(all_distances) * (1 - percentile)))
        easy_B1HW = (distance_BHW < all_distances.topk(num_hard).values[-1])[:, None]
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


def _cells(layer_BCHW: torch.Tensor, side: int) -> torch.Tensor:
    """The averaged vectors [P, C] of one layer."""
    return _averaged(layer_BCHW, side).movedim(1, -1).flatten(0, 2)
