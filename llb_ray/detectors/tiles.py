"""Large photographs: cut into tiles, encoded one by one, and joined to the layers of the whole.

What comes after the encoder sees one large grid of features, whose memory, places and maps are as of any other.  Where
tiles overlap, features pass from one to the next in proportion, so that a map has no seams.

Shapes as in `base`; T tiles in R rows and K columns, S x S pixels of a tile, s x s cells of its layer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from llb_ray.config import DetectorConfig, Size, TilesConfig, format_size, tile_starts
from llb_ray.detectors.base import Encoder, Layers, top_mean
from llb_ray.detectors.inspected import image_scores, seen_top_mean
from llb_ray.errors import ConfigError

_USUAL_STRIDE = 32  # the coarsest of a CNN
_PIXELS_AT_ONCE = 2**20  # of tiles in one batch: 20 of 224 px


@dataclass(frozen=True)
class Seams:
    """The cells of a joined axis: each is a mean of a cell of one tile and a cell of the next, both numbered in the
    tiles put end to end."""

    first_H: torch.Tensor
    second_H: torch.Tensor
    share_H: torch.Tensor  # of the second

    @classmethod
    def of(cls, starts_px: Sequence[int], tile_px: int, cell_px: int) -> "Seams":
        """Of tiles that begin there: halfway through an overlap both count the same."""
        cells = tile_px // cell_px
        start_T, cell_H = torch.tensor(starts_px), torch.arange((starts_px[-1] + tile_px) // cell_px)
        if len(starts_px) == 1:
            return cls(cell_H, cell_H, torch.zeros(len(cell_H)))
        gap_G = start_T.diff()
        middle_G = start_T[1:] + (tile_px - gap_G) / 2
        width_G = torch.minimum(tile_px - gap_G, gap_G.min()).clamp(min=1)  # so that no three tiles meet
        centre_H = (cell_H + 0.5) * cell_px
        gap_H = (centre_H[:, None] - middle_G).abs().argmin(dim=1)
        share_H = ((centre_H - middle_G[gap_H]) / width_G[gap_H] + 0.5).clamp(0, 1)
        first_H, second_H = (
            tile_H * cells + (cell_H - start_T[tile_H] // cell_px).clamp(0, cells - 1) for tile_H in (gap_H, gap_H + 1)
        )
        return cls(first_H, second_H, share_H)

    def joined(self, tiles: torch.Tensor, axis: int) -> torch.Tensor:
        """Tiles that are end to end along an axis, as one."""
        shape = [-1 if at == axis else 1 for at in range(tiles.dim())]
        share = self.share_H.to(tiles.device, tiles.dtype).view(shape)
        first, second = (tiles.index_select(axis, index.to(tiles.device)) for index in (self.first_H, self.second_H))
        return first * (1 - share) + second * share


class Tiling(nn.Module):
    """Cuts images into tiles, puts these through a network, and joins their layers; all tiles at once."""

    def __init__(
        self, size: Size, tiles: TilesConfig, strides: Sequence[int], network: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self._tile_px = tiles.size_px
        self.starts = [tile_starts(side, tiles, math.lcm(*strides)) for side in size]
        self._seams = [[Seams.of(starts, tiles.size_px, stride) for starts in self.starts] for stride in strides]

    def forward(self, image_BCHW: torch.Tensor) -> Layers:
        """Layers of whole images, for an export."""
        assert self.network is not None
        return self.join(self.network(self.cut(image_BCHW)))

    def cut(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """The tiles of images [B R K, C, S, S], image by image, row by row."""
        for axis, starts in zip((2, 3), self.starts, strict=True):
            pixel = torch.cat([torch.arange(start, start + self._tile_px) for start in starts])
            image_BCHW = image_BCHW.index_select(axis, pixel.to(image_BCHW.device))
        rows, columns = map(len, self.starts)
        parted = image_BCHW.reshape(-1, image_BCHW.shape[1], rows, self._tile_px, columns, self._tile_px)
        tiles: torch.Tensor = parted.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        return tiles

    def join(self, layers: Layers) -> Layers:
        """The layers of whole images, from those of their tiles [B R K, C, s, s]."""
        return tuple(self._join(layer, *seams) for layer, seams in zip(layers, self._seams, strict=True))

    def _join(self, layer: torch.Tensor, down: Seams, across: Seams) -> torch.Tensor:
        rows, columns = map(len, self.starts)
        parted = layer.reshape(-1, rows, columns, *layer.shape[1:]).permute(0, 3, 1, 4, 2, 5)
        return across.joined(down.joined(parted.flatten(4, 5).flatten(2, 3), 2), 3)


class Tiled:
    """An `Encoder` of large images: another encoder, which takes their tiles; an image is encoded at a time."""

    def __init__(self, encoder: Encoder, size_px: int | Size, size: Size, tiles: TilesConfig) -> None:
        """Raises ConfigError unless tiles and images are whole numbers of the coarsest layer's cells."""
        self.image_size_px = size_px
        self.cache_dtypes = encoder.cache_dtypes
        self._encoder, self._tiles, self._size = encoder, tiles, size
        self._strides = _strides(encoder, tiles)
        step = math.lcm(*self._strides)
        if any(side % step for side in size):
            best = [max(math.ceil(tiles.size_px / step), round(side / step)) * step for side in size]
            raise ConfigError(
                f"detector.image_size_px = {format_size(size_px)}: in tiles, each side must be a multiple of "
                f"{step} px, or the cells of neighbouring tiles would not meet; choose {best}"
            )
        self._tiling = Tiling(size, tiles, self._strides)

    def fingerprint(self) -> Mapping[str, Any]:
        """That of the tiles' encoder, with the whole's size and how it is cut."""
        return tiled_fingerprint(self._encoder.fingerprint(), self.image_size_px, self._tiles)

    def network(self) -> nn.Module:
        """Whole images to layers, all tiles at once."""
        return Tiling(self._size, self._tiles, self._strides, self._encoder.network())

    def encode(self, image_BCHW: torch.Tensor) -> Layers:
        """The layers of whole images; memory is that of a few tiles and of the layers themselves."""
        parts = [self._encode(image_BCHW[row : row + 1]) for row in range(len(image_BCHW))]
        return tuple(torch.cat(layer) for layer in zip(*parts, strict=True))

    def _encode(self, image_1CHW: torch.Tensor) -> Layers:
        tiles_TCSS = self._tiling.cut(image_1CHW)
        most = max(1, _PIXELS_AT_ONCE // self._tiles.size_px**2)
        batches = torch.tensor_split(tiles_TCSS, math.ceil(len(tiles_TCSS) / most))
        layers = zip(*(self._encoder.encode(batch) for batch in batches), strict=True)
        return self._tiling.join(tuple(torch.cat(layer) for layer in layers))


def tiled_fingerprint(of_tiles: Mapping[str, Any], size_px: int | Size, tiles: TilesConfig) -> dict[str, Any]:
    """Everything the layers of whole images depend on, from the fingerprint of their tiles' encoder."""
    return {**of_tiles, "image_size_px": size_px, "tiles": tiles.model_dump(mode="json")}


def _strides(encoder: Encoder, tiles: TilesConfig) -> list[int]:
    """Pixels of a cell of each layer; raises ConfigError where these are no whole numbers."""
    black = torch.zeros(1, 3, tiles.size_px, tiles.size_px, dtype=torch.uint8)
    grids = [layer.shape[2:] for layer in encoder.encode(black)]
    for cells, _ in grids:
        if tiles.size_px % cells:
            raise ConfigError(
                f"detector.tiles.size_px = {tiles.size_px}: the network makes {cells} cells of it, each no whole "
                f"number of pixels; choose a multiple of {_USUAL_STRIDE}"
            )
    return [tiles.size_px // cells for cells, _ in grids]


class WorstTile:
    """Image scores: the mean of the highest share of the cells of a map, or of the tile where that is highest.

    In the mean over a whole large photograph a small defect would be lost.
    """

    def __init__(self, config: DetectorConfig, share: float) -> None:
        self._size, self._tiles, self._share = config.size, config.tiling, share

    def __call__(self, map_BHW: torch.Tensor, seen_BHW: torch.Tensor | None = None) -> torch.Tensor:
        """The scores [B], by the cells that are looked at; None: by all."""
        if self._tiles is None:
            return image_scores(map_BHW, seen_BHW, self._share)
        row_Rh, column_Kw = _windows(self._size, self._tiles, map_BHW.shape[1], map_BHW.shape[2])
        cells = row_Rh[:, None, :, None], column_Kw[None, :, None, :]
        tile_BRKhw = map_BHW[:, *cells]
        if seen_BHW is not None:
            seen_BTQ = seen_BHW[:, *cells].flatten(3).flatten(1, 2)
            return seen_top_mean(tile_BRKhw.flatten(3).flatten(1, 2), seen_BTQ, self._share).amax(dim=1)
        score_T = top_mean(tile_BRKhw.flatten(0, 2), self._share)
        worst_B: torch.Tensor = score_T.reshape(-1, len(row_Rh) * len(column_Kw)).amax(dim=1)
        return worst_B


@cache
def _windows(size: Size, tiles: TilesConfig, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows [R, h] and columns [K, w] of a map that each tile has."""
    found = []
    for side, cells in zip(size, (height, width), strict=True):
        count = max(1, round(tiles.size_px * cells / side))
        starts = [min(round(start * cells / side), cells - count) for start in tile_starts(side, tiles)]
        found.append(torch.tensor(starts)[:, None] + torch.arange(count))
    return found[0], found[1]
