"""Each band on a scale of its own: what the training images have in it, brought to the 8 bits that photographs have.

So no band counts for more because its numbers are larger, and all that comes after decoding treats C bands as it
treats RGB: the cache holds bytes.  Room is left beyond the usual values, for a defect to be further out than they are.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llb_ray.data.bands import Values

Bytes = NDArray[np.uint8]

SCALE = pa.schema(
    [
        pa.field("low", pa.float64(), nullable=False),  # row by row the bands, in the units of the files
        pa.field("high", pa.float64(), nullable=False),
    ]
)
_USUAL = 0.01, 0.99  # quantiles; a defect in one image of a hundred, however bright, moves neither
_ROOM = 0.5  # on each side, in spans of the usual values; what is further out is cut off there


@dataclass(frozen=True)
class BandScale:
    """Ranges of the usual values of each band; small enough to be sent to every worker."""

    low_C: tuple[float, ...]
    high_C: tuple[float, ...]

    @classmethod
    def of(cls, value_PC: Values) -> "BandScale":
        """The scale of these pixels, in whatever order they come."""
        low_C, high_C = np.quantile(value_PC, _USUAL, axis=0)
        return cls(tuple(low_C.tolist()), tuple(high_C.tolist()))

    @classmethod
    def of_table(cls, table: pa.Table) -> "BandScale":
        """The scale that `table` gave."""
        return cls(tuple(table["low"].to_pylist()), tuple(table["high"].to_pylist()))

    def table(self) -> pa.Table:
        """One row per band, schema `SCALE`."""
        return pa.table({"low": self.low_C, "high": self.high_C}, SCALE)

    @property
    def num_bands(self) -> int:
        return len(self.low_C)

    def to_bytes(self, value_HWC: Values) -> Bytes:
        """The image in 8 bits a band: low is 64, high 191, and beyond 0 and 255 it is cut off."""
        return _rounded((self._share(value_HWC) + _ROOM) / (1 + 2 * _ROOM))

    def picture(self, value_HWC: Values) -> Bytes:
        """The image for people [H, W, 3]: three bands spread over all, the last one red, or the mean of fewer."""
        share_HWC, count = self._share(value_HWC), self.num_bands
        if count < 3:
            return _rounded(share_HWC.mean(axis=2, keepdims=True).repeat(3, axis=2))
        return _rounded(share_HWC[..., [5 * count // 6, count // 2, count // 6]])

    def _share(self, value_HWC: Values) -> NDArray[np.float64]:
        """0 at low and 1 at high; a band that never changed is given its own size, or 1, as span."""
        low_C, high_C = np.array(self.low_C), np.array(self.high_C)
        still_C = np.where(low_C == 0, 1, np.abs(low_C))
        share: NDArray[np.float64] = (value_HWC - low_C) / np.where(high_C > low_C, high_C - low_C, still_C)
        return share


def some_pixels(value_HWC: Values, count: int, rng: np.random.Generator) -> Values:
    """At most `count` pixels of an image [P, C], drawn without replacement."""
    value_PC = value_HWC.reshape(-1, value_HWC.shape[2])
    if len(value_PC) <= count:
        return value_PC
    return value_PC[rng.choice(len(value_PC), count, replace=False)]


def _rounded(share: NDArray[np.float64]) -> Bytes:
    bytes_: Bytes = np.rint(255 * share.clip(0, 1)).astype(np.uint8)
    return bytes_
