"""The places in a photograph where an anomaly map is above the run's pixel threshold.

Shapes: H x W pixels of the size that maps are smoothed at.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.artifacts import Artifact
from llb_ray.config import Size
from llb_ray.data.tables import read_table
from llb_ray.engine import filenames
from llb_ray.engine.pixel_grid import PixelGrid
from llb_ray.ensemble.pixel_threshold import level_at, refuse_unknown

ANY = ""  # the category of all images where a run has only one: none of them needs a name
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Region:
    """A connected place above the pixel threshold, in pixels of the photograph, upright; x runs right, y down."""

    x: int  # of the bounding box, its left and upper end
    y: int
    width: int
    height: int
    area: int  # in square pixels
    peak: float  # largest value of the anomaly map in it
    mean: float
    polygon: tuple[float, ...]  # its outline x0, y0, x1, y1, ..., closed


@dataclass(frozen=True)
class RegionFinder:
    """The pixel threshold, and the pixels that it is applied to."""

    level: float
    grid: PixelGrid

    @classmethod
    def of(cls, made: Artifact, false_area_rate: float, grid: PixelGrid, category: str = ANY) -> "RegionFinder | None":
        """The finder with the level that this share of the area of normal images of a category exceeds, by a
        `threshold` artifact.

        None where this was made without held-out maps; raises ConfigError, then too, for a rate that no table has.
        """
        refuse_unknown(false_area_rate)
        if filenames.PIXEL_LEVELS not in made.files:
            return None
        levels = rows_for(read_table(made.file(filenames.PIXEL_LEVELS)), category)
        level = level_at(levels, false_area_rate)
        return cls(level, grid)

    def smooth(self, map_HW: Floats) -> Floats:
        """The map [H, W] that is compared with the level, from one at the detector's own resolution."""
        smooth_HW: Floats = self.grid.smooth(map_HW[None])[0]
        return smooth_HW

    def find(self, map_HW: Floats, size: Size) -> list[Region]:
        """The regions in a photograph of this height and width, the one with the highest peak first."""
        from scipy import ndimage

        smooth_HW = self.smooth(map_HW)
        label_HW, num = ndimage.label(self.grid.inspected(smooth_HW > self.level))
        found = [
            self._region(smooth_HW[box], label_HW[box] == number, box, size)
            for number, box in zip(range(1, num + 1), ndimage.find_objects(label_HW), strict=True)
        ]
        return sorted(found, key=lambda region: -region.peak)

    def mask(self, map_HW: Floats, size: Size) -> npt.NDArray[np.bool_]:
        """True at the pixels of the photograph that are in a region."""
        from PIL import Image

        height, width = size
        large = Image.fromarray(self.smooth(map_HW)).resize((width, height), Image.Resampling.BILINEAR)
        return self.grid.inspected(np.asarray(large) > self.level)

    def _region(self, map_HW: Floats, inside_HW: npt.NDArray[np.bool_], box: tuple[slice, slice], size: Size) -> Region:
        scale = np.array(size) / self.grid.size  # y, x
        starts, stops = (np.array([getattr(side, end) for side in box]) * scale for end in ("start", "stop"))
        (y, x), (bottom, right) = np.floor(starts).astype(int).tolist(), np.ceil(stops).astype(int).tolist()
        values = map_HW[inside_HW]
        return Region(
            x=x,
            y=y,
            width=right - x,
            height=bottom - y,
            area=max(1, round(values.size * float(scale.prod()))),
            peak=float(values.max()),
            mean=float(values.mean()),
            polygon=self._outline(map_HW, inside_HW, box, size),
        )

    def _outline(
        self, map_HW: Floats, inside_HW: npt.NDArray[np.bool_], box: tuple[slice, slice], size: Size
    ) -> tuple[float, ...]:
        """The line at which the map crosses the level, to a tenth of a pixel, of this region alone, without holes."""
        from contourpy import FillType, contour_generator

        low = self.level - (float(map_HW[inside_HW].max()) - self.level)  # so that an edge is crossed half a pixel away
        alone = np.pad(np.where(inside_HW, map_HW, np.minimum(map_HW, self.level)), 1, constant_values=low)
        filled: Any = contour_generator(z=alone, fill_type=FillType.OuterOffset).filled(self.level, np.inf)
        line_P2 = max((line_P2[: ends[1]] for line_P2, ends in zip(*filled, strict=True)), key=len)
        origin = np.array([box[1].start, box[0].start]) - 0.5  # a pixel before the box, and pixels have their centres
        limit, own = np.array(size[::-1]), np.array(self.grid.size[::-1])
        on_photo_P2 = np.clip((line_P2 + origin) * limit / own, 0, limit).round(1)
        return tuple(on_photo_P2.ravel().tolist())


def rows_for(table: pa.Table, category: str) -> pa.Table:
    """The rows of a table of a `threshold` artifact that are about this category; all of it for `ANY`."""
    return table if category == ANY else table.filter(pc.equal(table["category"], category))
