"""Anomaly maps as small as the page needs them, without the large ones that they are shrunk from.

Shapes: N maps, h x w cells of the detector, H x W pixels of its input, s x s cells on the page.
"""

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch.nn import functional

from llb_ray.engine.pixel_grid import PixelGrid
from llb_ray.report.heatmaps import Floats, smooth_maps

_SIDE = 64


def small_map(map_HW: Floats) -> Floats:
    """A smoothed map [s, s]."""
    side = min(_SIDE, *map_HW.shape)
    return np.asarray(Image.fromarray(map_HW).resize((side, side), Image.Resampling.BOX))


def small_maps(image_ids: Sequence[str], map_Nhw: Floats, grid: PixelGrid) -> Iterator[Floats]:
    """The detector's maps of these images of the run, smoothed and shrunk [s, s]; `small_map` but for rounding."""
    if grid.ignored or grid.masks:  # pixels that are left out weigh in the Gaussian, which is no product then
        yield from map(small_map, smooth_maps(image_ids, map_Nhw, grid))
        return
    side = min(_SIDE, *grid.size)
    rows_sh, columns_sw = (
        _shrinking(cells, pixels, grid.sigma_px, side)
        for cells, pixels in zip(map_Nhw.shape[1:], grid.size, strict=True)
    )
    yield from rows_sh @ map_Nhw @ columns_sw.T


@cache
def _shrinking(cells: int, pixels: int, sigma_px: float, side: int) -> npt.NDArray[np.float32]:
    """Matrix [s, h] that interpolates, smooths and shrinks along one side: each of these is linear."""
    large_hH = functional.interpolate(torch.eye(cells)[:, None], pixels, mode="linear", align_corners=False)[:, 0]
    smooth_hH: Floats = gaussian_filter(large_hH.numpy(), sigma=(0, sigma_px))
    return np.asarray(Image.fromarray(smooth_hH).resize((side, cells), Image.Resampling.BOX)).T
