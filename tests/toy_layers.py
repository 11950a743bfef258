"""Layers of toy images in memory, and a memory bank that is small enough for them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from llb_ray.detectors.base import Layers
from llb_ray.detectors.memory_bank_config import MemoryBankConfig

CPU = torch.device("cpu")


class Memory:
    """A `Source` over layers in memory."""

    def __init__(self, layers: Layers, image_ids: Sequence[str] | None = None) -> None:
        self._layers = layers
        self.image_ids = image_ids or [f"image-{row}" for row in range(len(layers[0]))]

    def __len__(self) -> int:
        return len(self._layers[0])

    def batch(self, rows: npt.NDArray[np.int64]) -> Layers:
        return tuple(layer[torch.from_numpy(rows)] for layer in self._layers)


def settings(**changes: object) -> MemoryBankConfig:
    return MemoryBankConfig.model_validate({"coreset_size": 60, "candidates": 400, "projection_dim": 8, **changes})


def textures(count: int, seed: int = 0) -> Layers:
    """Two layers of smooth noise with channels of very different spread."""
    rng = np.random.default_rng(seed)
    shallow = rng.normal(size=(count, 6, 8, 8)) * np.array([0.1, 1, 1, 3, 10, 30])[:, None, None]
    deep = rng.normal(size=(count, 4, 4, 4))
    return torch.from_numpy(shallow).float(), torch.from_numpy(deep).float()


def with_defect(layers: Layers) -> Layers:
    """The same images; the first is strange around cell (5, 2) in both layers."""
    shallow, deep = layers[0].clone(), layers[1].clone()
    shallow[0, :3, 4:7, 1:4] += 12
    deep[0, :, 2:4, 0:2] += 6
    return shallow, deep


def with_context(count: int, seed: int = 0) -> Layers:
    """`textures` with a deeper layer of 2 x 2 cells."""
    deepest = np.random.default_rng(seed + 100).normal(size=(count, 5, 2, 2))
    return (*textures(count, seed), torch.from_numpy(deepest).float())
