"""Images through the frozen encoder: read, checked against the manifest, encoded, in the cache's number format."""

import logging
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from llb_ray.artifacts import digest
from llb_ray.config import Augmentation, DetectorConfig, ResourcesConfig, Size, format_size
from llb_ray.data.augment import augment_image
from llb_ray.data.band_scale import BandScale
from llb_ray.data.bands import read_bands, resize_bands
from llb_ray.data.decoding import content_id, read_sized
from llb_ray.data.ignored_regions import Ignored
from llb_ray.data.image_masks import IgnoredPixels, ImageMasks
from llb_ray.data.levels import Levels
from llb_ray.data.manifest import path_from_text
from llb_ray.data.unreadable_files import UnreadableImage
from llb_ray.detectors.base import Encoder, Layers
from llb_ray.detectors.factory import build_encoder
from llb_ray.detectors.inspected import ignored_share
from llb_ray.engine.execution.protocols import device_for
from llb_ray.engine.features.mask_channel import split_mask
from llb_ray.errors import DataError, ResourceError, WeightsError

Decoded = TypeVar("Decoded")
Pixels = npt.NDArray[np.uint8]
Stored = list[npt.NDArray[Any]]  # one array per layer, images first, in the number format of the cache
Item = TypeVar("Item")
Read = TypeVar("Read")

_SIZE_STEP = 8  # of batches, in images
_BATCHES_AHEAD = 2  # read while one is encoded: enough to hide the disk, little enough to hold
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageRef:
    """An image, its place (`path` as the manifest spells it), how it is changed before it is encoded, and which mask
    of its own it has."""

    image_id: str
    path: str
    augment: Augmentation | None = None
    mask: str = ""  # its digest; empty: none


@dataclass(frozen=True)
class FeatureExtractor:
    """All that a worker needs to encode images of a run: their folder, the encoder the run is keyed by, for images of
    several bands their scale, for photographs of 16 bits their levels, and the pixels that are ignored.

    Where each image has a mask of its own, images have one more channel: not 0 where they are ignored.
    """

    root: Path
    max_pixels: int
    detector: DetectorConfig
    encoder: Mapping[str, Any]  # the fingerprint
    scale: BandScale | None = None  # None: photographs, in RGB
    levels: Levels | None = None  # None: 8 bits, or spread over all of 16
    ignored: IgnoredPixels | None = None  # None: all of every photograph is looked at

    @property
    def key(self) -> str:
        """Digest of all that an image's layers depend on besides the image and a mask of its own."""
        scale = {} if self.scale is None else {"scale": [self.scale.low_C, self.scale.high_C]}
        levels = {} if self.levels is None else {"levels": [self.levels.black, self.levels.white]}
        ignored = {} if self.ignored is None else {"ignored_cells": "by image" if self.has_masks else self.ignored.key}
        return digest({**self.encoder, **scale, **levels, **ignored})

    @property
    def num_channels(self) -> int:
        """Number of channels that the encoder takes."""
        return 3 if self.scale is None else self.scale.num_bands

    @property
    def has_masks(self) -> bool:
        """True if each image has a mask of its own."""
        return isinstance(self.ignored, ImageMasks)

    def read(self, image: ImageRef) -> Pixels:
        """The image as the encoder takes it [H, W, C]; raises DataError if it is not what the manifest describes."""
        path = self.root / path_from_text(image.path)
        mask = None if self.ignored is None else self.ignored.of_image(image.image_id)
        pixels = read_unchanged(path, image.image_id, lambda path: self.pixels(path, mask))
        return augment_image(pixels, image.augment)

    def pixels(self, path: Path, mask: Ignored | None = None) -> Pixels:
        """Any file as the encoder takes it [H, W, C], with a mask of its own; raises UnreadableImage for what is not
        one usable image."""
        return self.sized(path, mask)[0]

    def sized(self, path: Path, mask: Ignored | None = None) -> tuple[Pixels, Size]:
        """The same, and the height and width of the image in the file."""
        size = self.detector.size
        if self.scale is None:
            image_HW3, own = read_sized(path, size, self.max_pixels, self.levels)
            return self.masked(image_HW3, mask), own
        value_HWC = read_bands(path, self.scale.num_bands, self.max_pixels)
        height, width = value_HWC.shape[:2]
        return self.masked(self.scale.to_bytes(resize_bands(value_HWC, size)), mask), (height, width)

    def masked(self, image_HWC: Pixels, mask: Ignored | None = None) -> Pixels:
        """The image of the detector's size; where each has a mask of its own, with the channel that says what is
        ignored, nothing for None."""
        if not self.has_masks:
            return image_HWC
        ignored_HW = np.zeros(image_HWC.shape[:2], bool) if mask is None else mask.mask_HW
        return np.dstack([image_HWC, np.where(ignored_HW, np.uint8(255), np.uint8(0))])


def read_unchanged(path: Path, image_id: str, decode: Callable[[Path], Decoded]) -> Decoded:
    """The file as `decode` reads it; raises DataError if it is not what the manifest describes."""
    try:
        if content_id(path) == image_id:
            return decode(path)
        problem = "its content changed since the manifest was made"
    except UnreadableImage as error:
        problem = str(error)
    raise DataError(f"{path}: {problem}; run the same command again to reread the folder")


class EncoderSpec:
    """The encoder on a worker's device; raises WeightsError unless it is the one that the run is keyed by.

    Images are read by as many threads as the worker owns cores, ahead of the encoder; a batch that does not fit the
    GPU is halved until it does.
    """

    def __init__(self, extractor: FeatureExtractor, resources: ResourcesConfig) -> None:
        self._extractor = extractor
        self._resources = resources
        self.device = device_for(resources)
        self._encoder = _the_runs(extractor, self.device)
        self.batch_size = extractor.detector.images_at_once(resources.batch_size)
        self._most = self.batch_size  # images at once, as far as is known
        # Kept: every new thread would get, and keep, a heap of its own to decode images in.
        self._readers = ThreadPoolExecutor(resources.num_cpus)

    @property
    def encoder(self) -> Encoder:
        """The encoder itself, for an export."""
        return self._encoder

    def batches(self, images: Sequence[ImageRef], size: int) -> Iterator[tuple[Sequence[ImageRef], Stored]]:
        """Consecutive images, at most `size` at a time, and their layers."""
        chunks = [images[start : start + size] for start in range(0, len(images), size)]
        for chunk, image_BHWC in zip(chunks, self._read_ahead(chunks), strict=True):
            yield chunk, self.encode(image_BHWC)

    def layers(self, images: Sequence[ImageRef]) -> Stored:
        """The layers of one batch."""
        return self.encode(np.stack(list(self._readers.map(self._extractor.read, images))))

    def _read_ahead(self, chunks: Iterable[Sequence[ImageRef]]) -> Iterator[Pixels]:
        return (np.stack(images) for images in self.ahead(self._extractor.read, chunks))

    def ahead(self, read: Callable[[Item], Read], chunks: Iterable[Sequence[Item]]) -> Iterator[list[Read]]:
        """Results of `read` for the items of each chunk, read by this worker's threads while earlier ones are encoded.

        Chunks are taken a few before their turn, so that they may be without end.
        """
        # A worker on one core gains nothing from reading while that core is busy encoding.
        ahead = _BATCHES_AHEAD if self._resources.num_cpus > 1 or self.device.type == "cuda" else 0
        waiting: deque[list[Future[Read]]] = deque()
        try:
            for chunk in chunks:
                waiting.append([self._readers.submit(read, item) for item in chunk])
                if len(waiting) > ahead:
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            for future in (future for batch in waiting for future in batch):
                future.cancel()

    def encode(self, image_BHWC: Pixels) -> Stored:
        """The layers of images of the encoder's size, however many fit the device at once."""
        pieces, start = [], 0
        while start < len(image_BHWC):
            piece = image_BHWC[start : start + self._most]
            try:
                layers = stored_layers(self._encoder, _filled(piece, self._most), self._extractor.ignored)
                pieces.append([layer[: len(piece)] for layer in layers])
                start += len(piece)
            except torch.OutOfMemoryError:
                self._halve(len(piece))
        return [np.concatenate(layer) for layer in zip(*pieces, strict=True)]

    def _halve(self, size: int) -> None:
        if size == 1:
            raise ResourceError(
                f"{platform.node()}: the GPU's memory does not hold the encoder and one image of "
                f"{format_size(self._encoder.image_size_px)} px; "
                "lower detector.image_size_px or raise resources.num_gpus"
            )
        torch.cuda.empty_cache()
        self._most = size // 2
        _log.warning("%d images at once do not fit the GPU: encoding %d at a time", size, self._most)


def stored_layers(encoder: Encoder, image_BHWC: Pixels, ignored: IgnoredPixels | None = None) -> Stored:
    """Encoder output for images of 8 bits a channel, in the number format of the cache; where something is ignored,
    also the share of each cell that is."""
    if ignored is None:
        return _stored(encoder, torch.from_numpy(image_BHWC))
    visible_BHWC, ignored_BHW = split_mask(torch.from_numpy(image_BHWC), ignored)
    layers = _stored(encoder, visible_BHWC)
    return [*layers, ignored_share(ignored_BHW, torch.Size(layers[0].shape[2:])).numpy()]


def _stored(encoder: Encoder, image_BHWC: torch.Tensor) -> Stored:
    layers = encoder.encode(image_BHWC.permute(0, 3, 1, 2))
    return [layer.to("cpu", dtype).numpy() for layer, dtype in zip(layers, encoder.cache_dtypes, strict=True)]


def layers_of(stored: Iterable[npt.NDArray[Any]], device: torch.device) -> Layers:
    """Input of a detector: stored layers as float32 on its device."""
    return tuple(torch.from_numpy(layer).to(device).float() for layer in stored)


def _the_runs(extractor: FeatureExtractor, device: torch.device) -> Encoder:
    """The encoder, proved to be the one in the artifact keys; this may be another machine than the driver's."""
    encoder = build_encoder(extractor.detector, device)
    if dict(encoder.fingerprint()) != dict(extractor.encoder):
        raise WeightsError(
            f"{platform.node()}: the backbone's weights or library versions here are not those of the run; "
            "put the same weights file and versions on every node, or start a new run"
        )
    return encoder


def _filled(image_BHWC: Pixels, most: int) -> Pixels:
    """The batch, its last image repeated up to a multiple of `_SIZE_STEP`, or to `most`; a single image as it is.

    oneDNN keeps tens of megabytes for every batch size that it has met, and every shard ends with another.
    """
    if len(image_BHWC) == 1:
        return image_BHWC
    size = min(most, -(-len(image_BHWC) // _SIZE_STEP) * _SIZE_STEP)
    return np.concatenate([image_BHWC, np.repeat(image_BHWC[-1:], size - len(image_BHWC), axis=0)])
