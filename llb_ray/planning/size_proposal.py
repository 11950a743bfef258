"""The size that photographs should be brought to, and tiles for large ones, with what they cost."""

import math
from typing import NamedTuple

from llb_ray.config import Size, TilesConfig

_CELL_PX = 8  # of the default network's map
_OBLONG = 1.25  # longer to shorter side, from which a square would squeeze too much
_LONGEST = 4  # times the shorter side; beyond, the longer one is squeezed
_LARGE = 2.0  # times as much as a side is reduced, from which tiles are proposed
_PATCH_PX = 224  # seconds of one core are of so many pixels square (benchmarks/latency.md)
_PATCH_S = 0.025


class Proposal(NamedTuple):
    """A size, and tiles of a larger size where the photographs are much larger."""

    size: Size
    whole: Size | None  # that photographs are brought to for the tiles
    tiles: TilesConfig | None

    @property
    def smallest_px(self) -> int:
        """Pixels of a photograph that one cell of the map has, along a side: defects should be larger."""
        assert self.whole is not None
        return round(_CELL_PX * max(large / small for large, small in zip(self.whole, self.size, strict=True)))

    @property
    def times(self) -> float:
        """Work of a photograph in tiles, as a multiple of that without."""
        assert self.tiles is not None
        assert self.whole is not None
        return self.tiles.count(self.whole) * self.tiles.size_px**2 / math.prod(self.size)


def proposal(photograph: Size, smallest_px: int, largest_px: int, step_px: int) -> Proposal:
    """The size of photographs of this height and width, its shorter side within limits, on multiples of a step."""
    short, long = min(photograph), max(photograph)
    side = max(smallest_px, min(largest_px, _rounded(short, step_px))) // step_px * step_px
    ratio = min(long / short, _LONGEST)
    other = side if ratio < _OBLONG else _rounded(side * ratio, step_px)
    size = (side, other) if photograph[0] == short else (other, side)
    if short < _LARGE * side:
        return Proposal(size, None, None)
    whole = (_rounded(photograph[0], step_px), _rounded(photograph[1], step_px))
    tile = _rounded(_PATCH_PX, step_px)
    return Proposal(size, whole, TilesConfig(size_px=tile, overlap_px=step_px))


def size_lines(found: Proposal, largest_px: int) -> list[str]:
    """The lines of a configuration: the size, and tiles as comments."""
    height, width = found.size
    size = str(height) if height == width else f"[{height}, {width}]"
    near = "near the images' own" if found.tiles is None else "the images are larger"
    said_s = f"  image_size_px: {size:<9} # {near}, up to {largest_px} here; {seconds(found.size):.2g} s each on a core"
    if found.tiles is None or found.whole is None:
        return [said_s]
    tiles = f"{{size_px: {found.tiles.size_px}, overlap_px: {found.tiles.overlap_px}}}"
    count, each_s = found.tiles.count(found.whole), found.times * seconds(found.size)
    return [
        said_s,
        f"  # One cell of the map is then {found.smallest_px} px of a photograph, so that smaller defects may be lost.",
        f"  # In tiles they are not: {count} of them, {found.times:.3g} times the time and disk ({each_s:.2g} s each);",
        "  # with half of both sides, a quarter of that.  To use tiles, put these two lines for the one above:",
        f"  # image_size_px: {list(found.whole)}",
        f"  # tiles: {tiles}",
    ]


def seconds(size: Size) -> float:
    """Seconds that an image takes one core, about."""
    return _PATCH_S * math.prod(size) / _PATCH_PX**2


def _rounded(side: float, step_px: int) -> int:
    return max(step_px, round(side / step_px) * step_px)
