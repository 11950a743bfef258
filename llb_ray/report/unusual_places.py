"""Place and size of an image's most unusual spot, and what kept images have at the same place.

Shapes: N kept images, H x W cells of a map that is small enough for the page.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

_RANGE = (5, 95)  # percentiles of the kept images at a place
_SHIFT = 3  # cells: the range takes in the cells around a place, for parts that are not exactly aligned
_PART = 0.5  # of the largest excess: what is above it belongs to the place
_ROWS, _COLUMNS = ("top", "", "bottom"), ("left", "", "right")
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Place:
    """A part of an image, as shares of its width and height, and the anomaly map there."""

    x: float  # of the left edge
    y: float  # of the upper edge
    width: float
    height: float
    peak: float  # the map, where it is furthest above the range
    low: float  # the range of the kept images there
    high: float

    @property
    def stands_out(self) -> bool:
        """True if the map is above the range of the kept images anywhere."""
        return self.peak > self.high

    @property
    def name(self) -> str:
        """``top left``, ``centre``, ...: the third of the image that its middle is in."""
        row, column = (min(2, int(3 * middle)) for middle in (self.y + self.height / 2, self.x + self.width / 2))
        return f"{_ROWS[row]} {_COLUMNS[column]}".strip() or "centre"


@dataclass(frozen=True)
class Range:
    """Range of the kept images at each place: their 5th and 95th percentile."""

    low_HW: Floats
    high_HW: Floats

    @classmethod
    def of(cls, map_NHW: Floats) -> "Range":
        low_HW, high_HW = np.percentile(map_NHW, _RANGE, axis=0).astype(np.float32)
        return cls(ndimage.minimum_filter(low_HW, _SHIFT), ndimage.maximum_filter(high_HW, _SHIFT))

    def place(self, map_HW: Floats) -> Place:
        """Place where the map is furthest above the range, or nearest to its upper end if it is nowhere above."""
        excess_HW = map_HW - self.high_HW
        row, column = np.unravel_index(excess_HW.argmax(), excess_HW.shape)
        rows, columns = _around(excess_HW, int(row), int(column))
        height, width = map_HW.shape
        return Place(
            x=columns.start / width,
            y=rows.start / height,
            width=(columns.stop - columns.start) / width,
            height=(rows.stop - rows.start) / height,
            peak=float(map_HW[row, column]),
            low=float(self.low_HW[row, column]),
            high=float(self.high_HW[row, column]),
        )


def _around(excess_HW: Floats, row: int, column: int) -> tuple[slice, slice]:
    """Rows and columns of the connected part around a cell where the excess is near that of the cell."""
    highest = excess_HW[row, column]
    if highest <= 0:
        return slice(row, row + 1), slice(column, column + 1)
    part_HW, _ = ndimage.label(excess_HW >= _PART * highest)
    rows, columns = ndimage.find_objects(part_HW)[part_HW[row, column] - 1]
    return rows, columns
