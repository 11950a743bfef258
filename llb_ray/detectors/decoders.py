"""Decoders that redraw the layers of a frozen backbone through a noisy bottleneck.

After Dinomaly (Guo et al., arXiv 2405.14325) for transformers, whose layers all have one shape, and after reverse
distillation (Deng and Li, arXiv 2201.10703) for feature pyramids, whose layers have different grids and widths.
Both keep fine detail from passing: linear attention cannot focus, and the pyramid is squeezed to its coarsest grid.

`turn` has the noise of the bottleneck's dropout while training, and is None when scoring: nothing is dropped then, and
torch's global generators are never used.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from llb_ray.detectors.base import Layers
from llb_ray.detectors.data_parallel import Turn
from llb_ray.errors import ConfigError

Shape = tuple[int, int, int]  # channels, height and width of a layer
Groups = Sequence[Sequence[int]]
HEAD_WIDTH = 64  # channels of an attention head in every DINOv2 and plain ViT
MLP_RATIO = 4  # hidden over outer width, in the bottleneck and the blocks (Dinomaly's code)


class Decoder(Protocol):
    """Learns to redraw the layers of normal images, group by group."""

    def targets(self, layers: Layers) -> Layers:
        """The targets of the reconstruction: one BCHW tensor per group."""

    def redrawn(self, layers: Layers, turn: Turn | None) -> Layers:
        """The reconstruction: tensors of the same shapes."""


class AttentionDecoder(nn.Module):
    """Blocks of linear attention behind a dropout bottleneck, over layers of one shape (Dinomaly, section 3).

    The last block stands for the first layer: outputs are fused into the layers' groups in reverse order.  Unlike in
    the authors' code no class or register token takes part; the cache holds none.
    """

    def __init__(self, channels: int, groups: Groups, depth: int, dropout: float) -> None:
        super().__init__()
        self.groups = groups
        self.bottleneck = _Bottleneck(channels, MLP_RATIO * channels, channels, dropout)
        self.blocks = nn.ModuleList(_AttentionBlock(channels) for _ in range(depth))
        self.apply(_small_weights)

    def targets(self, layers: Layers) -> Layers:
        return tuple(_fused([layers[index] for index in group]) for group in self.groups)

    def redrawn(self, layers: Layers, turn: Turn | None) -> Layers:
        height, width = layers[0].shape[-2:]
        token_BPC = self.bottleneck(_fused(layers).flatten(2).transpose(1, 2), turn)
        outputs = []
        for block in self.blocks:
            token_BPC = block(token_BPC)
            outputs.append(token_BPC.transpose(1, 2).unflatten(2, (height, width)))
        return self.targets(tuple(outputs[::-1]))


class PyramidDecoder(nn.Module):
    """Convolutions from the coarsest grid back to each layer of a pyramid; every layer is a group of its own."""

    def __init__(self, shapes: Sequence[Shape], channels: int, depth: int, dropout: float) -> None:
        super().__init__()
        widths = [shape[0] for shape in shapes]
        self.bottleneck = _Bottleneck(sum(widths), channels, channels, dropout)
        self.stem = nn.Sequential(*(_ConvBlock(channels) for _ in range(depth)))
        self.blocks = nn.ModuleList(_ConvBlock(channels) for _ in widths)
        self.heads = nn.ModuleList(nn.Conv2d(channels, width, 1) for width in widths)

    def targets(self, layers: Layers) -> Layers:
        return layers

    def redrawn(self, layers: Layers, turn: Turn | None) -> Layers:
        picture_BCHW = self.stem(_as_maps(self.bottleneck, _squeezed(layers), turn))
        outputs = []
        for layer, block, head in reversed(list(zip(layers, self.blocks, self.heads, strict=True))):
            # Nearest, because the gradient of bilinear resizing is not repeatable on a GPU; the block smooths it.
            picture_BCHW = block(functional.interpolate(picture_BCHW, layer.shape[-2:], mode="nearest"))
            outputs.append(head(picture_BCHW))
        return tuple(outputs[::-1])


def attention_decoder(shapes: Sequence[Shape], groups: Groups | None, depth: int, dropout: float) -> AttentionDecoder:
    """The decoder for layers of one shape; raises ConfigError if it has fewer blocks than there are layers."""
    if depth < len(shapes):
        raise ConfigError(
            f"detector.decoder_depth = {depth}: each of the {len(shapes)} backbone layers needs a block of its own; "
            f"raise it to {len(shapes)} or name fewer layers"
        )
    return AttentionDecoder(shapes[0][0], groups or [[index] for index in range(len(shapes))], depth, dropout)


def pyramid_decoder(
    shapes: Sequence[Shape], groups: Groups | None, channels: int, depth: int, dropout: float
) -> PyramidDecoder:
    """The decoder for layers of different shapes; raises ConfigError for groups, which cannot be averaged."""
    if groups is not None:
        raise ConfigError(
            "detector.groups: layers of different shapes cannot be averaged; leave it out for this backbone"
        )
    return PyramidDecoder(shapes, channels, depth, dropout)


class _Bottleneck(nn.Module):
    """Two linear maps over the last axis with dropout before, between and after ("noisy bottleneck", Dinomaly)."""

    def __init__(self, outer: int, hidden: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.share = dropout
        self.widen = nn.Linear(outer, hidden)
        self.narrow = nn.Linear(hidden, channels)

    def forward(self, token_BPC: torch.Tensor, turn: Turn | None) -> torch.Tensor:
        hidden = functional.gelu(self.widen(self._thinned(token_BPC, turn)))
        return self._thinned(self.narrow(self._thinned(hidden, turn)), turn)

    def _thinned(self, value: torch.Tensor, turn: Turn | None) -> torch.Tensor:
        if turn is None or self.share == 0:
            return value
        return value * turn.kept(value, 1 - self.share) / (1 - self.share)


class _AttentionBlock(nn.Module):
    """Pre-norm transformer block with linear attention (Katharopoulos et al., arXiv 2006.16236: elu + 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // math.gcd(channels, HEAD_WIDTH)
        self.norm_1, self.norm_2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.join = nn.Linear(channels, channels)
        hidden = MLP_RATIO * channels
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, token_BPC: torch.Tensor) -> torch.Tensor:
        token_BPC = token_BPC + self.join(self._attended(self.norm_1(token_BPC)))
        mixed: torch.Tensor = token_BPC + self.mlp(self.norm_2(token_BPC))
        return mixed

    def _attended(self, token_BPC: torch.Tensor) -> torch.Tensor:
        """Each token's average of all values, in a number of products linear in the tokens."""
        parts = self.query_key_value(token_BPC).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query_BEPC, key_BEPC, value_BEPC = functional.elu(parts[0]) + 1, functional.elu(parts[1]) + 1, parts[2]
        seen_BEPC = query_BEPC @ (key_BEPC.transpose(2, 3) @ value_BEPC)
        total_BEP1 = query_BEPC @ key_BEPC.sum(dim=2)[..., None]
        average_BEPC: torch.Tensor = seen_BEPC / total_BEP1
        return average_BEPC.transpose(1, 2).flatten(2)


class _ConvBlock(nn.Module):
    """Residual block; its norm is over one image, so that a score does not depend on the batch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            *(nn.GroupNorm(1, channels), nn.Conv2d(channels, channels, 3, padding=1)),
            *(nn.GELU(), nn.Conv2d(channels, channels, 1)),
        )

    def forward(self, picture_BCHW: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = picture_BCHW + self.change(picture_BCHW)
        return changed


def _fused(layers: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack(tuple(layers)).mean(dim=0)


def _squeezed(layers: Layers) -> torch.Tensor:
    """All layers averaged down to the coarsest grid, and concatenated."""
    height, width = min((layer.shape[-2:] for layer in layers), key=math.prod)
    return torch.cat([functional.adaptive_avg_pool2d(layer, (height, width)) for layer in layers], dim=1)


def _as_maps(bottleneck: _Bottleneck, picture_BCHW: torch.Tensor, turn: Turn | None) -> torch.Tensor:
    """The bottleneck at every cell of a picture."""
    cell_BHWC: torch.Tensor = bottleneck(picture_BCHW.permute(0, 2, 3, 1), turn)
    return cell_BHWC.permute(0, 3, 1, 2)


def _small_weights(module: nn.Module) -> None:
    """Truncated normal, 0.01 wide and cut at 0.03, no bias: as in Dinomaly's code."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.01, a=-0.03, b=0.03)
        nn.init.zeros_(module.bias)
