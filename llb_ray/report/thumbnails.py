"""Photographs and anomaly maps small enough for thousands of them to be in one page.

A photograph is a thumbnail, as large as the page's budget allows; a map is its place on the run's colour scale, 8 bits
a cell.  The page colours maps by itself, so an overlay costs nothing until it is looked at.
"""

import base64
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from llb_ray.data.decoding import content_id, read_thumbnail
from llb_ray.data.manifest import path_from_text
from llb_ray.data.unreadable_files import UnreadableImage
from llb_ray.detectors.base import row_batches
from llb_ray.engine.features.measured_bands import read_scale
from llb_ray.engine.features.measured_levels import read_levels
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.report.heatmaps import Floats, Scale, kept_maps, photograph, pixel_grid
from llb_ray.report.small_maps import small_map, small_maps
from llb_ray.report.unusual_places import Place, Range

BUDGET_BYTES = 20 * 2**20  # of all thumbnails of a page
_SIDES_PX = (320, 256, 192, 144, 112, 96, 80)
_QUALITY = 70
_EFFORT = 2  # of WebP's 0 to 6: half the time of its usual 4, for files a twentieth larger
_SAMPLE = 32
_THREADS = min(8, os.cpu_count() or 1)  # each may hold one image of data.max_pixels
_BATCH = 64
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """An image as the page has it: WebP in base64; no photograph where the file is gone, changed or no photograph."""

    photo: str | None
    map: str
    place: Place  # where it is most unusual


@dataclass(frozen=True)
class Pictures:
    """The pictures of a run, on one colour scale."""

    run: FinishedRun
    scale: Scale
    usual: Range
    _path: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, run: FinishedRun) -> "Pictures":
        path = dict(zip(run.images["image_id"].to_pylist(), run.images["path"].to_pylist(), strict=True))
        small: list[Floats] = []
        scale = Scale.of(_noted(kept_maps(run.folder), small))
        return cls(run, scale, Range.of(np.stack(small)), path)

    def of_images(self, image_ids: Sequence[str], progress: Callable[[int, int], None]) -> list[Picture]:
        """The pictures of these images; `progress` is called with (done, total)."""
        with ThreadPoolExecutor(_THREADS) as pool:
            sample = pool.map(self._thumbnail, image_ids[:: max(1, len(image_ids) // _SAMPLE)])
            side_px = _side([image for image in sample if image is not None], len(image_ids))
            photos = pool.map(lambda image_id: self._photo(image_id, side_px), image_ids)
            pictures = []
            for photo, map_HW in zip(photos, self._maps(image_ids), strict=True):
                drawn = _text(_webp(self._drawn(map_HW), lossless=True))
                pictures.append(Picture(None if photo is None else _text(photo), drawn, self.usual.place(map_HW)))
                progress(len(pictures), len(image_ids))
        return pictures

    def _photo(self, image_id: str, side_px: int) -> bytes | None:
        image = self._thumbnail(image_id, side_px)
        return None if image is None else _webp(image, quality=_QUALITY)

    def _thumbnail(self, image_id: str, side_px: int = _SIDES_PX[0]) -> Image.Image | None:
        path = self.run.root / path_from_text(self._path[image_id])
        try:
            if content_id(path) != image_id:
                return None
            return self._made_small(path, side_px)
        except UnreadableImage:
            return None

    def _made_small(self, path: Path, side_px: int) -> Image.Image:
        data, bands, levels = self.run.config.data, read_scale(self.run.made.bands), read_levels(self.run.made.levels)
        if bands is None:
            return read_thumbnail(path, side_px, data.max_pixels, levels)
        image = Image.fromarray(photograph(path, data, bands, levels))
        image.thumbnail((side_px, side_px))
        return image

    def _maps(self, image_ids: Sequence[str]) -> Iterator[Floats]:
        """As the page needs them."""
        grid = pixel_grid(self.run.folder)
        scores = read_scores(self.run.made.final_scores)
        rows = pc.index_in(pa.array(image_ids), scores["image_id"].combine_chunks())
        for some in row_batches(len(rows), _BATCH):
            map_NHW = scores.take(rows.take(pa.array(some)))["map"].combine_chunks().to_numpy_ndarray()
            yield from small_maps([image_ids[row] for row in some], map_NHW, grid)

    def _drawn(self, map_HW: Floats) -> Image.Image:
        return Image.fromarray(np.rint(255 * self.scale.share(map_HW)).astype(np.uint8))


def _noted(maps: Iterable[Floats], small: list[Floats]) -> Iterator[Floats]:
    """The maps, one by one, each added to `small` as the page needs it."""
    for map_HW in maps:
        small.append(small_map(map_HW))
        yield map_HW


def _side(sample: Sequence[Image.Image], num_images: int) -> int:
    """The largest thumbnails of which `num_images` fit the budget, estimated from some of them, which are shrunk."""
    for side_px in _SIDES_PX[:-1]:
        for image in sample:
            image.thumbnail((side_px, side_px))
        bytes_each = np.mean([len(_webp(image, quality=_QUALITY)) for image in sample] or [0])
        if 4 / 3 * bytes_each * num_images <= BUDGET_BYTES:
            return side_px
    return _SIDES_PX[-1]


def _webp(image: Image.Image, quality: int = 100, lossless: bool = False) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality, lossless=lossless, method=_EFFORT)
    return file.getvalue()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
