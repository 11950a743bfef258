"""The memory bank: strange patches score higher and where they are, and only the training images decide."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from llb_ray.detectors import memory_scoring, patch_selection, patches
from llb_ray.detectors.backbones import Backbone
from llb_ray.detectors.memory_bank import MemoryBank
from llb_ray.detectors.memory_bank_config import MemoryBankConfig
from llb_ray.detectors.patches import nearest_distance
from tests.toy_layers import CPU, Memory, settings, textures, with_context, with_defect


def bank(seed: int = 0, **changes: object) -> MemoryBank:
    return MemoryBank(settings(**changes), CPU).fit(Memory(textures(12)), seed)


@pytest.mark.parametrize("coreset", ["k_center", "random"])
@pytest.mark.parametrize("standardize", [True, False])
def test_a_strange_patch_scores_higher_and_the_map_peaks_there(coreset: str, standardize: bool) -> None:
    detector = bank(coreset=coreset, standardize=standardize)
    plain, strange = (detector.score(layers) for layers in (textures(4, 1), with_defect(textures(4, 1))))
    assert strange.score_N[0] > plain.score_N.max()
    assert np.array_equal(strange.score_N[1:], plain.score_N[1:])
    row, column = np.unravel_index((strange.map_NHW[0] - plain.map_NHW[0]).argmax(), (8, 8))
    assert abs(row - 5) <= 1
    assert abs(column - 2) <= 1


def test_scores_have_the_shape_and_type_of_the_protocol() -> None:
    scores = bank().score(textures(3, 1))
    assert scores.score_N.shape == (3,)
    assert scores.map_NHW.shape == (3, 8, 8)
    assert scores.score_N.dtype == scores.map_NHW.dtype == np.float32


def test_scores_depend_neither_on_batch_size_nor_on_order() -> None:
    detector, source = bank(), Memory(textures(9, 1))
    together = detector.score(source.batch(np.arange(9)))
    order = np.array([4, 1, 8, 0, 2, 7, 3, 6, 5])
    shuffled = detector.score(source.batch(order))
    alone = [detector.score(source.batch(np.array([row]))) for row in range(9)]
    assert np.array_equal(shuffled.score_N, together.score_N[order])
    assert np.array_equal(np.concatenate([scores.map_NHW for scores in alone]), together.map_NHW)


def test_scoring_changes_nothing() -> None:
    detector = bank()
    before = {name: tensor.clone() for name, tensor in detector.state().items()}
    detector.score(with_defect(textures(4, 1)))
    assert all(torch.equal(before[name], tensor) for name, tensor in detector.state().items())


@pytest.mark.parametrize("coreset", ["k_center", "random"])
def test_the_seed_decides(coreset: str) -> None:
    layers = textures(5, 1)
    first, again, other = (bank(seed, coreset=coreset).score(layers).score_N for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_state_taken_and_loaded_scores_the_same() -> None:
    detector, layers = bank(), textures(5, 1)
    state = detector.state()
    assert all(tensor.is_contiguous() and tensor.device == CPU for tensor in state.values())
    loaded = MemoryBank(settings(), CPU).load_state(state)
    assert np.array_equal(loaded.score(layers).map_NHW, detector.score(layers).map_NHW)


def test_the_memory_is_bounded_and_every_image_gives_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    sample = patch_selection.sample_patches
    monkeypatch.setattr(patch_selection, "sample_patches", lambda *given: taken.append(given[1]) or sample(*given))
    detector = bank(candidates=100, coreset_size=30)
    assert sum(taken) == 100
    assert set(taken) == {8, 9}
    assert detector.state()["memory_MD"].shape == (30, 10)


def test_more_images_than_candidates_still_fit() -> None:
    detector = bank(candidates=7, coreset_size=30)
    assert detector.state()["memory_MD"].shape == (7, 10)


def test_small_sets_keep_every_patch_and_score_zero_on_themselves() -> None:
    layers = textures(2)
    for memory, most in (("plain", 0), ("placed", 0.1)):  # a root magnifies rounding: distances have a floor
        detector = MemoryBank(settings(candidates=500, coreset_size=500, memory=memory), CPU).fit(Memory(layers), 0)
        assert detector.state()["memory_MD"].shape == (128, 10)
        assert np.allclose(detector.score(layers).map_NHW, 0, atol=most + 1e-6)


def test_fitting_reports_every_image() -> None:
    seen: list[tuple[int, int, str]] = []
    MemoryBank(settings(), CPU).fit(Memory(textures(40)), 0, lambda *step: seen.append(step))
    assert seen == [(32, 40, "images"), (40, 40, "images")]


def test_standardizing_makes_the_unit_of_a_channel_irrelevant() -> None:
    unit = torch.tensor([100.0, 1, 1, 1, 0.01, 1]).view(1, 6, 1, 1)
    scaled = [(shallow * unit, deep) for shallow, deep in (textures(12), textures(4, 1))]
    changed = MemoryBank(settings(coreset="random"), CPU).fit(Memory(scaled[0]), 0)
    expected = bank(coreset="random").score(textures(4, 1)).map_NHW
    assert np.allclose(changed.score(scaled[1]).map_NHW, expected, rtol=1e-3)


def test_a_channel_that_never_moves_does_not_drown_the_others() -> None:
    shallow, deep = textures(12)
    shallow[:, 0] = 0.5
    detector = MemoryBank(settings(), CPU).fit(Memory((shallow, deep)), 0)
    shallow[0, 0] = 0.6
    assert detector.score((shallow, deep)).map_NHW.max() < 10


def test_identical_images_are_no_division_by_zero() -> None:
    layers = (torch.ones(3, 6, 8, 8), torch.ones(3, 4, 4, 4))
    detector = MemoryBank(settings(), CPU).fit(Memory(layers), 0)
    assert np.array_equal(detector.score(layers).score_N, np.zeros(3, np.float32))


def test_the_nearest_distance_is_the_brute_force_one(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_QD, memory_MD = (
        torch.from_numpy(np.random.default_rng(s).normal(size=(n, 24))) for s, n in ((0, 300), (1, 90))
    )
    expected_Q = torch.cdist(patch_QD, memory_MD).amin(dim=1)
    assert torch.allclose(nearest_distance(patch_QD.float(), memory_MD.float()).double(), expected_Q, rtol=1e-5)
    layers = textures(3, 1)
    whole = bank().score(layers).map_NHW
    monkeypatch.setattr(memory_scoring, "_CHUNK_CELLS", 10)
    assert np.allclose(bank().score(layers).map_NHW, whole, rtol=1e-6)


def test_a_search_in_bfloat16_finds_an_entry_that_is_nearly_as_near() -> None:
    patch_QD, memory_MD = (
        torch.from_numpy(np.random.default_rng(s).normal(size=(n, 24))).float() for s, n in ((0, 300), (1, 90))
    )
    nearest_Q, found_Q = (
        nearest_distance(patch_QD, memory_MD, search=form) for form in (torch.float32, torch.bfloat16)
    )
    assert (found_Q >= nearest_Q).all()
    assert torch.allclose(found_Q, nearest_Q, rtol=0.02)
    assert torch.equal(nearest_distance(memory_MD, memory_MD, search=torch.bfloat16), torch.zeros(90))


def test_the_pool_ignores_what_lies_outside_the_image() -> None:
    patch_BDHW = patches.patches((torch.ones(1, 2, 8, 8), torch.ones(1, 3, 4, 4)), 3)
    assert torch.equal(patch_BDHW, torch.ones(1, 5, 8, 8))


def test_an_even_neighbourhood_is_refused() -> None:
    with pytest.raises(ValueError, match="must be odd"):
        settings(neighbourhood=4)


@pytest.mark.shared_data
def test_trained_features_tell_real_defects() -> None:
    root = Path(os.environ.get("LLB_DATA", Path(__file__).parents[3] / "shared" / "data"))
    images = root / "magnetic_tile"
    if not images.is_dir():
        pytest.skip(f"{root} has no magnetic_tile images; set LLB_DATA to run this test")
    config = MemoryBankConfig()
    encoder = Backbone(config.backbone, config.image_size_px, CPU)
    train = sorted((images / "train/good").iterdir())[:40]
    test = sorted((images / "test/good").iterdir())[:15] + sorted((images / "test/break").iterdir())[:15]
    detector = MemoryBank(config, CPU).fit(Memory(encoder.encode(_decoded(train))), 0)
    score_N = detector.score(encoder.encode(_decoded(test))).score_N
    assert roc_auc_score([0] * 15 + [1] * 15, score_N) > 0.7


def _decoded(paths: list[Path]) -> torch.Tensor:
    pixel_BHW3 = np.stack([np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in paths])
    return torch.from_numpy(pixel_BHW3).permute(0, 3, 1, 2)


def test_a_place_that_normals_agree_on_gives_a_defect_away_sooner() -> None:
    """A patch that is common elsewhere is no anomaly to a plain memory; at this place no image ever had it."""
    shallow, deep = textures(30)
    shallow[:, :, 5:, :] += 20
    moved = textures(1, 1)
    moved[0][:, :, 5:, :] += 20
    usual = (moved[0].clone(), moved[1])
    moved[0][0, :, 1:3, 2:4] += 20

    def rise(which: str) -> float:
        detector = MemoryBank(settings(memory=which), CPU).fit(Memory((shallow, deep)), 0)
        return float(detector.score(moved).score_N[0] / detector.score(usual).score_N[0])

    assert rise("placed") > 1.2 * rise("plain")


def test_an_image_that_is_alone_is_remembered_without_places() -> None:
    state = MemoryBank(settings(), CPU).fit(Memory(textures(1)), 0).state()
    assert sorted(state) == ["kernel_0", "kernel_1", "mean_D", "memory_MD", "scale_D"]


@pytest.mark.parametrize(("kind", "tells"), [("detailed", True), ("averaged", False)])
def test_detailed_patches_tell_a_pattern_that_averages_to_the_same(kind: str, tells: bool) -> None:
    """Stripes of period 3 have one mean over 3 x 3 cells whatever their direction."""
    across = torch.tensor([0.0, 1.0, 3.0]).repeat(3).expand(9, 9)
    layers = [(stripes.expand(1, 2, 9, 9), torch.zeros(1, 1, 9, 9)) for stripes in (across, across.T)]
    bank = MemoryBank(settings(patches=kind, memory="plain", standardize=False), CPU).fit(Memory(layers[0]), 0)
    inside = bank.score(layers[1]).map_NHW[0, 2:-2, 2:-2]
    assert (inside.min() > 0.1) == tells
    assert (inside.max() < 1e-5) != tells


def test_a_detector_keeps_its_kernels() -> None:
    """So that what it remembers and what it is asked stay comparable, whatever later versions draw."""
    detector, layers = bank(), textures(2, 1)
    other = MemoryBank(detector.config, CPU).load_state(detector.state())
    assert np.array_equal(other.score(layers).map_NHW, detector.score(layers).map_NHW)
    state = detector.state()
    state["kernel_0"] = torch.zeros_like(state["kernel_0"])
    other.load_state(state)
    assert not np.array_equal(other.score(layers).map_NHW, detector.score(layers).map_NHW)


def test_each_of_many_layers_has_its_own_kernel() -> None:
    layers = tuple(torch.ones(3, channels, 4, 4) for channels in range(1, 13))
    config = MemoryBankConfig.model_validate({"backbone": {"layers": [*range(12)]}, "memory": "plain"})
    state = MemoryBank(config, CPU).fit(Memory(layers), 0).state()
    assert [state[f"kernel_{number}"].shape[1] for number in range(12)] == [*range(1, 13)]


def test_wide_layers_are_projected_to_fewer_dimensions() -> None:
    rng = np.random.default_rng(0)
    wide = (torch.from_numpy(rng.normal(size=(3, 200, 4, 4))).float(), torch.ones(3, 4, 2, 2))
    detector = MemoryBank(settings(memory="plain"), CPU).fit(Memory(wide), 0)
    assert detector.state()["memory_MD"].shape[1] == patches.DETAIL_DIMS + 4


def test_a_plain_memory_learns_no_places() -> None:
    assert "place_mean_Ld" in bank().state()
    assert "place_mean_Ld" not in bank(memory="plain").state()


def test_the_context_takes_part_in_the_score_and_not_in_the_map() -> None:
    detector = MemoryBank(settings(), CPU).fit(Memory(with_context(12)), 0)
    usual = with_context(1, 1)
    odd = (*usual[:2], usual[2] + 20)
    before, after = detector.score(usual), detector.score(odd)
    assert after.score_N[0] > 2 * before.score_N[0]
    assert np.array_equal(after.map_NHW, before.map_NHW)


@pytest.mark.parametrize("changes", [{"memory": "plain"}, {"memory": "softpatch"}])
def test_other_memories_have_no_context(changes: dict[str, str]) -> None:
    with_one = MemoryBank(settings(**changes), CPU).fit(Memory(with_context(12)), 0)
    without = MemoryBank(settings(**changes), CPU).fit(Memory(textures(12)), 0)
    assert "context_memory_MD" not in with_one.state()
    scores = [detector.score(with_context(3, 1)).score_N for detector in (with_one, without)]
    assert np.array_equal(*scores)


def test_the_context_is_bounded_and_takes_from_every_image() -> None:
    few = MemoryBank(settings(coreset_size=24), CPU).fit(Memory(with_context(12)), 0)
    assert len(few.state()["context_memory_MD"]) == 24
    many = MemoryBank(settings(coreset_size=5), CPU).fit(Memory(with_context(12)), 0)
    assert len(many.state()["context_memory_MD"]) == 5


def test_the_exported_scorer_gives_the_same_score_with_context() -> None:
    detector = MemoryBank(settings(), CPU).fit(Memory(with_context(12)), 0)
    layers = with_context(3, 2)
    score_B, map_BHW = detector.scorer()(*layers)
    scores = detector.score(layers)
    assert score_B.numpy() == pytest.approx(scores.score_N, rel=1e-4)
    assert map_BHW.numpy() == pytest.approx(scores.map_NHW, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "reads"),
    [({}, True), ({"memory": "placed"}, True), ({"context": False}, False), ({"memory": "plain"}, False)],
)
def test_the_encoder_gives_a_deeper_layer_to_those_who_read_it(changes: dict[str, object], reads: bool) -> None:
    assert settings(**changes).reads_context is reads
