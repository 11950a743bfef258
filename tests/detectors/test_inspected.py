"""Detectors that are given the share of each cell that is ignored: such cells are not learnt, and decide nothing."""

import numpy as np
import pytest
import torch

from llb_ray.detectors.base import Layers
from llb_ray.detectors.inspected import ignored_share, image_scores, interpolate_seen, seen_cells, seen_top_mean
from llb_ray.detectors.local_outlier_factor import SCREENING, reaches, score_outliers
from llb_ray.detectors.memory_bank import MemoryBank
from llb_ray.detectors.place_gaussians import fit_places, place_distances
from llb_ray.detectors.seen_neighbours import SeenReferences, judge_seen_in_blocks, seen_reaches
from tests.toy_layers import CPU, Memory, settings, textures, with_context


def _shares(count: int, seed: int = 0) -> torch.Tensor:
    """A block of 4 x 4 of 8 x 8 cells that is ignored, somewhere else in each image."""
    rng, share_N1HW = np.random.default_rng(seed), torch.zeros(count, 1, 8, 8)
    for row in range(count):
        top, left = 2 * rng.integers(0, 3, 2)
        share_N1HW[row, 0, top : top + 4, left : left + 4] = 1
    return share_N1HW


def _scrambled(layers: Layers, share_N1HW: torch.Tensor) -> Layers:
    """The same layers with other numbers where they are ignored, on every grid."""
    rng = np.random.default_rng(7)
    others = []
    for layer in layers:
        share = torch.nn.functional.adaptive_avg_pool2d(share_N1HW, layer.shape[2:])
        noise = torch.from_numpy(rng.normal(3, 9, layer.shape)).float()
        others.append(torch.where(share > 0.5, noise, layer))
    return tuple(others)


def _bank(layers: Layers, **changes: object) -> MemoryBank:
    detector = MemoryBank(settings(neighbourhood=1, **changes), CPU)
    detector.leave_out()
    return detector.fit(Memory(layers), 0)


def test_no_cell_that_is_ignored_is_remembered() -> None:
    """With a neighbourhood of one cell and one layer, nothing of a cell is in another."""
    first, share = textures(12)[0], _shares(12)
    rest = {"memory": "plain", "patches": "averaged"}
    one, two = (_bank((layer, share), **rest).state() for layer in (first, *_scrambled((first,), share)))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("memory", ["plain", "placed"])
def test_no_cell_that_is_ignored_decides_a_score(memory: str) -> None:
    share = _shares(12)
    detector = _bank((*with_context(12), share), memory=memory)
    new, hidden = with_context(5, seed=3)[:1], _shares(5, seed=4)
    rest = with_context(5, seed=3)[1:]
    one, two = (detector.score((*first, *rest, hidden)) for first in (new, _scrambled(new, hidden)))
    seen_NHW = seen_cells(hidden, torch.Size((8, 8)))
    assert seen_NHW is not None
    assert (one.map_NHW[~seen_NHW.numpy()] == 0).all()
    if memory == "plain":
        assert np.array_equal(one.score_N, two.score_N)
        assert np.array_equal(one.map_NHW, two.map_NHW)
    assert np.isfinite(two.score_N).all()


def test_nothing_ignored_is_a_bank_without_masks() -> None:
    layers, new, nothing = with_context(12), with_context(4, seed=1), torch.zeros(12, 1, 8, 8)
    plain = MemoryBank(settings(), CPU).fit(Memory(layers), 0).score(new)
    detector = MemoryBank(settings(), CPU)
    detector.leave_out()
    masked = detector.fit(Memory((*layers, nothing)), 0).score((*new, nothing[:4]))
    assert masked.score_N == pytest.approx(plain.score_N, rel=1e-4)
    assert masked.map_NHW == pytest.approx(plain.map_NHW, rel=1e-3)


def test_a_cell_is_looked_at_unless_most_of_it_is_ignored() -> None:
    ignored_BHW = torch.zeros(3, 8, 8, dtype=torch.bool)
    ignored_BHW[0, :, :5] = True
    ignored_BHW[1], ignored_BHW[1, 0, 0] = True, False
    share_B1HW = ignored_share(ignored_BHW, torch.Size((2, 2)))
    seen_BHW = seen_cells(share_B1HW, torch.Size((2, 2)))
    assert seen_BHW is not None
    assert seen_BHW.tolist() == [
        [[False, True], [False, True]],
        [[True, False], [False, False]],  # the one of which anything can be seen
        [[True, True], [True, True]],
    ]
    assert seen_cells(None, torch.Size((2, 2))) is None


def test_the_score_is_of_the_cells_that_are_looked_at() -> None:
    map_BHW = torch.tensor([[[9.0, 1.0], [2.0, 3.0]], [[4.0, 8.0], [0.0, 0.0]]])
    seen_BHW = torch.tensor([[[False, True], [True, True]], [[True, False], [False, False]]])
    assert image_scores(map_BHW, seen_BHW, 0.5).tolist() == [2.5, 4.0]
    assert image_scores(map_BHW, None, 0.5).tolist() == [6.0, 6.0]
    parts = seen_top_mean(map_BHW, seen_BHW, 0.5)
    assert parts.tolist() == [[1.0, 3.0], [4.0, -torch.inf]]


def test_values_are_interpolated_from_what_is_looked_at() -> None:
    def twice(value_Bhw: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(value_Bhw[:, None], (1, 8), mode="bilinear")[:, 0]

    value, weight = torch.tensor([[[1.0, 100.0, 100.0, 2.0]]]), torch.tensor([[[1.0, 0.0, 0.0, 1.0]]])
    found, known = interpolate_seen(value, weight, twice)
    assert known is not None
    assert found[known].tolist() == pytest.approx([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    assert known.tolist() == [[[True, True, True, False, False, True, True, True]]]


def _places(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 4, 2, 2))).float()


def test_the_statistics_of_a_place_are_of_the_images_that_show_it() -> None:
    patch_NDhw, shown_Nhw = _places(40), torch.ones(40, 2, 2)
    shown_Nhw[20:, 0, 0] = 0
    other = patch_NDhw.clone()
    other[20:, :, 0, 0] += 50
    one, two = (fit_places([(patches, shown_Nhw)], 4, 0) for patches in (patch_NDhw, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
    test = _places(3, seed=1)
    alone = place_distances(test, fit_places([(patch_NDhw[:20], torch.ones(20))], 4, 0))
    assert place_distances(test, one)[:, 0, 0] == pytest.approx(alone[:, 0, 0], rel=0.1)


def test_weights_of_all_places_are_weights_of_each() -> None:
    patch_NDhw, trust_N = _places(12), torch.linspace(0.2, 1, 12)
    of_images = fit_places([(patch_NDhw, trust_N)], 4, 0)
    of_places = fit_places([(patch_NDhw, trust_N[:, None, None].expand(-1, 2, 2))], 4, 0)
    assert all(torch.allclose(of_images[name], of_places[name], rtol=1e-4) for name in of_images)


def test_a_place_that_no_image_shows_is_like_all_places() -> None:
    patch_NDhw, shown_Nhw = _places(60), torch.ones(60, 2, 2)
    shown_Nhw[:, 1, 1] = 0
    state = fit_places([(patch_NDhw, shown_Nhw)], 4, 0)
    assert place_distances(_places(200, seed=2), state)[:, 1, 1].mean() == pytest.approx(0.95, abs=0.15)


def _references(shown_LR: torch.Tensor, patch_LRD: torch.Tensor) -> SeenReferences:
    return SeenReferences(patch_LRD, seen_reaches(patch_LRD, shown_LR, SCREENING), shown_LR)


def test_where_all_is_shown_outlier_factors_are_those_without_masks() -> None:
    reference_LRD, patch_LBD = torch.randn(9, 30, 5), torch.randn(9, 20, 5)
    plain = score_outliers(patch_LBD, reference_LRD, reaches(reference_LRD, torch.arange(30), 6), SCREENING)
    shown = _references(torch.ones(9, 30, dtype=torch.bool), reference_LRD)
    found = judge_seen_in_blocks(patch_LBD, torch.ones(9, 20, dtype=torch.bool), shown, SCREENING)
    assert torch.allclose(found.factor_LB, plain.factor_LB, atol=1e-4)
    assert torch.allclose(found.loneliness_B, plain.loneliness_B, atol=1e-4)


def test_what_is_not_shown_is_no_neighbour_and_no_outlier() -> None:
    reference_LRD, patch_LBD = torch.randn(9, 30, 5), torch.randn(9, 20, 5)
    shown_LR, seen_LB = torch.rand(9, 30) > 0.3, torch.rand(9, 20) > 0.3
    shown_LR[4] = False  # a place that none shows
    results = []
    for far in (0.0, 100.0):
        others = reference_LRD + far * ~shown_LR[..., None]
        hidden = patch_LBD + far * ~seen_LB[..., None]
        results.append(judge_seen_in_blocks(hidden, seen_LB, _references(shown_LR, others), SCREENING))
    one, two = results
    assert torch.allclose(one.factor_LB, two.factor_LB, atol=1e-3)
    assert torch.allclose(one.loneliness_B, two.loneliness_B, atol=1e-3)
    assert (one.factor_LB[~seen_LB] == 0).all()
    assert (one.factor_LB[4] == 0).all()
    assert torch.isfinite(one.factor_LB).all()
    alone = judge_seen_in_blocks(patch_LBD[:, :1], seen_LB[:, :1], _references(shown_LR, reference_LRD), SCREENING)
    assert torch.allclose(alone.factor_LB, one.factor_LB[:, :1], atol=1e-4)
