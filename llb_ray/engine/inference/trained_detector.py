"""A run's final detector, ready for new images: what `llb_ray.Detector` is.

Shapes: N images, H x W cells of the detector's map.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from llb_ray.config import Size
from llb_ray.data.decoding import as_sized, content_id
from llb_ray.data.ignored_regions import Ignored, Region
from llb_ray.data.unreadable_files import UnreadableImage
from llb_ray.engine.execution.protocols import owned_threads
from llb_ray.engine.features.encoding import EncoderSpec, layers_of
from llb_ray.engine.features.mean_features import mean_features
from llb_ray.engine.inference.calibrated_run import CalibratedRun, VerdictSettings
from llb_ray.engine.inference.given_masks import Mask, regions_given
from llb_ray.engine.inference.photograph_masks import MADE_WITHOUT
from llb_ray.engine.inference.verdicts import Calibration, Verdicts
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.engine.workers.fitter import load_detector
from llb_ray.ensemble.pixel_threshold import FALSE_AREA_RATE
from llb_ray.errors import ConfigError, DataError, MemberError
from llb_ray.remote import locate

_STACK_DIMENSIONS = 4  # of an array of several images: [N, H, W, 3]
Pixels = npt.NDArray[np.uint8]
Sized = tuple[Pixels, Size]  # an image as the encoder takes it, and its own height and width
Picture = str | PathLike[str] | Image.Image | Pixels
MaskedPicture = tuple[Picture, Region | None, Region | None]  # an image, and what is to be ignored and inspected in it
Item = TypeVar("Item")


class TrainedDetector:
    """The final detector of a run, with its encoder and its threshold; `load` it, then `predict`.

    >>> detector = llb_ray.Detector.load("runs/photos")                      # doctest: +SKIP
    >>> detector.predict("new/1.png").decisions                              # doctest: +SKIP
    ['normal']
    >>> detector.predict(["new/1.png", "new/2.png"]).decisions               # doctest: +SKIP
    ['normal', 'anomalous']
    """

    def __init__(self, run: CalibratedRun) -> None:
        self.run = run
        self.config, self.photographs = run.config, run.photographs
        self.encoding = EncoderSpec(run.photographs, run.config.resources)
        self.detector = load_detector(run.config.detector_of("final"), run.final, run.config.resources)

    @property
    def calibration(self) -> Calibration:
        """See `CalibratedRun`."""
        return self.run.calibration

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        threshold: float | None = None,
        false_alarm_rate: float | None = None,
        false_area_rate: float = FALSE_AREA_RATE,
        category: str | None = None,
    ) -> "TrainedDetector":
        """The final detector of a finished run, a folder or a URI, on the kind of device that the run was made on.

        Images are called anomalous above the run's threshold, or above this `threshold`, or above the one for this
        `false_alarm_rate`, from the run's held-out scores.  Regions are where maps are above what a share
        `false_area_rate` of the area of held-out normal images exceeds.  Of a run of several categories it judges
        images of `category` alone, or of the one that `predict` is given.
        Raises ArtifactError if there is no finished run or it set no threshold, WeightsError if its backbone's weights
        are gone or changed, ResourceError if it was made on a GPU and there is none here.
        """
        settings = VerdictSettings(threshold, false_alarm_rate, false_area_rate, category)
        return cls(CalibratedRun.of(RunFolder.open(locate(run)), settings))

    def predict(
        self,
        images: Picture | Iterable[Picture],
        category: str | None = None,
        ignore_mask: Mask | Sequence[Mask | None] | None = None,
        inspect_mask: Mask | Sequence[Mask | None] | None = None,
    ) -> Verdicts:
        """Scores, decisions, quantiles and maps of images: paths, PIL images, or uint8 arrays [H, W, 3] or [H, W].

        A single image is one verdict; an array [N, H, W, 3] is N images.  They may have any size, and are resized as a
        run resizes its own.  All maps are held: for more images than fit there is `llb_ray.predict`.  `category` is
        that of the images, of a run of several.  Of a run with a mask for each photograph, `ignore_mask` is the mask of
        the image, or of several those of all: paths, PIL images or arrays [H, W], not 0 where it is ignored, or in
        `inspect_mask` not 0 where it is looked at.  Raises DataError for an image or a mask that cannot be read, and
        where there is none.
        """
        name = self.run.category(category)
        chunks = batched(self._with_masks(images, ignore_mask, inspect_mask), self.encoding.batch_size)
        verdicts = [self.judge(*stacked(read), [name] * len(read)) for read in self.encoding.ahead(self._sized, chunks)]
        if not verdicts:
            raise DataError("no image to predict; give at least one")
        score_N, map_NHW, feature_NS = (
            np.concatenate([getattr(one, name) for one in verdicts]) for name in ("score_N", "map_NHW", "feature_NS")
        )
        sizes, calibrations, masks = (
            [value for one in verdicts for value in getattr(one, name)] for name in ("sizes", "calibrations", "masks")
        )
        return Verdicts(score_N, map_NHW, feature_NS, sizes, calibrations, masks)

    def judge(
        self, image_NHWC: Pixels, sizes: Sequence[Size] | None = None, categories: Sequence[str] | None = None
    ) -> Verdicts:
        """The verdicts on images of the detector's own size, of photographs of these sizes and categories; masks of
        their own are in the last channel.

        Raises MemberError for a score that is not finite.
        """
        with owned_threads(self.config.resources):
            # Through the cache's number format, so that an image gets the score that a run gives it, within float
            # noise.
            stored = self.encoding.encode(image_NHWC)
            layers = layers_of(stored, self.encoding.device)
            scores, feature_NS = self.detector.score(layers), mean_features(layers)
        if not np.isfinite(scores.score_N).all():
            raise MemberError(
                "the final detector gave a score that is not finite; run again with a lower learning rate"
            )
        own = image_NHWC.shape[1:3]
        sizes = sizes or [own] * len(image_NHWC)
        names = categories or [self.run.category(None)] * len(image_NHWC)
        masks = [Ignored(image_HWC[..., -1] > 0) if self.photographs.has_masks else None for image_HWC in image_NHWC]
        calibrations = [self.run.calibrations[name].with_mask(mask) for name, mask in zip(names, masks, strict=True)]
        return Verdicts(scores.score_N, scores.map_NHW, feature_NS, sizes, calibrations, masks)

    def _with_masks(
        self,
        images: Picture | Iterable[Picture],
        ignore: Mask | Sequence[Mask | None] | None,
        inspect: Mask | Sequence[Mask | None] | None,
    ) -> Iterable[MaskedPicture]:
        """The images one by one, each with what is to be ignored and inspected in it."""
        if ignore is None and inspect is None:
            return ((image, None, None) for image in _each(images))
        if self.run.masks is None:
            raise ConfigError(MADE_WITHOUT)
        some = list(_each(images))
        return list(zip(some, regions_given(ignore, len(some)), regions_given(inspect, len(some)), strict=True))

    def _sized(self, asked: MaskedPicture) -> Sized:
        """The image as the encoder takes it; raises DataError for one that cannot be read."""
        picture, ignore, inspect = asked
        try:
            mask = self._mask(picture, ignore, inspect)
            if isinstance(picture, str | PathLike):
                return self.photographs.sized(Path(picture), mask)
            pixels, own = self._resized(picture)
            return self.photographs.masked(pixels, mask), own
        except UnreadableImage as error:
            where = picture if isinstance(picture, str | PathLike) else "an image given to predict"
            raise DataError(f"{where}: {error}; leave it out") from error

    def _mask(self, picture: Picture, ignore: Region | None, inspect: Region | None) -> Ignored | None:
        """The pixels that are ignored in an image; None where all of it is looked at, or the same as in all others."""
        if self.run.masks is None:
            return None
        image_id = content_id(Path(picture)) if isinstance(picture, str | PathLike) else ""  # the id of no image
        return self.run.masks.of_picture(ignore, inspect, image_id)

    def _resized(self, picture: Image.Image | Pixels) -> Sized:
        size = self.config.detector.size
        if self.config.data.bands is not None:
            raise DataError("images of several bands are predicted from their files; give their paths")
        if isinstance(picture, Image.Image):
            return as_sized(picture, size, self.photographs.levels)
        return as_sized(Image.fromarray(_checked(picture)), size)


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive items, `size` at a time, the last fewer; no more are taken than are asked for."""
    left = iter(items)
    while chunk := list(islice(left, size)):
        yield chunk


def stacked(read: Sequence[Sized]) -> tuple[Pixels, Sequence[Size]]:
    """The pixels [N, H, W, C] of images that were read, and their sizes."""
    pixels, sizes = zip(*read, strict=True)
    return np.stack(pixels), sizes


def _each(images: Picture | Iterable[Picture]) -> Iterable[Picture]:
    """The images one by one; a single image, whatever form it has, is not iterated over."""
    if isinstance(images, torch.Tensor):
        _checked(images)  # refused as one, not row by row
    if isinstance(images, str | bytes | PathLike | Image.Image) or not isinstance(images, Iterable):
        return [images]
    if isinstance(images, np.ndarray) and images.dtype.kind not in "OUS":  # an array of paths is a list of them
        return images if images.ndim == _STACK_DIMENSIONS else [images]
    return images


def _checked(image: object) -> Pixels:
    """The image; raises DataError unless it is an array of a photograph."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] in ((), (3,)) and image.ndim > 1:
        return image
    raise DataError(
        f"an image given to predict is {_described(image)}; give a path, a PIL image, or a uint8 array "
        "[height, width, 3] or [height, width]"
    )


def _described(value: object) -> str:
    """The type of `value`, of an array or tensor also its elements' type and its shape."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        return f"of type {type(value).__name__}"
    return f"of type {type(value).__name__}, {dtype} [{', '.join(map(str, shape))}]"
