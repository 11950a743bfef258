"""One encoder pass per image: frozen layers in memory-mapped Arrow shards that every later stage reads.

A shard holds a column `image_id` and one fixed-shape tensor column per layer, stored as the encoder says (uint8
pixels, float16 features).  Shards are artifacts, so extraction resumes by shard; they are memory-mapped, so reading
them costs no heap whatever N is.  Which shard an image is in follows from its id alone, so an added image changes
one shard and not all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from llb_ray.artifacts import Recipe, digest
from llb_ray.config import DetectorConfig
from llb_ray.data.image_masks import mask_inputs
from llb_ray.data.tables import batch_writer
from llb_ray.engine import filenames
from llb_ray.engine.execution.heartbeat import Heartbeat
from llb_ray.engine.execution.protocols import WorkerContext, owned_threads
from llb_ray.engine.features.encoding import EncoderSpec, FeatureExtractor, ImageRef, Stored

SHARD_IMAGES = 256  # at most, on average: a shard is the unit of resuming, seconds of work and megabytes of disk
_FEWEST = 4  # images of a shard, however large they are
_PREFIX_DIGITS = 8  # of an image_id, which is hexadecimal


@dataclass(frozen=True)
class Shard:
    """Images whose layers are in one artifact, in image_id order; all of them augmented alike, or not at all."""

    images: tuple[ImageRef, ...]
    encoder: str  # digest of the encoder's fingerprint

    @property
    def image_ids(self) -> list[str]:
        return [image.image_id for image in self.images]

    @cached_property
    def recipe(self) -> Recipe:
        augment = self.images[0].augment
        settings = {} if augment is None else {"augment": augment}
        masks = mask_inputs(image.mask for image in self.images)
        return Recipe("features", settings, {"encoder": self.encoder, "images": digest(self.image_ids)} | masks)


def num_shards(num_images: int, most: int = SHARD_IMAGES) -> int:
    """Into how many shards so many images are cut: a power of two, though the last of a few images may stay empty."""
    return 1 << (max(0, num_images - 1) // most).bit_length()


def shard_images(detector: DetectorConfig) -> int:
    """Number of images of a shard, on average at most: few large ones are as much work."""
    return max(_FEWEST, SHARD_IMAGES // detector.num_tiles)


def shards_of(images: Sequence[ImageRef], encoder: str, most: int = SHARD_IMAGES) -> list[Shard]:
    """The images in shards, by the first bits of their ids: one more bit, and all shards new, whenever N doubles."""
    bits = num_shards(len(images), most).bit_length() - 1
    ordered = sorted(images, key=lambda image: image.image_id)
    runs = groupby(ordered, key=lambda image: int(image.image_id[:_PREFIX_DIGITS], 16) >> (4 * _PREFIX_DIGITS - bits))
    return [Shard(tuple(members), encoder) for _, members in runs]


@dataclass(frozen=True)
class FeaturizerSpec:
    """One worker's part of the pass over the images."""

    name: str
    context: WorkerContext
    extractor: FeatureExtractor
    shards: tuple[Shard, ...]

    @property
    def title(self) -> str:
        return self.name


class Featurizer:
    """Runs the frozen encoder over some shards."""

    STEPS: ClassVar[tuple[str, ...]] = ("encode",)

    def __init__(self, spec: FeaturizerSpec) -> None:
        self._spec = spec
        self._store = spec.context.store
        self._heartbeat = Heartbeat(spec.context, spec.name)

    def __repr__(self) -> str:
        return f"Featurizer({self._spec.name})"

    def encode(self) -> None:
        """Every shard of this worker is a finished artifact afterwards."""
        todo = [shard for shard in self._spec.shards if self._store.find(shard.recipe) is None]
        if not todo:
            return
        num_images = sum(len(shard.images) for shard in todo)
        report = partial(self._heartbeat.report("encode"), total=num_images, unit="images")
        report(0)
        resources, done = self._spec.context.resources, 0
        with owned_threads(resources):
            encoding = EncoderSpec(self._spec.extractor, resources)
            for shard in todo:
                with self._store.building(shard.recipe) as folder:
                    if folder is not None:
                        _write(folder / filenames.LAYERS, encoding, shard.images, done, report)
                done += len(shard.images)
                report(done)


def _write(
    path: Path, encoding: EncoderSpec, images: Sequence[ImageRef], done: int, report: Callable[[int], None]
) -> None:
    """Encode the images into one file; `report` receives how many images are done, `done` of them before."""
    with batch_writer(path) as append:
        for batch, stored in encoding.batches(images, encoding.batch_size):
            append(_record_batch([image.image_id for image in batch], stored))
            done += len(batch)
            report(done)


def _record_batch(image_ids: Sequence[str], layers: Stored) -> pa.RecordBatch:
    tensors = [pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(layer)) for layer in layers]
    names = ["image_id", *(f"layer_{index}" for index in range(len(tensors)))]
    return pa.RecordBatch.from_arrays([pa.array(image_ids, pa.string()), *tensors], names=names)
