"""The reconstruction detector: what the contract suite does not ask, for a pyramid and for layers of one shape."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.torch
import torch
from torch.nn import functional

from llb_ray.config import load, parse
from llb_ray.detectors.base import Detector, Layers
from llb_ray.detectors.data_parallel import ALONE, Turn
from llb_ray.detectors.decoders import AttentionDecoder, PyramidDecoder
from llb_ray.detectors.reconstruction import Network, Reconstruction, _mined
from llb_ray.detectors.reconstruction_config import ReconstructionConfig
from llb_ray.errors import ConfigError, MemberError

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
STEPS = 40
PYRAMID = ((6, 8, 8), (10, 4, 4))
TOKENS = ((16, 6, 6),) * 4
GROUPS = ((0, 1), (2, 3))
CONFIGS = {
    PYRAMID: ReconstructionConfig(channels=16, decoder_depth=1, dropout=0.2, standardize=True, neighbourhood=1),
    TOKENS: parse(
        {
            "detector": {
                "name": "reconstruction",
                "backbone": {"layers": [0, 1, 2, 3]},
                "groups": GROUPS,
                "decoder_depth": 4,
                "dropout": 0.2,
                "standardize": True,
                "neighbourhood": 1,
            }
        }
    ).detector,
}
kinds = pytest.mark.parametrize("shapes", [PYRAMID, TOKENS], ids=["pyramid", "tokens"])
Shapes = tuple[tuple[int, int, int], ...]


class Patterns:
    """Layers that mix two fixed directions by a random amount per image, with a little noise."""

    def __init__(self, shapes: Shapes, count: int, seed: int = 0) -> None:
        self.image_ids: Sequence[str] = [str(row) for row in range(count)]
        fixed, rng = np.random.default_rng(99), np.random.default_rng(seed)
        share_N111 = rng.uniform(0, 1, (count, 1, 1, 1))
        self.layers = []
        for shape in shapes:
            one, two = fixed.normal(0, 1, (2, *shape))
            noise = rng.normal(0, 0.05, (count, *shape))
            self.layers.append(torch.tensor(share_N111 * one + (1 - share_N111) * two + noise, dtype=torch.float32))

    def __len__(self) -> int:
        return len(self.image_ids)

    def batch(self, rows: npt.NDArray[np.int64]) -> Layers:
        return tuple(layer[torch.from_numpy(rows)] for layer in self.layers)

    @property
    def everything(self) -> Layers:
        return tuple(self.layers)


def config_of(shapes: Shapes, **changes: Any) -> ReconstructionConfig:
    config = CONFIGS[shapes]
    assert isinstance(config, ReconstructionConfig)
    return config.model_copy(update=changes)


def fit(shapes: Shapes, seed: int = 0, steps: int = STEPS, **changes: Any) -> Reconstruction:
    return Reconstruction(config_of(shapes, **changes), steps, CPU).fit(Patterns(shapes, 24), seed)


def unseen(shapes: Shapes, count: int = 6) -> Layers:
    return Patterns(shapes, count, seed=7).everything


def spoilt(layers: Layers) -> Layers:
    """The layers with the first quarter of each side turned around in every layer."""
    copies = tuple(layer.clone() for layer in layers)
    for copy in copies:
        side = copy.shape[-1] // 4
        copy[:, :, :side, :side] *= -1
    return copies


@kinds
def test_the_shapes_choose_the_decoder_and_the_map_has_the_first_layers_grid(shapes: Shapes) -> None:
    detector: Detector = fit(shapes)
    kind = AttentionDecoder if shapes == TOKENS else PyramidDecoder
    assert isinstance(Network(config_of(shapes), shapes).decoder, kind)
    scores = detector.score(unseen(shapes))
    assert scores.map_NHW.shape == (6, *shapes[0][1:])
    assert (scores.map_NHW >= -1e-6).all()
    assert (scores.map_NHW <= 2 + 1e-6).all()


@kinds
def test_what_was_never_seen_scores_higher_and_where_it_is(shapes: Shapes) -> None:
    detector = fit(shapes, steps=200)
    normal, strange = detector.score(unseen(shapes)), detector.score(spoilt(unseen(shapes)))
    assert strange.score_N.min() > normal.score_N.max()
    for map_HW in strange.map_NHW:
        assert max(np.unravel_index(map_HW.argmax(), map_HW.shape)) < len(map_HW) // 4


@kinds
def test_training_lowers_the_loss(shapes: Shapes) -> None:
    def loss(steps: int) -> float:
        return float(fit(shapes, steps=steps).score(unseen(shapes)).map_NHW.mean())

    assert loss(60) < 0.8 * loss(1)


@kinds
def test_fitting_leaves_the_global_generators_alone_and_ignores_them(shapes: Shapes) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = fit(shapes, steps=5).score(unseen(shapes)).map_NHW
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert np.array_equal(fit(shapes, steps=5).score(unseen(shapes)).map_NHW, first)


@kinds
def test_the_network_comes_back_from_settings_and_bytes_alone(shapes: Shapes) -> None:
    detector = fit(shapes, steps=5)
    content = safetensors.torch.save(detector.state())
    back = Reconstruction(config_of(shapes), 5, CPU).load_state(safetensors.torch.load(content))
    assert np.array_equal(back.score(unseen(shapes)).map_NHW, detector.score(unseen(shapes)).map_NHW)


@kinds
def test_a_state_is_a_snapshot(shapes: Shapes) -> None:
    detector = fit(shapes, steps=2)
    before = detector.score(unseen(shapes)).score_N
    for tensor in detector.state().values():
        tensor.zero_()
    assert np.array_equal(detector.score(unseen(shapes)).score_N, before)


@kinds
def test_the_loss_is_the_mean_over_groups_of_one_minus_cosine_per_image(shapes: Shapes) -> None:
    network, layers = Network(config_of(shapes), shapes), unseen(shapes, 3)
    with torch.no_grad():
        loss_B = network.loss(layers, None, percentile=0)
        targets, redrawn = network.decoder.targets(layers), network.decoder.redrawn(layers, None)
    for image in range(3):
        cosines = [
            functional.cosine_similarity(target[image].flatten(), made[image].flatten(), dim=0)
            for target, made in zip(targets, redrawn, strict=True)
        ]
        assert float(loss_B[image]) == pytest.approx(1 - float(np.mean(cosines)), abs=1e-5)


def test_layers_are_fused_into_groups_and_the_last_block_stands_for_the_first() -> None:
    decoder, layers = AttentionDecoder(16, GROUPS, depth=4, dropout=0.0), unseen(TOKENS)
    first, second = decoder.targets(layers)
    torch.testing.assert_close(first, (layers[0] + layers[1]) / 2)
    torch.testing.assert_close(second, (layers[2] + layers[3]) / 2)
    before = decoder.redrawn(layers, None)
    with torch.no_grad():
        for parameter in decoder.blocks[3].parameters():
            parameter.add_(1)
    after = decoder.redrawn(layers, None)
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[1], before[1])


def test_linear_attention_is_the_normalised_average_it_stands_for() -> None:
    (block, *_) = AttentionDecoder(16, [[0]], depth=1, dropout=0.0).blocks
    token_BPC = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    query, key, value = block.query_key_value(token_BPC).chunk(3, dim=2)
    weight_BPP = (functional.elu(query) + 1) @ (functional.elu(key) + 1).transpose(1, 2)
    expected = weight_BPP / weight_BPP.sum(dim=2, keepdim=True) @ value
    torch.testing.assert_close(block._attended(token_BPC), expected)


def test_hard_mining_keeps_the_value_and_scales_the_gradient_of_easy_points_only() -> None:
    generator = torch.Generator().manual_seed(0)
    target, redrawn = (torch.randn(2, 3, 5, 5, generator=generator) for _ in range(2))
    redrawn.requires_grad_()
    mined = _mined(target, redrawn, Turn(ALONE, 2, generator), percentile=0.9, factor=0.25)
    torch.testing.assert_close(mined, redrawn)
    (gradient,) = torch.autograd.grad(mined.sum(), redrawn)
    distance = 1 - functional.cosine_similarity(target, redrawn, dim=1)
    hard = distance >= distance.flatten().sort(descending=True).values[4]
    assert int(hard.sum()) == 5
    assert (gradient[hard[:, None].expand_as(gradient)] == 1).all()
    assert (gradient[~hard[:, None].expand_as(gradient)] == 0.25).all()


def test_hard_mining_changes_what_is_learnt_only_when_switched_on() -> None:
    def map_of(**changes: Any) -> npt.NDArray[np.float32]:
        return fit(PYRAMID, steps=10, **changes).score(unseen(PYRAMID)).map_NHW

    plain = map_of()
    assert np.array_equal(plain, map_of(hard_percentile=0.0, hard_factor=0.0))
    assert not np.array_equal(plain, map_of(hard_percentile=0.9, hard_ramp_steps=0))


def test_the_percentile_rises_along_its_ramp() -> None:
    ramp = Reconstruction(config_of(PYRAMID, hard_percentile=0.9, hard_ramp_steps=10), 1, CPU)
    assert [ramp._percentile(step) for step in (0, 5, 10, 99)] == pytest.approx([0, 0.45, 0.9, 0.9])
    assert Reconstruction(config_of(PYRAMID, hard_percentile=0.9, hard_ramp_steps=0), 1, CPU)._percentile(0) == 0.9


def test_standardising_makes_the_scale_of_a_channel_irrelevant() -> None:
    def score(factor: float, standardize: bool) -> npt.NDArray[np.float32]:
        source, images = Patterns(PYRAMID, 24), unseen(PYRAMID)
        for layers in (source.layers, images):
            layers[0][:, 0] *= factor
        config = config_of(PYRAMID, standardize=standardize)
        return Reconstruction(config, 5, CPU).fit(source, 0).score(images).score_N

    np.testing.assert_allclose(score(16, True), score(1, True), rtol=1e-3)
    assert not np.allclose(score(16, False), score(1, False), rtol=1e-2)


def test_a_constant_channel_and_a_share_smaller_than_a_batch_are_no_trouble() -> None:
    source = Patterns(PYRAMID, 3)
    source.layers[0][:, 2] = 1
    detector = Reconstruction(config_of(PYRAMID), 5, CPU).fit(source, 0)
    assert np.isfinite(detector.score(source.everything).map_NHW).all()


def test_a_loss_that_is_not_finite_stops_the_member() -> None:
    source = Patterns(TOKENS, 4)
    source.layers[0][2] = float("nan")
    with pytest.raises(MemberError, match="loss at step 0 is nan"):
        Reconstruction(config_of(TOKENS, standardize=False), 5, CPU).fit(source, 0)


def test_a_decoder_that_does_not_suit_the_backbone_is_refused() -> None:
    with pytest.raises(ConfigError, match="decoder_depth = 2: each of the 4"):
        fit(TOKENS, decoder_depth=2)
    with pytest.raises(ConfigError, match="groups: layers of different shapes"):
        fit(PYRAMID, groups=((0, 1),))


@pytest.mark.parametrize("groups", ["[[0, 2]]", "[[-1]]", "[]", "[[0], []]"])
def test_groups_that_name_no_layer_are_refused(groups: str) -> None:
    with pytest.raises(ConfigError, match="detector.groups = .*: .*backbone.layers"):
        load(None, ["detector.name=reconstruction", f"detector.groups={groups}"])


def test_a_neighbourhood_is_averaged_before_anything_else() -> None:
    plain, pooled = (Network(config_of(PYRAMID, neighbourhood=side), PYRAMID) for side in (1, 3))
    pooled.load_state_dict(plain.state_dict())
    layers = unseen(PYRAMID)
    averaged = tuple(functional.avg_pool2d(layer, 3, 1, 1, count_include_pad=False) for layer in layers)
    with torch.no_grad():
        torch.testing.assert_close(pooled(*layers), plain(*averaged))
