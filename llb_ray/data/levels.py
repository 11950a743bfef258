"""The range of the values of a set of 16-bit images on their scale: seldom the whole of it.

A camera of 12 bits writes 0 to 4095 into files of 16, and a thermal one a few hundred values around 30000.  Read on the
whole scale, most of their grey levels would be one.  So a set, never a single image, is given a black and a white
point: otherwise a bright defect would darken the rest of its image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

FULL = 65535
LEVELS = pa.schema(
    [
        pa.field("black", pa.float64(), nullable=False),  # in the units of the files: 0 of 8 bits, and what is darker
        pa.field("white", pa.float64(), nullable=False),  # 255, and what is brighter
    ]
)
_USUAL = 0.001, 0.999  # quantiles of an image's pixels
_MOST = 0.1, 0.9  # quantiles of the set's images: contamination below a tenth moves neither end
_ROOM = 0.5  # on each side, in spans of the usual values; what is further out is cut off there
_SMALL = 1 / 8  # of the scale that the values are on, which is 32 of 256 grey levels
_LEAST_SPAN = 128  # values between usual black and white: a grey level is never less than one value
_LEAST_BITS, _ALL_BITS = 8, 15  # from 15 bits on, the scale of 16 is taken


class Range(NamedTuple):
    """The range of one image: its highest value, and the ends of its usual ones."""

    highest: int
    low: float
    high: float

    @classmethod
    def of(cls, value: NDArray[Any]) -> "Range | None":
        """The range of an image's values, but for 0 and 65535, which say that there was none; None for no others."""
        inner = value[(value > 0) & (value < FULL)]
        if not inner.size:
            return None
        low, high = np.quantile(inner, _USUAL)
        return cls(int(inner.max()), float(low), float(high))


@dataclass(frozen=True)
class Levels:
    """The black and the white point of a set."""

    black: float
    white: float

    @classmethod
    def of(cls, ranges: Sequence[Range]) -> "Levels | None":
        """The levels of a set with these ranges; None where its values are spread over the scale of 16 bits.

        Where the usual values are a small part of the scale of as many bits as the highest one has, they are spread,
        with room on both sides; else that scale is the whole, if it is of 14 bits or fewer.
        """
        if not ranges:
            return None
        highest, low_N, high_N = zip(*ranges, strict=True)
        bits = max(_LEAST_BITS, max(highest).bit_length())
        low, high = float(np.quantile(low_N, _MOST[0])), float(np.quantile(high_N, _MOST[1]))
        if high - low < _SMALL * (2**bits - 1) and bits > _LEAST_BITS:
            room = _ROOM * max(high - low, _LEAST_SPAN)
            return cls(low - room, high + room)
        return cls(0, 2**bits - 1) if bits < _ALL_BITS else None

    @classmethod
    def of_table(cls, table: pa.Table) -> "Levels | None":
        """The levels that `table_of` wrote."""
        return cls(**table.to_pylist()[0]) if len(table) else None

    def to_bytes(self, value: NDArray[Any]) -> NDArray[np.uint8]:
        """The values in 8 bits, cut off below black and above white."""
        share = (value.astype(np.float32) - np.float32(self.black)) * np.float32(255 / (self.white - self.black))
        bytes_: NDArray[np.uint8] = np.rint(share).clip(0, 255).astype(np.uint8)
        return bytes_

    def note(self) -> str:
        """Message about them at the start of a run."""
        return (
            f"16-bit images use a small part of their scale: {self.black:g} is read as black and {self.white:g} as "
            "white, in this run and by predict"
        )


WHOLE_SCALE = Levels(0, FULL)


def table_of(levels: Levels | None) -> pa.Table:
    """One row, schema `LEVELS`; none where there are no levels."""
    rows = [] if levels is None else [{"black": levels.black, "white": levels.white}]
    return pa.Table.from_pylist(rows, LEVELS)
