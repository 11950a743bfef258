"""The images of a run that are encoded, and how they are cut into shards: runs that cut alike share their layers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow as pa

from llb_ray.config import RunConfig
from llb_ray.data.image_masks import IgnoredPixels, ImageMasks
from llb_ray.data.manifest import TRAIN, Manifest
from llb_ray.engine.features.encoding import ImageRef
from llb_ray.engine.features.featurizer import Shard, shard_images, shards_of


@dataclass(frozen=True)
class EncodedImages:
    """The images of a manifest, or of the pool (schema `IMAGES`) that it is drawn from, in lots where there are any."""

    config: RunConfig
    manifest: Manifest
    pool: pa.Table | None
    lots: Sequence[pa.Table]

    def shards(self, encoder: str, ignored: IgnoredPixels | None) -> list[Shard]:
        """Shards of all images as they are, for the encoder of this key."""
        lots = (_masked(images, ignored) for images in self._lots)
        return [shard for images in lots for shard in shards_of(images, encoder, self._shard_images)]

    def augmented_shards(self, encoder: str) -> list[Shard]:
        """Shards of every augmented copy of the training images; of a pool, any image may be in training."""
        ids = self.manifest.image_ids(TRAIN) if self.pool is None else self.pool["image_id"].to_pylist()
        maybe_trained_on = set(ids)
        lots = (
            [replace(image, augment=kind) for image in images if image.image_id in maybe_trained_on]
            for kind in self.config.features.augment
            for images in self._lots
        )
        return [shard for images in lots for shard in shards_of(images, encoder, self._shard_images)]

    @cached_property
    def refs(self) -> tuple[ImageRef, ...]:
        """All images, without masks and copies."""
        return _refs(self.manifest.table if self.pool is None else self.pool)

    @property
    def _lots(self) -> list[tuple[ImageRef, ...]]:
        """The images in parts that are cut into shards apart from each other."""
        return [_refs(lot) for lot in self.lots] or [self.refs]

    @property
    def _shard_images(self) -> int:
        return shard_images(self.config.detector)


def _masked(images: Sequence[ImageRef], ignored: IgnoredPixels | None) -> Sequence[ImageRef]:
    """The images, each with the digest of the mask that is its own, if it has one."""
    if not isinstance(ignored, ImageMasks):
        return images
    return [replace(image, mask=ignored.keys.get(image.image_id, "")) for image in images]


def _refs(images: pa.Table) -> tuple[ImageRef, ...]:
    return tuple(map(ImageRef, images["image_id"].to_pylist(), images["path"].to_pylist()))
