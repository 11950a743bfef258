"""The pieces in which a large photograph goes through the encoder."""

import math

from pydantic import Field, PositiveInt, model_validator

from llb_ray.config.base import Settings
from llb_ray.config.image_size import Size


class TilesConfig(Settings):
    """Squares that overlap; lengths are in pixels of the size that photographs are brought to."""

    size_px: PositiveInt = Field(224, description="side of a tile, a multiple of the network's coarsest stride")
    overlap_px: int = Field(32, ge=0, description="of neighbours, at least; features pass from one to the next there")

    @model_validator(mode="after")
    def _overlaps_at_most_half(self) -> "TilesConfig":
        if 2 * self.overlap_px > self.size_px:
            raise ValueError(f"overlap_px={self.overlap_px} is more than half of size_px={self.size_px}; lower it")
        return self

    def count(self, size: Size) -> int:
        """Number of tiles of an image of this height and width."""
        return math.prod(len(tile_starts(side, self)) for side in size)


def tile_starts(side_px: int, tiles: TilesConfig, step_px: int = 1) -> list[int]:
    """Starts of the tiles along a side: even, as far apart as the overlap allows, on multiples of `step_px`."""
    units, most = (side_px - tiles.size_px) // step_px, max(1, (tiles.size_px - tiles.overlap_px) // step_px)
    gaps = math.ceil(units / most)
    return [step_px * (number * units // gaps) for number in range(gaps + 1)] if gaps else [0]
