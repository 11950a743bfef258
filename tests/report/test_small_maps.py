"""Small maps are those that shrinking the smoothed ones gives, whatever the sizes."""

import numpy as np
import pytest

from llb_ray.data.ignored_regions import Ignored
from llb_ray.engine.pixel_grid import PixelGrid
from llb_ray.report.heatmaps import smooth_maps
from llb_ray.report.small_maps import small_map, small_maps


@pytest.mark.parametrize("cells", [(28, 28), (14, 21), (1, 5), (64, 64)])
@pytest.mark.parametrize(("size_px", "sigma_px"), [(224, 4.0), ((96, 160), 2.0), (48, 0.0), (100, 30.0)])
@pytest.mark.parametrize("ignoring", [False, True])
def test_a_small_map_is_the_smoothed_one_shrunk(
    cells: tuple[int, int], size_px: int | tuple[int, int], sigma_px: float, ignoring: bool
) -> None:
    grid = PixelGrid(size_px, sigma_px)
    if ignoring:
        mask_HW = np.zeros(grid.size, bool)
        mask_HW[:10, :20] = True
        grid = PixelGrid(size_px, sigma_px, Ignored(mask_HW))
    ids = ["a", "b", "c"]
    map_Nhw = np.random.default_rng(0).gamma(2, size=(3, *cells)).astype(np.float32)
    for found, large in zip(small_maps(ids, map_Nhw, grid), smooth_maps(ids, map_Nhw, grid), strict=True):
        assert np.allclose(found, small_map(large), rtol=1e-5, atol=1e-5)
