"""Anomaly maps people can compare: every overlay of a data set is drawn on one colour scale."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from llb_ray.data.images import read_rgb
from llb_ray.data.tables import read_batches
from llb_ray.detectors.base import upsample
from llb_ray.engine.predict import MAPS, Prediction

_COLOURS = matplotlib.colormaps["inferno"]  # perceptually uniform, readable without colour vision
_MAX_SIDE_PX = 1024
_MAX_OPACITY = 0.75  # the defect under the hottest spot stays visible
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scale:
    """What the colours mean, in units of the anomaly map; per-map scaling would make every image look defective."""

    low: float  # and below: the photograph as it is
    high: float  # and above: the brightest colour

    @classmethod
    def of(cls, maps: Iterator[Floats]) -> "Scale":
        """From the median cell to the 99th percentile of the images' highest cells, over the whole data set."""
        medians, peaks = zip(*((float(np.median(one)), float(one.max())) for one in maps), strict=True)
        low, high = float(np.median(medians)), float(np.percentile(peaks, 99))
        return cls(low, max(high, low + 1e-12))

    def share(self, map_HW: Floats) -> Floats:
        """The map's place between low and high, in [0, 1]."""
        share: Floats = np.clip((map_HW - self.low) / (self.high - self.low), 0, 1, dtype=np.float32)
        return share


def overlay(image_HW3: npt.NDArray[np.uint8], map_HW: Floats, scale: Scale) -> npt.NDArray[np.uint8]:
    """The photograph [H, W, 3] with the map laid over it, more opaque where it is more anomalous."""
    height, width = image_HW3.shape[:2]
    resized = np.asarray(Image.fromarray(map_HW).resize((width, height), Image.Resampling.BILINEAR))
    share_HW = scale.share(resized)
    opacity_HW1 = _MAX_OPACITY * share_HW[..., None]
    blended = (1 - opacity_HW1) * image_HW3 + opacity_HW1 * 255 * _COLOURS(share_HW)[..., :3]
    pixels: npt.NDArray[np.uint8] = blended.round().astype(np.uint8)
    return pixels


def write_overlays(prediction: Prediction) -> None:
    """Write ``overlays/<path>.png`` for every scored image, and the scale they share as colour_scale.png."""
    scale = Scale.of(_smooth_maps(prediction))
    for file, map_HW in zip(prediction.files, _smooth_maps(prediction), strict=True):
        image_HW3 = read_rgb(prediction.root / file.path, None, prediction.config.data.max_pixels)
        path = prediction.out / "overlays" / f"{file.path}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(overlay(_bounded(image_HW3), map_HW, scale)).save(path)
    _draw_scale(scale, prediction.out / "colour_scale.png")


def _smooth_maps(prediction: Prediction) -> Iterator[Floats]:
    size_px = prediction.config.detector.image_size_px
    sigma_px = prediction.config.evaluation.sigma_at(size_px)
    for batch in read_batches(prediction.out / MAPS):
        yield from upsample(batch.column("map").to_numpy_ndarray(), size_px, sigma_px)


def _bounded(image_HW3: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    image = Image.fromarray(image_HW3)
    image.thumbnail((_MAX_SIDE_PX, _MAX_SIDE_PX))
    return np.asarray(image)


def _draw_scale(scale: Scale, path: Path) -> None:
    figure = Figure(figsize=(5, 0.9), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=_COLOURS, extent=(scale.low, scale.high, 0, 1))
    axes.set_yticks([])
    axes.set_xlabel("anomaly map; below the left end the photograph shows through")
    figure.savefig(path, dpi=120)
