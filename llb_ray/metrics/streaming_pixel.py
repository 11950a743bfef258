"""Pixel metrics in fixed memory: scores are counted, and counts of parts add up to those of the whole, exactly.

Shape suffixes: N images, H x W pixels, P defective pixels in C order, K = 3 kinds of count, S pages that hold a score,
B bins of a page, T occupied bins from the highest score down.

A float32 becomes an integer of the same order (its bits, but for the sign), its *key*.  Keys that share their upper
half share a page: an interval of scores whose width is 1/128 of a power of two.  Only pages that hold a score have
bins, and all pages have equally many: as many as fit `MAX_BINS` in all.  While there are few pages a bin is one single
score and nothing is lost; scores in eight powers of two, which is much, have bins of 1/65,536 of theirs.  Only scores
that crowd into less than a bin while others are spread over dozens of powers of two are separated badly, and
`PixelCounts.error_bounds` says so.

Neither the order of the images nor how they were split over workers can change anything.  The pages of a part are
among those of the whole, so its bins are never coarser; coarser bins are sums of finer ones; and all counts are
integers, a pixel's share of its region too.
"""

from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from llb_ray.metrics.exact_pixel import Bools, Floats, check_pixels, regions
from llb_ray.metrics.threshold_curves import NAMES, Counts, Metrics, Steps

MAX_BINS = 2**20  # of 24 bytes each
REGION = 2**38  # what the pixels of one region add up to; leaves room for 2^24 regions
_MAX_REGIONS = 2**24
_PAGE_BITS = 16  # of a key are its place in its page
_CHUNK_PIXELS = 2**22  # counted at once, 24 bytes each
_NORMAL, _DEFECT, _REGION = range(3)

SCHEMA = pa.schema(
    [
        pa.field("key", pa.int32(), nullable=False),  # the lowest of the bin
        pa.field("normal", pa.int64(), nullable=False),  # pixels
        pa.field("defect", pa.int64(), nullable=False),  # pixels
        pa.field("region", pa.int64(), nullable=False),  # what these are of their regions, in 1 / REGION
    ]
)


class PixelCounts:
    """Numbers of normal and defective pixels by score; `add` maps, `merge` what others counted."""

    def __init__(self) -> None:
        self._page_S = np.empty(0, np.int64)
        self._count_KSB = np.zeros((3, 0, 2**_PAGE_BITS), np.int64)

    @property
    def shift(self) -> int:
        """The low bits of a key that its bin does not tell; 0 if nothing is lost."""
        return _least_shift(self._page_S.size)

    @property
    def nbytes(self) -> int:
        """Bytes that the counts take, at most 24 * `MAX_BINS`."""
        return self._count_KSB.nbytes

    def add(self, map_NHW: Floats, mask_NHW: Bools, seen: Bools | None = None) -> None:
        """Count these pixels, of normal ones those in `seen`, of each map or of all.

        What a pixel is, and what is refused, as for `exact_pixel.pixel_metrics`.
        """
        check_pixels(map_NHW, mask_NHW)
        num_images = max(1, _CHUNK_PIXELS // max(1, map_NHW[:1].size))
        for start in range(0, len(map_NHW), num_images):
            chunk = slice(start, start + num_images)
            seen_NHW = None if seen is None else np.broadcast_to(seen, mask_NHW.shape)[chunk]
            self._add(map_NHW[chunk], mask_NHW[chunk], seen_NHW)

    def merge(self, other: "PixelCounts") -> None:
        """Add what `other` counted."""
        self._cover(other._page_S)
        count_KSB = _coarser(other._count_KSB, self.shift - other.shift)
        self._count_KSB[:, np.searchsorted(self._page_S, other._page_S)] += count_KSB

    def metrics(self, fpr_limit: float = 0.3) -> Metrics:
        """`p_auroc`, `p_ap`, `p_f1_max` and `aupro` as `exact_pixel.pixel_metrics` gives them, of the bins."""
        steps = self._steps()
        return dict.fromkeys(NAMES) if steps is None else steps.metrics(fpr_limit)

    def error_bounds(self, fpr_limit: float = 0.3) -> Metrics:
        """Upper bounds of how far `metrics` is from those of the scores themselves, by name; None where they are None.

        Of `aupro` always a little above 0: a pixel's share of its region is rounded, by 1 / `REGION` at most, and
        the region's first pixel makes up for it.
        """
        steps = self._steps()
        if steps is None:
            return dict.fromkeys(NAMES)
        bounds = steps.error_bounds(fpr_limit) if self.shift else dict.fromkeys(NAMES, 0.0)
        rounded = float(steps.defect_from_T[-1] / steps.region_from_T[-1] / REGION)
        return {**bounds, "aupro": bounds["aupro"] + rounded}

    def to_table(self) -> pa.Table:
        """The occupied bins, by key (`SCHEMA`): equal counts give equal tables."""
        count_KC = self._count_KSB.reshape(3, -1)
        occupied = np.flatnonzero(count_KC[_NORMAL] + count_KC[_DEFECT])
        page, place = np.divmod(occupied, self._count_KSB.shape[2])
        key = (self._page_S[page] << _PAGE_BITS) + (place << self.shift)
        return pa.table([key, *count_KC[:, occupied]], schema=SCHEMA)

    @classmethod
    def of_table(cls, table: pa.Table) -> Self:
        """The counts that `to_table` wrote."""
        counts, key = cls(), table["key"].to_numpy().astype(np.int64)
        counts._cover(np.unique(key >> _PAGE_BITS))
        page = np.searchsorted(counts._page_S, key >> _PAGE_BITS)
        place = (key & (2**_PAGE_BITS - 1)) >> counts.shift
        for kind, name in enumerate(SCHEMA.names[1:]):
            counts._count_KSB[kind, page, place] = table[name].to_numpy()
        return counts

    def _add(self, map_NHW: Floats, mask_NHW: Bools, seen_NHW: Bools | None) -> None:
        key_NHW = order_keys(map_NHW)
        bin_NHW = self._bins(key_NHW)
        defect_P, unit_P = bin_NHW[mask_NHW], region_units(mask_NHW)
        count_KC = self._count_KSB.reshape(3, -1)
        defect_C = np.bincount(defect_P, minlength=count_KC.shape[1])
        counted = bin_NHW.ravel() if seen_NHW is None else bin_NHW[seen_NHW | mask_NHW]
        count_KC[_NORMAL] += np.bincount(counted, minlength=count_KC.shape[1]) - defect_C
        count_KC[_DEFECT] += defect_C
        np.add.at(count_KC[_REGION], defect_P, unit_P)  # `bincount` would add them up as doubles

    def _bins(self, key_NHW: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
        """The bin of each key; pages that are new get bins first."""
        page_NHW = key_NHW >> _PAGE_BITS
        first_NHW: npt.NDArray[np.intp] = self._first_bins()[page_NHW]
        new = page_NHW[first_NHW < 0]
        if new.size:
            self._cover(np.unique(new))
            first_NHW = self._first_bins()[page_NHW]
        key_NHW &= 2**_PAGE_BITS - 1
        key_NHW >>= self.shift
        first_NHW += key_NHW
        return first_NHW

    def _first_bins(self) -> npt.NDArray[np.intp]:
        """The first bin of every possible page, -1 where it has none; negative pages are found from the end."""
        first = np.full(2 ** (32 - _PAGE_BITS), -1, np.intp)
        first[self._page_S] = np.arange(self._page_S.size) * self._count_KSB.shape[2]
        return first

    def _cover(self, page_S: Counts) -> None:
        """Give these pages bins too, all pages fewer if need be."""
        union_S = np.union1d(self._page_S, page_S)
        if union_S.size == self._page_S.size:
            return
        shift = _least_shift(union_S.size)
        count_KSB = np.zeros((3, union_S.size, 2 ** (_PAGE_BITS - shift)), np.int64)
        count_KSB[:, np.searchsorted(union_S, self._page_S)] = _coarser(self._count_KSB, shift - self.shift)
        self._page_S, self._count_KSB = union_S, count_KSB

    def _steps(self) -> Steps | None:
        """Counts of what the bins' lower ends pass; None unless there are pixels of both kinds."""
        normal_T, defect_T, region_T = self._count_KSB.reshape(3, -1)[:, ::-1]
        if not normal_T.any() or not defect_T.any():
            return None
        assert region_T.sum(dtype=np.float64) / REGION < _MAX_REGIONS, "too many regions for 64 bits"
        found_T = defect_T > 0
        normal_from_T = np.cumsum(normal_T)
        return Steps(
            num_normal=int(normal_from_T[-1]),
            normal_above_T=(normal_from_T - normal_T)[found_T],
            normal_from_T=normal_from_T[found_T],
            defect_from_T=np.cumsum(defect_T[found_T]).astype(np.float64),
            region_from_T=np.cumsum(region_T[found_T]) / REGION,
        )


def order_keys(map_NHW: Floats) -> npt.NDArray[np.int32]:
    """An integer for each score, in the order of the scores: its bits, which run backwards in negative ones."""
    assert map_NHW.dtype == np.float32, map_NHW.dtype
    key_NHW = (map_NHW + np.float32(0)).view(np.int32)  # equal scores have equal keys: -0.0 + 0 is 0.0
    key_NHW ^= (key_NHW >> 31) & 0x7FFFFFFF
    return key_NHW


def region_units(mask_NHW: Bools) -> Counts:
    """`REGION` / size of its region for each of the P defective pixels; those of one region sum to `REGION`.

    Rounded down; the first pixel of a region has what is left, less than its size.
    """
    defective_N = mask_NHW.any(axis=(1, 2))  # labelling is a third of the work, and most images have no defect
    region_P = regions(mask_NHW[defective_N])
    size = np.bincount(region_P, minlength=1)
    first = np.zeros_like(size)
    first[region_P[::-1]] = np.arange(region_P.size)[::-1]  # of several values for one place the last stays
    unit_P = REGION // size[region_P]
    unit_P[first[1:]] += REGION % size[1:]
    return unit_P


def _least_shift(num_pages: int) -> int:
    """Least shift by which bins must be coarser than single keys for so many pages."""
    shift = 0
    while num_pages << (_PAGE_BITS - shift) > MAX_BINS:
        shift += 1
    return shift


def _coarser(count_KSB: Counts, shift: int) -> Counts:
    """The same counts in bins 2 ** `shift` times as wide."""
    kinds, pages, bins = count_KSB.shape
    coarse: Counts = count_KSB.reshape(kinds, pages, bins >> shift, 1 << shift).sum(axis=3)
    return coarse
