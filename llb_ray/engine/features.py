"""One encoder pass per image: frozen layers in memory-mapped Arrow shards that every later stage reads.

A shard holds up to `SHARD_IMAGES` images: a column `image_id` and one fixed-shape tensor column per layer, stored
as the encoder says (uint8 pixels, float16 features).  Shards are artifacts, so extraction resumes by shard; they
are memory-mapped, so reading them costs no heap whatever N is.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from llb_ray.artifacts import Artifact, Recipe, Store, digest
from llb_ray.config import DetectorConfig
from llb_ray.data.images import UnreadableImage, content_id, read_rgb
from llb_ray.data.manifest import path_from_text
from llb_ray.data.tables import read_batches, write_batches
from llb_ray.detectors.base import Encoder, Layers, row_batches
from llb_ray.detectors.build import build_encoder
from llb_ray.engine import files
from llb_ray.engine.worker import Heartbeat, Place, device_for, owned_threads
from llb_ray.errors import DataError, WeightsError

SHARD_IMAGES = 256  # a shard is the unit of resuming; 256 images are seconds of work and megabytes of disk


@dataclass(frozen=True)
class ImageRef:
    """An image and where it lies; `path` as the manifest spells it."""

    image_id: str
    path: str


@dataclass(frozen=True)
class Catalogue:
    """How a run's images are laid out in shards: everything needed to find the layers of an image."""

    encoder: Mapping[str, Any]  # the encoder's fingerprint
    images: tuple[ImageRef, ...]  # in image_id order
    shard_images: int = SHARD_IMAGES

    @cached_property
    def shards(self) -> list[tuple[ImageRef, ...]]:
        starts = range(0, len(self.images), self.shard_images)
        return [self.images[start : start + self.shard_images] for start in starts]

    @cached_property
    def recipes(self) -> tuple[Recipe, ...]:
        """One per shard."""
        return tuple(self._recipe(shard) for shard in self.shards)

    @property
    def encoder_digest(self) -> str:
        return digest(dict(self.encoder))

    def _recipe(self, shard: Sequence[ImageRef]) -> Recipe:
        return Recipe("features", {}, {"encoder": self.encoder_digest, "images": digest([i.image_id for i in shard])})


@dataclass(frozen=True)
class FeaturizerSpec:
    """One worker's part of the pass over the images."""

    name: str
    place: Place
    detector: DetectorConfig
    catalogue: Catalogue
    shards: tuple[int, ...]
    root: Path
    max_pixels: int


class Featurizer:
    """Runs the frozen encoder over some shards."""

    STEPS: ClassVar[tuple[str, ...]] = ("encode",)

    def __init__(self, spec: FeaturizerSpec) -> None:
        self._spec = spec
        self._store = Store(spec.place.store)
        self._report = Heartbeat(spec.place, spec.name).report("encode")

    def __repr__(self) -> str:
        return f"Featurizer({self._spec.name})"

    def encode(self) -> None:
        """Every shard of this worker is a finished artifact afterwards."""
        catalogue = self._spec.catalogue
        todo = [shard for shard in self._spec.shards if self._store.find(catalogue.recipes[shard]) is None]
        if not todo:
            return
        total, done = sum(len(catalogue.shards[shard]) for shard in todo), 0
        with owned_threads(self._spec.place.resources):
            encoder = self._encoder()
            for shard in todo:
                write = partial(self._write, encoder=encoder, images=catalogue.shards[shard])
                self._store.make(catalogue.recipes[shard], write)
                done += len(catalogue.shards[shard])
                self._report(done, total, "images")

    def _encoder(self) -> Encoder:
        """The encoder, proved to be the one in the artifact keys; this may be another machine than the driver's."""
        encoder = build_encoder(self._spec.detector, device_for(self._spec.place.resources))
        if dict(encoder.fingerprint()) != dict(self._spec.catalogue.encoder):
            raise WeightsError(
                f"{platform.node()}: the backbone's weights or library versions here are not the driver's; "
                "put the same weights file and versions on every node"
            )
        return encoder

    def _write(self, folder: Path, encoder: Encoder, images: Sequence[ImageRef]) -> None:
        batches = row_batches(len(images), self._spec.place.resources.batch_size)
        write_batches(folder / files.LAYERS, (self._encode([images[row] for row in rows], encoder) for rows in batches))

    def _encode(self, images: Sequence[ImageRef], encoder: Encoder) -> pa.RecordBatch:
        image_BHW3 = np.stack([self._read(image, encoder.image_size_px) for image in images])
        return _record_batch([image.image_id for image in images], stored_layers(encoder, image_BHW3))

    def _read(self, image: ImageRef, size_px: int) -> npt.NDArray[np.uint8]:
        path = self._spec.root / path_from_text(image.path)
        try:
            if content_id(path) == image.image_id:
                return read_rgb(path, size_px, self._spec.max_pixels)
            problem = "its content changed since the manifest was made"
        except UnreadableImage as error:
            problem = str(error)
        raise DataError(f"{path}: {problem}; run the same command again to read the folder anew")


def stored_layers(encoder: Encoder, image_BHW3: npt.NDArray[np.uint8]) -> list[npt.NDArray[Any]]:
    """Encoder output for RGB images, in the number format of the cache."""
    layers = encoder.encode(torch.from_numpy(image_BHW3).permute(0, 3, 1, 2))
    return [layer.to("cpu", dtype).numpy() for layer, dtype in zip(layers, encoder.cache_dtypes, strict=True)]


def layers_of(stored: Sequence[npt.NDArray[Any]], device: torch.device) -> Layers:
    """What a detector is given: stored layers as float32 on its device."""
    return tuple(torch.from_numpy(layer).to(device).float() for layer in stored)


def _record_batch(image_ids: Sequence[str], layers: Sequence[npt.NDArray[Any]]) -> pa.RecordBatch:
    tensors = [pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(layer)) for layer in layers]
    names = ["image_id", *(f"layer_{index}" for index in range(len(tensors)))]
    return pa.RecordBatch.from_arrays([pa.array(image_ids, pa.string()), *tensors], names=names)


class CachedSource:
    """The layers of some images, read from memory-mapped shards (the `Source` protocol of detectors)."""

    def __init__(self, artifacts: Sequence[Artifact], image_ids: Sequence[str], device: torch.device) -> None:
        self.image_ids = image_ids
        self._device = device
        self._layers: list[list[npt.NDArray[Any]]] = []  # per record batch, per layer
        where: dict[str, tuple[int, int]] = {}
        for batch in (batch for artifact in artifacts for batch in read_batches(artifact.path / files.LAYERS)):
            for row, image_id in enumerate(batch.column("image_id").to_pylist()):
                where[image_id] = (len(self._layers), row)
            self._layers.append([column.to_numpy_ndarray() for column in batch.columns[1:]])
        self._where = [where[image_id] for image_id in image_ids]

    def __len__(self) -> int:
        return len(self._where)

    def batch(self, rows: npt.NDArray[np.int64]) -> Layers:
        """Layers of the images at `rows`, float32, in that order, on the device."""
        places = [self._where[row] for row in rows]
        gathered = [
            np.stack([self._layers[batch][layer][row] for batch, row in places])
            for layer in range(len(self._layers[0]))
        ]
        return layers_of(gathered, self._device)
