"""The default memory bank on many images, and on new images that differ from the training images."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from llb_ray.detectors.base import Layers
from llb_ray.detectors.memory_bank import MemoryBank
from tests.toy_layers import CPU, Memory, settings

# Channels and side of two layers and the one for the context; the first has more cells than there are places.
GRIDS = ((6, 16), (4, 8), (5, 4))
NEW = 150


def objects(count: int, seed: int, shift: float = 0, defect: float = 0) -> Layers:
    """Objects with a look of their own at each place; `shift` moves all of an image, `defect` a corner of it."""
    rng, look = np.random.default_rng(seed), np.random.default_rng(99)
    layers = []
    for channels, side in GRIDS:
        layer = look.normal(size=(channels, side, side)) + rng.normal(scale=0.7, size=(count, channels, side, side))
        layer += shift * look.normal(size=(channels, 1, 1))
        corner = max(1, side // 4)
        layer[:, :, :corner, :corner] += defect
        layers.append(torch.from_numpy(layer).float())
    return tuple(layers)


def fitted(count: int, memory: str = "placed") -> MemoryBank:
    config = settings(memory=memory, coreset_size=200, candidates=2000)
    return MemoryBank(config, CPU).fit(Memory(objects(count, 0)), seed=0)


def auroc(detector: MemoryBank, shift: float = 0) -> float:
    """Of new defective objects against new normal ones, both shifted."""
    normal = detector.score(objects(NEW, 7, shift)).score_N
    defective = detector.score(objects(NEW, 8, shift, defect=1)).score_N
    return float(roc_auc_score(np.repeat([0, 1], NEW), np.r_[normal, defective]))


def sizes(detector: MemoryBank) -> Sequence[torch.Size]:
    return [tensor.shape for tensor in detector.state().values()]


def test_twenty_thousand_images_cost_no_quality_and_no_more_memory() -> None:
    few, many = fitted(300), fitted(20_000)
    assert auroc(many) >= auroc(few) - 0.05  # which patches are drawn moves it by .03
    assert sizes(many) == sizes(few)


@pytest.mark.parametrize("shift", [0.5, 1, 2])
def test_defects_are_found_where_all_new_images_are_shifted(shift: float) -> None:
    placed, plain = auroc(fitted(300), shift), auroc(fitted(300, "plain"), shift)
    assert placed > 0.65
    assert placed >= plain - 0.02
