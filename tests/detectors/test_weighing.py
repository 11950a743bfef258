"""Trust: a memory bank learns less from some images than from others."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from llb_ray.detectors.base import Layers
from llb_ray.detectors.memory_bank import MemoryBank
from llb_ray.detectors.patches import least_distance, nearest_distance
from tests.toy_layers import CPU, Memory, settings, textures, with_context, with_defect


def fitted(layers: Layers, trust: Sequence[float] | None = None, copies: int = 1, **changes: object) -> MemoryBank:
    """A bank that remembers every patch, so that no choice of these hides what trust does."""
    every = {"coreset_size": 10_000, "candidates": 10_000} | changes
    source = Memory(
        tuple(torch.cat([layer] * copies) for layer in layers), [f"image-{n}" for n in range(len(layers[0]))]
    )
    return MemoryBank(settings(**every), CPU).fit(source, 0, trust=trust)


def with_twin(trust: float) -> float:
    """Score of a defect that one training image, of this trust, has too."""
    plain, defect = textures(11), with_defect(textures(1, seed=5))
    layers = tuple(torch.cat(pair) for pair in zip(plain, defect, strict=True))
    seen = with_defect(textures(1, seed=6))
    return float(fitted(layers, [1.0] * 11 + [trust]).score(seen).score_N[0])


def test_a_defect_in_an_image_of_less_trust_is_found_sooner() -> None:
    scores = [with_twin(trust) for trust in (1.0, 0.6, 0.1)]
    assert scores == sorted(scores)
    assert scores[0] < scores[1]


def test_what_every_image_shows_is_as_usual_as_before() -> None:
    plain, test = textures(12), textures(6, seed=1)
    doubted, trusting = fitted(plain, [1.0] * 11 + [0.6]).score(test), fitted(plain).score(test)
    assert np.allclose(doubted.score_N, trusting.score_N, rtol=0.05)


def test_full_trust_is_what_no_trust_was_asked_for() -> None:
    one, other = (fitted(textures(5), trust).state() for trust in (None, [1.0] * 5))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("copies", [1, 3])
def test_augmented_copies_share_the_trust_in_their_image(copies: int) -> None:
    reach_M = fitted(textures(4), [1.0, 1.0, 1.0, 0.25], copies=copies).state()["reach_M"]
    assert reach_M.sort().values.tolist() == [1.0] * (3 * 64 * copies) + [2.0] * (64 * copies)


def test_the_context_has_the_trust_of_its_image() -> None:
    state = fitted(with_context(4), [1.0, 1.0, 1.0, 0.25]).state()
    assert sorted(set(state["context_reach_M"].tolist())) == [1.0, 2.0]
    assert (state["context_reach_M"] == 2).float().mean() == 0.25


def test_the_exported_scorer_gives_the_same_score_with_trust() -> None:
    detector, test = fitted(with_context(6), [1.0] * 5 + [0.4]), with_context(3, seed=1)
    score_B, map_BHW = detector.scorer()(*test)
    said = detector.score(test)
    assert np.allclose(score_B.numpy(), said.score_N, rtol=1e-4)
    assert np.allclose(map_BHW.numpy(), said.map_NHW, rtol=1e-4)


def test_the_least_distance_is_the_brute_force_one() -> None:
    rng = np.random.default_rng(0)
    patch_QD, memory_MD = (torch.from_numpy(rng.normal(size=(count, 24))) for count in (300, 90))
    reach_M = torch.from_numpy(rng.uniform(1, 3, size=90))
    expected_Q = (torch.cdist(patch_QD, memory_MD) * reach_M).amin(dim=1)
    found_Q = least_distance(patch_QD.float(), memory_MD.float(), reach_M.float())
    assert torch.allclose(found_Q.double(), expected_Q, rtol=1e-5)
    alike_Q = least_distance(patch_QD.float(), memory_MD.float(), torch.ones(90))
    assert torch.allclose(alike_Q, nearest_distance(patch_QD.float(), memory_MD.float()))
