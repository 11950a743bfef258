"""Budget of the feature cache: is there room for it, and what does it save?"""

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from llb_ray.artifacts import Artifact
from llb_ray.config import DetectorConfig, FeaturesConfig
from llb_ray.data.image_masks import IgnoredPixels
from llb_ray.detectors.factory import build_encoder
from llb_ray.engine.features.encoding import Stored, stored_layers
from llb_ray.engine.features.feature_access import FeatureAccess
from llb_ray.engine.features.featurizer import Shard

_GIB = 2**30
_FREE_SHARE = 0.9  # of the free disk; the rest is for scores, maps and everybody else


@dataclass(frozen=True)
class Features:
    """The layers of a run's images: the shards they are cut into, and how to come by them."""

    shards: list[Shard]  # of the plain images
    copies: list[Shard]  # of their augmented copies, where they are cached
    cached: list[Artifact]  # empty where they are encoded whenever they are read
    access: FeatureAccess
    ignored: IgnoredPixels | None = None  # the pixels that none of them is about

    def access_to(self, image_ids: Collection[str]) -> FeatureAccess:
        """Access to the layers of these images alone, for a worker that needs no others."""
        return self.access.only(image_ids, [*self.shards, *self.copies])

    @property
    def encoder(self) -> str:
        """Digest of all that they depend on besides the images."""
        return self.shards[0].encoder


@dataclass
class EncoderPasses:
    """Images put through the encoder by this call, and what that saves."""

    done: int = 0
    recomputing: int = 0  # had every training step and every detector put its images through it, as is published
    cached_bytes: int = 0


def trial(detector: DetectorConfig, num_channels: int = 3) -> Stored:
    """One black image through the encoder: shows here, not hours later, that it works and how large its layers are."""
    black_BHWC = np.zeros((1, *detector.size, num_channels), np.uint8)
    return stored_layers(build_encoder(detector, torch.device("cpu")), black_BHWC)


def no_room(config: FeaturesConfig, one: Stored, num_images: int, num_missing: int, root: Path) -> str:
    """Reason why the cache cannot be written, as a phrase; empty if it can.  `one` is an image's layers."""
    image_gib = sum(layer.nbytes for layer in one) / _GIB
    whole, more, free = image_gib * num_images, image_gib * num_missing, shutil.disk_usage(root).free / _GIB
    if config.max_gib is not None and whole > config.max_gib:
        return f"the layers of all images take {whole:.3g} GiB and features.max_gib is {config.max_gib:g}"
    if more > _FREE_SHARE * free:
        return f"the layers still to be cached take {more:.3g} GiB and {root} has {free:.3g} GiB free"
    return ""
