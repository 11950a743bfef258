"""The pixels that anomaly maps are measured, thresholded and drawn on.

Shapes: N images, h x w cells of a detector's map, H x W pixels of the size that photographs are brought to.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from llb_ray.config import RunConfig, Size, dump_size, sides
from llb_ray.data.ignored_regions import Ignored
from llb_ray.detectors.base import upsample

_PIXELS_AT_ONCE = 2**21  # about 40 bytes each while they are smoothed and counted
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PixelGrid:
    """The size of the detector's input, the Gaussian, in its pixels, that smooths maps, and what is ignored."""

    size_px: int | Size
    sigma_px: float
    ignored: Ignored | None = None

    @classmethod
    def of(cls, config: RunConfig, ignored: Ignored | None) -> Self:
        """The pixels of a run."""
        detector = config.detector
        return cls(detector.image_size_px, config.evaluation.sigma_at(detector.encoded_size), ignored)

    @property
    def size(self) -> Size:
        """Height and width."""
        return sides(self.size_px)

    @property
    def num_pixels(self) -> int:
        """Of one image."""
        return math.prod(self.size)

    @property
    def images_at_once(self) -> int:
        """Number of images whose smoothed maps may be held together."""
        return max(1, _PIXELS_AT_ONCE // self.num_pixels)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that smoothed maps depend on besides the maps, JSON-ready."""
        ignored = {} if self.ignored is None else {"ignored": self.ignored.key}
        return {"size_px": dump_size(self.size_px), "sigma_px": self.sigma_px, **ignored}

    def smooth(self, map_NHW: Floats) -> Floats:
        """Maps [N, H, W] from those at the detector's own resolution [N, h, w].

        Ignored pixels are 0, and have no part in the values of others.
        """
        if self.ignored is None:
            return upsample(map_NHW, self.size, self.sigma_px)
        from scipy.ndimage import gaussian_filter

        seen_HW = ~self.ignored.mask_HW
        large_NHW = upsample(map_NHW, self.size, 0)
        weight_HW = gaussian_filter(seen_HW.astype(np.float32), self.sigma_px)
        for map_HW in large_NHW:
            weighed_HW = gaussian_filter(map_HW * seen_HW, self.sigma_px)
            map_HW[seen_HW] = weighed_HW[seen_HW] / weight_HW[seen_HW]
            map_HW[~seen_HW] = 0
        return large_NHW

    @property
    def seen_HW(self) -> Bools | None:
        """The pixels that are not ignored; None: all."""
        return None if self.ignored is None else ~self.ignored.mask_HW

    def inspected(self, mask_HW: Bools) -> Bools:
        """The mask, of these pixels or of a photograph's own, false where it is ignored."""
        if self.ignored is None:
            return mask_HW
        ignored = Image.fromarray(self.ignored.mask_HW).resize(mask_HW.shape[::-1], Image.Resampling.NEAREST)
        seen_HW: Bools = mask_HW & ~np.asarray(ignored)
        return seen_HW
