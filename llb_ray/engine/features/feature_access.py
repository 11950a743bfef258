"""Access to the layers of images: from the cache, or encoded on the fly where that does not fit the disk."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from llb_ray.artifacts import Artifact, Recipe
from llb_ray.config import Augmentation
from llb_ray.data.tables import MappedBatches
from llb_ray.detectors.base import Layers, Source, row_batches
from llb_ray.engine import filenames
from llb_ray.engine.execution.protocols import WorkerContext, device_for
from llb_ray.engine.features.encoding import EncoderSpec, FeatureExtractor, ImageRef, layers_of
from llb_ray.engine.features.featurizer import Shard
from llb_ray.engine.features.local_copies import LocalCopies

_HELD_BYTES = 8 * 2**20  # of mapped shards; the kernel maps several times that around what is read
Rows = npt.NDArray[np.int64]


class OrderedSource(Source, Protocol):
    """A `Source` that can also be read from front to back."""

    def batches(self, start: int, stop: int, size: int) -> Iterator[tuple[Sequence[str], Layers]]:
        """The ids and layers of the rows from `start` up to `stop`, at most `size` at a time."""


class FeatureAccess(Protocol):
    """Access to the layers of a run's images; picklable, and opened by the worker that reads them."""

    def source(
        self, image_ids: Sequence[str], context: WorkerContext, augment: Sequence[Augmentation] = ()
    ) -> OrderedSource:
        """The layers of these images, on the worker's device; augmented copies follow the plain images."""

    def only(self, image_ids: Collection[str], shards: Sequence[Shard]) -> "FeatureAccess":
        """Access to these images alone, of all that are in `shards`: a worker looks through no more than it needs."""


@dataclass(frozen=True)
class CachedFeatures:
    """Layers in the shards made by `recipes`; knows no image's path, so that no folder's name can help a detector."""

    recipes: tuple[Recipe, ...]
    local: LocalCopies | None = None  # None: read where the run is

    def only(self, image_ids: Collection[str], shards: Sequence[Shard]) -> "CachedFeatures":
        wanted = frozenset(image_ids)
        recipes = tuple(shard.recipe for shard in shards if not wanted.isdisjoint(shard.image_ids))
        return replace(self, recipes=recipes)

    def source(
        self, image_ids: Sequence[str], context: WorkerContext, augment: Sequence[Augmentation] = ()
    ) -> "CachedSource":
        artifacts = [context.store.get(recipe) for recipe in self.recipes]
        return CachedSource(artifacts, image_ids, device_for(context.resources), augment, self.local)


@dataclass(frozen=True)
class StreamedFeatures:
    """Layers encoded whenever they are read."""

    extractor: FeatureExtractor
    images: tuple[ImageRef, ...]

    def only(self, image_ids: Collection[str], shards: Sequence[Shard]) -> "StreamedFeatures":
        wanted = frozenset(image_ids)
        return replace(self, images=tuple(image for image in self.images if image.image_id in wanted))

    def source(
        self, image_ids: Sequence[str], context: WorkerContext, augment: Sequence[Augmentation] = ()
    ) -> "StreamedSource":
        by_id = {image.image_id: image for image in self.images}
        chosen = [by_id[image_id] for image_id in image_ids]
        copies = [replace(image, augment=kind) for kind in augment for image in chosen]
        return StreamedSource(chosen + copies, image_ids, EncoderSpec(self.extractor, context.resources))


class CachedSource:
    """The layers of some images, read from memory-mapped shards."""

    def __init__(
        self,
        artifacts: Sequence[Artifact],
        image_ids: Sequence[str],
        device: torch.device,
        augment: Sequence[Augmentation] = (),
        local: LocalCopies | None = None,
    ) -> None:
        self.image_ids = image_ids
        self._device = device
        self._local = local
        self._held_bytes = 0
        self._layers: list[list[npt.NDArray[Any]]] = []  # per record batch, per layer
        self._mapped: list[MappedBatches] = []
        self._found: dict[tuple[Augmentation | None, str], tuple[int, int]] = {}  # by the row's image: batch and row
        wanted = set(image_ids)
        for artifact in artifacts:
            self._index(artifact, wanted)
        self._where = [self._found[kind, image_id] for kind in (None, *augment) for image_id in image_ids]
        self._found.clear()

    def _index(self, artifact: Artifact, wanted: Collection[str]) -> None:
        """Note where the wanted images of a shard are; of a shard without any, nothing is kept."""
        kind, num_found = artifact.settings.get("augment"), len(self._found)
        mapped = self._local.mapped(artifact) if self._local else MappedBatches(artifact.file(filenames.LAYERS))
        for batch in mapped.batches:
            ids = enumerate(batch.column("image_id").to_pylist())
            rows = {(kind, image_id): (len(self._layers), row) for row, image_id in ids if image_id in wanted}
            if rows:
                self._found |= rows
                self._layers.append([column.to_numpy_ndarray() for column in batch.columns[1:]])
        if len(self._found) > num_found:
            self._mapped.append(mapped)

    def __len__(self) -> int:
        return len(self._where)

    def batch(self, rows: Rows) -> Layers:
        """Layers of the images at `rows`, float32, in that order, on the device."""
        places = [self._where[row] for row in rows]
        gathered = [
            np.stack([self._layers[batch][layer][row] for batch, row in places])
            for layer in range(len(self._layers[0]))
        ]
        self._let_go(sum(layer.nbytes for layer in gathered))
        return layers_of(gathered, self._device)

    def batches(self, start: int, stop: int, size: int) -> Iterator[tuple[Sequence[str], Layers]]:
        """The ids and layers of the rows from `start` up to `stop`, at most `size` at a time."""
        for rows in (start + rows for rows in row_batches(stop - start, size)):
            yield [self.image_ids[row] for row in rows], self.batch(rows)

    def _let_go(self, num_bytes: int) -> None:
        """Keep what this process seems to hold of the shards below `_HELD_BYTES`, and a batch."""
        self._held_bytes += num_bytes
        if self._held_bytes > _HELD_BYTES:
            for mapped in self._mapped:
                mapped.forget()
            self._held_bytes = 0


class StreamedSource:
    """The layers of some images, encoded at every reading, rounded as the cache would round them."""

    def __init__(self, images: Sequence[ImageRef], image_ids: Sequence[str], encoding: EncoderSpec) -> None:
        self.image_ids = image_ids
        self._images = images
        self._encoding = encoding

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, rows: Rows) -> Layers:
        """Layers of the images at `rows`, float32, in that order, on the device."""
        return layers_of(self._encoding.layers([self._images[row] for row in rows]), self._encoding.device)

    def batches(self, start: int, stop: int, size: int) -> Iterator[tuple[Sequence[str], Layers]]:
        """The ids and layers of the rows from `start` up to `stop`, at most `size` at a time."""
        for images, stored in self._encoding.batches(self._images[start:stop], size):
            yield [image.image_id for image in images], layers_of(stored, self._encoding.device)
