"""The pixels that anomaly maps are measured, thresholded and drawn on.

Shapes: N images, h x w cells of a detector's map, H x W pixels of the size that photographs are brought to.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from llb_ray.config import RunConfig, Size, dump_size, sides
from llb_ray.data.ignored_regions import Ignored
from llb_ray.data.image_masks import IgnoredPixels, ImageMasks
from llb_ray.detectors.base import upsample

_PIXELS_AT_ONCE = 2**21  # about 40 bytes each while they are smoothed and counted
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PixelGrid:
    """The size of the detector's input, the Gaussian, in its pixels, that smooths maps, and what is ignored.

    Where each image has a mask of its own, `of_image` has the pixels of one, and the run's own are whole.
    """

    size_px: int | Size
    sigma_px: float
    ignored: Ignored | None = None
    masks: ImageMasks | None = None

    @classmethod
    def of(cls, config: RunConfig, ignored: IgnoredPixels | None) -> Self:
        """The pixels of a run."""
        detector = config.detector
        common = ignored if isinstance(ignored, Ignored) else None
        masks = ignored if isinstance(ignored, ImageMasks) else None
        return cls(detector.image_size_px, config.evaluation.sigma_at(detector.encoded_size), common, masks)

    def with_mask(self, ignored: Ignored | None) -> Self:
        """The pixels of a photograph with this mask of its own."""
        return replace(self, ignored=ignored, masks=None)

    def of_image(self, image_id: str) -> Self:
        """The pixels of an image of the run."""
        return self if self.masks is None else self.with_mask(self.masks.of_image(image_id))

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
        found = self.ignored or self.masks
        ignored = {} if found is None else {"ignored": found.key}
        return {"size_px": dump_size(self.size_px), "sigma_px": self.sigma_px, **ignored}

    def smooth_each(self, image_ids: Sequence[str], map_NHW: Floats) -> Floats:
        """`smooth` of the maps of these images of the run."""
        if self.masks is None:
            return self.smooth(map_NHW)
        return np.concatenate(
            [self.of_image(image_id).smooth(map_HW[None]) for image_id, map_HW in zip(image_ids, map_NHW, strict=True)]
        )

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

    def seen(self, image_ids: Sequence[str]) -> Bools | None:
        """The pixels that are not ignored in these images of the run [N, H, W]; None: all."""
        if self.masks is not None:
            return np.stack([self.of_image(image_id).inspected(np.ones(self.size, bool)) for image_id in image_ids])
        if self.ignored is None:
            return None
        return np.broadcast_to(~self.ignored.mask_HW, (len(image_ids), *self.size))

    def inspected(self, mask_HW: Bools) -> Bools:
        """The mask, of these pixels or of a photograph's own, false where it is ignored."""
        if self.ignored is None:
            return mask_HW
        ignored = Image.fromarray(self.ignored.mask_HW).resize(mask_HW.shape[::-1], Image.Resampling.NEAREST)
        seen_HW: Bools = mask_HW & ~np.asarray(ignored)
        return seen_HW
