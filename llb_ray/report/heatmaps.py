"""Comparable anomaly maps: every overlay that a run's detector draws is on one colour scale."""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from PIL import Image

from llb_ray.config import DataConfig, RunConfig
from llb_ray.data.band_scale import BandScale
from llb_ray.data.bands import read_bands
from llb_ray.data.candidate_files import File
from llb_ray.data.decoding import read_rgb
from llb_ray.data.ignored_regions import Ignored
from llb_ray.data.levels import Levels
from llb_ray.data.tables import read_table
from llb_ray.detectors.base import row_batches
from llb_ray.engine import filenames
from llb_ray.engine.evaluation.held_out_maps import HeldOutMaps
from llb_ray.engine.features.ignored_pixels import read_ignored
from llb_ray.engine.features.measured_bands import read_scale
from llb_ray.engine.features.measured_levels import read_levels
from llb_ray.engine.inference.predict import COLOUR_SCALE, OVERLAYS
from llb_ray.engine.inference.prediction_tables import Judged
from llb_ray.engine.inference.verdicts import ANOMALOUS
from llb_ray.engine.pixel_grid import PixelGrid
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.ensemble.purified_dataset import kept_ids
from llb_ray.report.region_boxes import with_boxes

_COLOURS = matplotlib.colormaps["inferno"]  # perceptually uniform, readable without colour vision
_MAX_SIDE_PX = 1024
_SCALE_IMAGES = 500
_NAME_TROUBLE = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
_DIMMED = 0.4  # of its brightness is left of what is not looked at
MAX_OPACITY = 0.75  # the defect under the hottest spot stays visible
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scale:
    """The colour scale, in units of the anomaly map; per-map scaling would make every image look defective."""

    low: float  # and below: the photograph as it is
    high: float  # and above: the brightest colour

    @classmethod
    def of(cls, maps: Iterable[Floats]) -> "Scale":
        """From normal images' maps: their hottest hundredth, from its median to four times as far as its 95th centile.

        So a normal image stays all but blank, and what is bright is well beyond every normal one.
        """
        hot_N = [np.quantile(map_HW, 0.99) for map_HW in maps]
        median, upper = np.percentile(hot_N, [50, 95])
        # The second only matters where normal images are all alike: the scale must not be empty.
        span = max(4 * (upper - median), 1e-6 * max(1, abs(median)))
        return cls(float(median), float(median + span))

    @classmethod
    def of_run(cls, folder: RunFolder) -> "Scale":
        """The scale of a run's final detector, from images it kept: pictures of different days can be compared."""
        return cls.of(kept_maps(folder))

    def share(self, map_HW: Floats) -> Floats:
        """The map's place between low and high, in [0, 1]."""
        share: Floats = np.clip((map_HW - self.low) / (self.high - self.low), 0, 1, dtype=np.float32)
        return share


def kept_maps(folder: RunFolder) -> Iterator[Floats]:
    """Maps of images that the run kept, a few hundred at most, as the pixel metrics see them.

    By detectors that had not seen the image, where the run has such maps: those of the final detector are lower on what
    it was trained on, and by their scale every new image would look hot.
    """
    made, grid = folder.made(), pixel_grid(folder)
    purified, scores = read_table(made.purified.file(filenames.PURIFIED)), read_scores(made.final_scores)
    held_out = HeldOutMaps(made.held_out_maps, grid).of_kept(purified, scores, purified)
    if held_out is not None:
        return smooth_maps(*held_out, grid)
    # Ids are hashes, so the first few hundred are a random sample.
    image_ids = kept_ids(purified)[:_SCALE_IMAGES]
    rows = pc.index_in(pa.array(image_ids), scores["image_id"].combine_chunks())
    return smooth_maps(image_ids, scores.take(rows)["map"].combine_chunks().to_numpy_ndarray(), grid)


def smooth_maps(image_ids: Sequence[str], map_NHW: Floats, grid: PixelGrid) -> Iterator[Floats]:
    """The maps of these images of the run at the size of pixels, a few in memory at a time: at the detector's own size
    they are much smaller."""
    for rows in row_batches(len(map_NHW), grid.images_at_once):
        yield from grid.smooth_each([image_ids[row] for row in rows], map_NHW[rows])


def colour_table() -> npt.NDArray[np.uint8]:
    """The colours from low to high [256, 3], for programs that draw what `overlay` draws here."""
    table: npt.NDArray[np.uint8] = np.rint(255 * _COLOURS(np.arange(256))[:, :3]).astype(np.uint8)
    return table


def overlay(image_HW3: npt.NDArray[np.uint8], map_HW: Floats, scale: Scale) -> npt.NDArray[np.uint8]:
    """The photograph [H, W, 3] blended with the map, more opaque where it is more anomalous."""
    height, width = image_HW3.shape[:2]
    resized = np.asarray(Image.fromarray(map_HW).resize((width, height), Image.Resampling.BILINEAR))
    share_HW = scale.share(resized)
    opacity_HW1 = MAX_OPACITY * share_HW[..., None]
    blended = (1 - opacity_HW1) * image_HW3 + opacity_HW1 * 255 * _COLOURS(share_HW)[..., :3]
    pixels: npt.NDArray[np.uint8] = blended.round().astype(np.uint8)
    return pixels


def dim(picture_HW3: npt.NDArray[np.uint8], grid: PixelGrid) -> npt.NDArray[np.uint8]:
    """The picture, dark where it is not looked at."""
    seen_HW = grid.inspected(np.ones(picture_HW3.shape[:2], bool))
    return np.where(seen_HW[..., None], picture_HW3, np.uint8(_DIMMED * picture_HW3))


def pixel_grid(folder: RunFolder) -> PixelGrid:
    """The pixels of a run, without those that it ignores."""
    config = folder.config()
    return PixelGrid.of(config, read_ignored(folder.made().ignored, config))


class Painter:
    """Draws photographs of a run's kind with their maps, all on the run's colour scale."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def __call__(self, path: Path, map_HW: Floats, mask: Ignored | None = None) -> npt.NDArray[np.uint8]:
        """The photograph [H, W, 3] with the detector's map drawn over it; it is read again, at its own size.

        `mask` is its own, in a run of which each has one.
        """
        grid = self._grid if self._grid.masks is None else self._grid.with_mask(mask)
        (smooth_HW,) = grid.smooth(map_HW[None])
        picture_HW3 = overlay(_bounded(photograph(path, self._config.data, *self._scales)), smooth_HW, self.scale)
        return dim(picture_HW3, grid)

    @cached_property
    def scale(self) -> Scale:
        return Scale.of_run(self._folder)

    @cached_property
    def _grid(self) -> PixelGrid:
        return pixel_grid(self._folder)

    @cached_property
    def _config(self) -> RunConfig:
        return self._folder.config()

    @cached_property
    def _scales(self) -> tuple[BandScale | None, Levels | None]:
        made = self._folder.made()
        return read_scale(made.bands), read_levels(made.levels)


class Overlays:
    """Draws ``overlays/<path>.png`` below `out` for each image of each batch it is called with, or each anomalous one.

    All are on the run's colour scale, which is drawn beside them, and have boxes round their regions.
    """

    def __init__(self, folder: RunFolder, out: Path, anomalous_only: bool) -> None:
        self._paint = Painter(folder)
        self._out = out
        self._anomalous_only = anomalous_only
        self._has_scale = False

    def __call__(self, judged: Judged) -> None:
        """Draw a batch."""
        if judged.verdicts is None:
            return
        decisions, regions = judged.verdicts.decisions, judged.regions or [[] for _ in judged.files]
        verdicts = judged.verdicts
        columns = verdicts.map_NHW, regions, verdicts.sizes, verdicts.masks
        for file, decision, map_HW, found, size, mask in zip(judged.files, decisions, *columns, strict=True):
            if decision == ANOMALOUS or not self._anomalous_only:
                self._draw_scale()
                picture_HW3 = with_boxes(self._paint(judged.root / file.path, map_HW, mask), found, size)
                save_picture(picture_HW3, self._out / OVERLAYS, file)

    def _draw_scale(self) -> None:
        """Once, with the first picture: a prediction that is refused leaves none."""
        if not self._has_scale:
            _draw_scale(self._paint.scale, self._out / COLOUR_SCALE)
            self._has_scale = True


def photograph(path: Path, config: DataConfig, bands: BandScale | None, levels: Levels | None) -> npt.NDArray[np.uint8]:
    """The image in RGB, on the run's levels; of one with several bands, a picture on the run's scale."""
    if bands is None:
        return read_rgb(path, None, config.max_pixels, levels)
    return bands.picture(read_bands(path, bands.num_bands, config.max_pixels))


def save_picture(picture: npt.NDArray[np.uint8], folder: Path, file: File) -> None:
    """As <path>.png; as <image_id>.png where that is too long, also the name of a folder of the data, or not below
    the folder that paths are relative to."""
    within = os.path.normpath(file.path).lstrip("/")
    path = folder / f"{file.image_id if within.startswith('..') else within}.png"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    except OSError as error:
        if error.errno not in _NAME_TROUBLE:
            raise
        Image.fromarray(picture).save(folder / f"{file.image_id}.png")


def _bounded(image_HW3: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    image = Image.fromarray(image_HW3)
    image.thumbnail((_MAX_SIDE_PX, _MAX_SIDE_PX))
    return np.asarray(image)


def _draw_scale(scale: Scale, path: Path) -> None:
    figure = Figure(figsize=(5, 0.9), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=_COLOURS, extent=(scale.low, scale.high, 0, 1))
    axes.set_yticks([])
    axes.set_xlabel("anomaly map; below the left end the photograph is as it was")
    figure.savefig(path, dpi=120)
