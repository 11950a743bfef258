"""The importance-weighted loss: its density and target, what its weights promise, and whom they favour."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import gaussian_kde

from llb_ray.config import ImportanceConfig
from llb_ray.detectors.autoencoder import Autoencoder
from llb_ray.detectors.autoencoder_config import AutoencoderConfig
from llb_ray.detectors.data_parallel import ALONE, Turn
from llb_ray.detectors.importance import ImportanceWeights, Numbers, Ratio, kernel_density, normalise_weights, target
from llb_ray.detectors.train_step import Descent
from llb_ray.errors import MemberError
from tests.detectors.test_autoencoder import CONFIG, CPU, STEPS, Stripes, fit

PLAIN = {"warmup": 0, "sigma_scale": 1, "buffer": 4096}  # the target is the scores' own
MOMENTS = ImportanceConfig.model_validate({"mode": "moments", **PLAIN})
ROBUST = ImportanceConfig.model_validate({"mode": "robust", **PLAIN})


def normal(count: int, mu: float = 0, sigma: float = 1, seed: int = 0) -> Numbers:
    return np.random.default_rng(seed).normal(mu, sigma, count)


def weights_after(config: ImportanceConfig, past_M: Numbers, loss_B: Numbers) -> Numbers:
    """The weights of a step that follows upon steps with the losses `past_M`, of which an odd end is left out."""
    size = len(loss_B)
    weights = ImportanceWeights(config, len(past_M) // size + 1, size)
    for step in range(len(past_M) // size):
        weights.weigh(past_M[step * size : (step + 1) * size])
    return weights.weigh(loss_B)


@pytest.mark.parametrize("count", [50, 400, 4000])
def test_the_density_is_scipys(count: int) -> None:
    skewed_M = np.exp(normal(count))
    at_B = np.linspace(0.1, 4, 40)
    expected = gaussian_kde(skewed_M, bw_method="silverman")(at_B)
    np.testing.assert_allclose(np.interp(at_B, *kernel_density(skewed_M)), expected, rtol=0.02, atol=0.002)


def test_the_density_of_scores_with_one_far_away_still_is() -> None:
    score_M = np.append(normal(4095), 1000)
    at_B = np.linspace(-40, 40, 40)
    expected = gaussian_kde(score_M, bw_method="silverman")(at_B)
    np.testing.assert_allclose(np.interp(at_B, *kernel_density(score_M)), expected, rtol=0.1, atol=0.1 * expected.max())


@pytest.mark.parametrize("config", [MOMENTS, ROBUST, ImportanceConfig(mode="fixed", mu=5, sigma=0.5, buffer=4096)])
def test_scores_already_on_target_weigh_one(config: ImportanceConfig) -> None:
    past_M = normal(4096, 5, 0.5)
    weight_B = weights_after(config, past_M, normal(64, 5, 0.5, seed=1))
    assert np.abs(weight_B - 1).mean() < 0.1
    assert np.quantile(np.abs(weight_B - 1), 0.9) < 0.2


@pytest.mark.parametrize(("config", "mu", "sigma"), [(MOMENTS, 3.7, 4.05), (ROBUST, 2, 1.4826)])
def test_a_target_is_the_moments_of_the_scores_times_its_scales(
    config: ImportanceConfig, mu: float, sigma: float
) -> None:
    score_M = np.array([1.0, 2.0, 1.5, 3.0, 11.0])
    mu, sigma = (score_M.mean(), score_M.std()) if config.mode == "moments" else (mu, sigma)
    assert target(config, score_M) == pytest.approx((mu, sigma))
    scaled = config.model_copy(update={"mu_scale": 1.5, "sigma_scale": 0.5})
    assert target(scaled, score_M) == pytest.approx((1.5 * mu, 0.5 * sigma))


def test_with_logarithms_a_scale_of_the_mean_still_multiplies_the_score() -> None:
    config = ImportanceConfig(mode="moments", log_scores=True, mu_scale=2)
    mu, _ = target(config, np.log([0.1, 0.2]))
    assert np.exp(mu) == pytest.approx(2 * np.sqrt(0.1 * 0.2))


def test_logarithms_are_taken_of_the_losses() -> None:
    logs = MOMENTS.model_copy(update={"log_scores": True})
    past_M, loss_B = normal(1000), normal(16, seed=1)
    found_B = weights_after(logs, np.exp(past_M), np.exp(loss_B))
    np.testing.assert_allclose(found_B, weights_after(MOMENTS, past_M, loss_B), rtol=1e-4)
    assert np.isfinite(weights_after(logs, np.exp(past_M), np.zeros(16))).all()


@pytest.mark.parametrize("config", [MOMENTS, ROBUST])
@pytest.mark.parametrize("value", [0.0, 1e-12, 1.0, 1e6])
def test_constant_scores_weigh_one(config: ImportanceConfig, value: float) -> None:
    weight_B = weights_after(config, np.full(300, value), np.full(16, value))
    np.testing.assert_allclose(weight_B, 1)


def test_ratios_are_capped_and_weights_have_mean_one() -> None:
    wide = ImportanceConfig(mode="fixed", mu=3, sigma=1, cap=4)
    ratio = Ratio.of(wide, normal(2000))
    far_B = np.array([0.0, 3.0, 3.5])
    assert ratio(far_B).max() == 4
    weight_B, _, _ = normalise_weights(ratio(far_B))
    assert weight_B.mean() == pytest.approx(1)


def test_no_score_is_divided_by_less_than_eps() -> None:
    config = ImportanceConfig(mode="fixed", mu=0, sigma=1, eps=0.5)
    at_B = np.array([-1.0, 0.0, 2.0])
    expected = np.exp(-at_B * at_B / 2) / np.sqrt(2 * np.pi) / 0.5
    np.testing.assert_allclose(Ratio.of(config, normal(500))(at_B), expected, rtol=1e-3)


def test_a_score_far_beyond_all_recent_ones_weighs_nothing() -> None:
    config = ImportanceConfig(mode="fixed", mu=50, sigma=1000)
    assert Ratio.of(config, normal(500))(np.array([-50.0, 0.0, 50.0])).astype(bool).tolist() == [False, True, False]


def test_the_first_steps_are_not_weighted_but_are_remembered() -> None:
    weights = ImportanceWeights(MOMENTS.model_copy(update={"warmup": 0.25}), 8, 16)
    seen = [weights.weigh(normal(16, 5, seed=step)) for step in range(4)]
    assert [bool((weight_B == 1).all()) for weight_B in seen] == [True, True, False, False]
    # Two unweighted steps and this one: the target was taken from all three.
    past_M = np.concatenate([normal(16, 5, seed=step) for step in range(3)])
    expected, _, _ = normalise_weights(Ratio.of(MOMENTS, past_M)(normal(16, 5, seed=2)))
    np.testing.assert_allclose(seen[2], expected, rtol=1e-4)


def test_old_scores_are_forgotten() -> None:
    small = MOMENTS.model_copy(update={"buffer": 128})
    past_M = np.concatenate([normal(256, 100), normal(128, 5)])
    loss_B = normal(64, 5, seed=1)
    afresh = weights_after(small, normal(128, 5), loss_B)
    np.testing.assert_allclose(weights_after(small, past_M, loss_B), afresh, rtol=1e-4)


def test_too_small_an_effective_sample_falls_back_to_one_and_is_noted() -> None:
    far = ImportanceConfig(mode="fixed", mu=50, sigma=0.1, warmup=0)
    weights = ImportanceWeights(far, 4, 16)
    assert (weights.weigh(normal(16)) == 1).all(), "all ratios are zero"
    lone_B = np.append(normal(15, 5, 0.1), 50.0)
    assert (weights.weigh(lone_B) == 1).all(), "one image has all the weight"
    steps = weights.log(normal(16)).steps
    assert steps["fell_back"].tolist() == [True, True]
    assert steps["ess"] == pytest.approx([0, 1])
    assert steps["max_weight"].tolist() == [1, 1]


def test_the_effective_sample_size_counts_images() -> None:
    assert normalise_weights(np.array([2.0, 2.0, 0.0, 0.0]))[1:] == (2, False)
    assert normalise_weights(np.ones(10))[1:] == (10, False)
    assert normalise_weights(np.array([1.0] + [0.0] * 9))[2]


def test_equal_weights_give_the_plain_mean_and_doubling_one_is_having_the_image_twice() -> None:
    loss_B = np.array([1.0, 2.0, 4.0])
    equal, _, _ = normalise_weights(np.full(3, 0.3))
    assert (equal * loss_B).mean() == pytest.approx(loss_B.mean())
    doubled, _, _ = normalise_weights(np.array([1.0, 1.0, 2.0]))
    assert (doubled * loss_B).mean() == pytest.approx(loss_B[[0, 1, 2, 2]].mean())


def test_the_loss_that_is_noted_is_the_weighted_one() -> None:
    weights, batches = ImportanceWeights(MOMENTS, 2, 16), [normal(16, 5, seed=step) for step in range(2)]
    losses = [(weights.weigh(loss_B) * loss_B).mean() for loss_B in batches]
    assert weights.log(normal(16, 5)).steps["loss"] == pytest.approx(losses)


def test_weights_go_with_their_images() -> None:
    past_M, loss_B = np.exp(normal(1000)), np.exp(normal(16, seed=1))
    order = np.random.default_rng(2).permutation(16)
    straight, shuffled = (weights_after(MOMENTS, past_M, batch) for batch in (loss_B, loss_B[order]))
    np.testing.assert_allclose(shuffled, straight[order])


def test_no_gradient_flows_through_the_weights() -> None:
    network = torch.nn.Linear(16, 1, bias=False)
    descent = Descent(network, torch.optim.SGD(network.parameters(), lr=1), ImportanceWeights(MOMENTS, 1, 16))
    before_B = network.weight.detach().squeeze().clone()
    loss_B = network.weight.squeeze() - before_B + torch.tensor(normal(16, 5), dtype=torch.float32)
    descent.step(loss_B, Turn(ALONE, 16, torch.Generator()), rate_share=1, norm=10)
    weight_B = ImportanceWeights(MOMENTS, 1, 16).weigh(loss_B.detach().numpy())
    np.testing.assert_allclose(before_B - network.weight.detach().squeeze(), weight_B / 16, rtol=1e-4)


def _kinds(alpha: float) -> tuple[Numbers, npt.NDArray[np.int64]]:
    """Scores of 4000 images and their kind: 0 the many normals, 1 a rare kind of normal (5 %), 2 anomalies."""
    rare, odd = 200, round(4000 * alpha)
    head = 4000 - rare - odd
    score_N = np.concatenate([normal(head), normal(rare, 3, 1, 1), normal(odd, 8, 2, 2)])
    return score_N, np.repeat([0, 1, 2], [head, rare, odd])


def _mean_weights(config: ImportanceConfig, alpha: float) -> list[float]:
    score_N, kind_N = _kinds(alpha)
    weight_N, _, _ = normalise_weights(Ratio.of(config, score_N)(score_N))
    return [float(weight_N[kind_N == kind].mean()) for kind in range(3)]


def test_moments_lift_a_rare_normal_while_the_data_are_nearly_clean_and_anomalies_once_they_are_not() -> None:
    head, rare, odd = _mean_weights(MOMENTS, 0.01)
    assert head == pytest.approx(1, abs=0.05)
    assert rare > 1.2
    assert odd < 0.1
    head, rare, odd = _mean_weights(MOMENTS, 0.1)
    assert head < 0.9
    assert rare > 3
    assert odd > 0.8, "the anomalies have widened the target and are trained on like anything else"


def test_a_robust_target_starves_anomalies_and_the_rare_normal_too() -> None:
    for alpha in (0.01, 0.1):
        head, rare, odd = _mean_weights(ROBUST, alpha)
        assert rare < 1 < head
        assert odd < 0.05


def test_an_autoencoder_notes_each_step_and_each_image() -> None:
    detector = Autoencoder(CONFIG, STEPS, CPU, ImportanceConfig(mode="moments", warmup=0.1)).fit(Stripes(48), 0)
    log = detector.log()
    assert log is not None
    assert log.steps["step"].tolist() == list(range(STEPS))
    assert (log.steps["ess"][:6] == 16).all()
    assert (log.steps["max_weight"][:6] == 1).all()
    assert (log.steps["max_weight"][6:] > 1).any()
    assert log.steps["loss"][-1] < log.steps["loss"][0]
    assert len(log.images["weight"]) == len(log.images["score"]) == 48
    assert float(log.images["weight"].mean()) == pytest.approx(1)


def test_an_autoencoder_without_weights_notes_its_loss_and_a_loaded_one_nothing() -> None:
    detector = fit(0)
    log = detector.log()
    assert log is not None
    assert {name: len(column) for name, column in log.steps.items()} == {"step": STEPS, "loss": STEPS}
    assert log.steps["loss"][-1] < log.steps["loss"][0]
    assert not log.images
    assert detector.load_state(detector.state()).log() is None


def test_weights_change_what_is_learnt_and_the_same_seed_repeats_it() -> None:
    def learnt(importance: ImportanceConfig | None) -> dict[str, torch.Tensor]:
        return Autoencoder(CONFIG, STEPS, CPU, importance).fit(Stripes(48), 0).state()

    plain, weighted, again = learnt(None), learnt(MOMENTS), learnt(MOMENTS)
    assert all(torch.equal(weighted[name], tensor) for name, tensor in again.items())
    assert not torch.equal(plain["spread_HW"], weighted["spread_HW"])


def test_a_fit_that_is_all_warm_up_is_the_unweighted_one() -> None:
    late = ImportanceConfig(mode="moments", warmup=0.999)
    weighted = Autoencoder(CONFIG, STEPS, CPU, late).fit(Stripes(48), 0).state()
    assert all(torch.allclose(weighted[name], tensor, atol=1e-6) for name, tensor in fit(0).state().items())


def test_a_loss_that_is_not_finite_still_stops_the_fit() -> None:
    source = Stripes(8)
    source.image_N3HW[3] = float("nan")
    with pytest.raises(MemberError, match="loss at step 0 is nan"):
        Autoencoder(CONFIG, STEPS, CPU, MOMENTS).fit(source, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_do_not_hide_a_loss_that_is_not_finite(value: float) -> None:
    network = torch.nn.Linear(1, 1)
    descent = Descent(network, torch.optim.SGD(network.parameters(), lr=0.1), ImportanceWeights(MOMENTS, 2, 16))
    turn = Turn(ALONE, 16, torch.Generator())
    loss_B = torch.from_numpy(np.append(normal(15, 5), value))
    with pytest.raises(MemberError, match="the loss at step 0 is (nan|inf); lower detector.learning_rate"):
        descent.step(loss_B, turn, 1, 1)


def test_a_small_share_is_enough() -> None:
    config = AutoencoderConfig(image_size_px=32, channels=8, latent_dim=8)
    log = Autoencoder(config, 10, CPU, ROBUST).fit(Stripes(1), 0).log()
    assert log is not None
    assert log.images["weight"].tolist() == [1]
