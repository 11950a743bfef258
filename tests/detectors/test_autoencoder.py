"""The autoencoder: what every detector promises (shapes, orientation, repeatability), and what this one adds."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch

from llb_ray.detectors.autoencoder import Autoencoder, Pixels
from llb_ray.detectors.autoencoder_config import AutoencoderConfig
from llb_ray.detectors.base import Detector, Encoder, Layers, Source
from llb_ray.errors import MemberError

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = 32
CPU = torch.device("cpu")
CONFIG = AutoencoderConfig(image_size_px=SIZE, channels=8, latent_dim=8)
STEPS = 60


class Stripes:
    """Softly striped pictures of any brightness and phase, by row number."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.image_ids: Sequence[str] = [str(row) for row in range(count)]
        rng = np.random.default_rng(seed)
        wave_NW = np.sin(np.linspace(0, 12, SIZE) + rng.uniform(0, 6, (count, 1)))
        shade_NHW = (
            120 + rng.normal(0, 10, (count, 1, 1)) + 20 * wave_NW[:, None] + rng.normal(0, 3, (count, SIZE, SIZE))
        )
        self.image_N3HW = torch.from_numpy(shade_NHW).float().round()[:, None].repeat(1, 3, 1, 1)

    def __len__(self) -> int:
        return len(self.image_ids)

    def batch(self, rows: npt.NDArray[np.int64]) -> Layers:
        return (self.image_N3HW[torch.from_numpy(rows)],)


@pytest.fixture(scope="module")
def fitted() -> Autoencoder:
    return fit(0)


def fit(seed: int, config: AutoencoderConfig = CONFIG, source: Source | None = None) -> Autoencoder:
    return Autoencoder(config, STEPS, CPU).fit(source or Stripes(48), seed)


def unseen(count: int = 12) -> torch.Tensor:
    return Stripes(count, seed=9).image_N3HW


def with_blob(image_N3HW: torch.Tensor) -> torch.Tensor:
    """The pictures with a dark patch in rows 20 to 25, columns 4 to 9."""
    spoilt = image_N3HW.clone()
    spoilt[:, :, 20:26, 4:10] = 30
    return spoilt


def test_it_is_a_detector_and_its_encoder_an_encoder() -> None:
    detector: Detector = Autoencoder(CONFIG, STEPS, CPU)
    encoder: Encoder = Pixels(SIZE, CPU)
    assert detector
    assert encoder.image_size_px == SIZE


def test_pixels_pass_unchanged_and_survive_the_cache() -> None:
    encoder = Pixels(SIZE, CPU)
    image = torch.arange(256, dtype=torch.uint8).repeat(3 * SIZE * SIZE // 256).reshape(1, 3, SIZE, SIZE)
    (layer,) = encoder.encode(image)
    assert layer.dtype == torch.float32
    assert torch.equal(layer.to(encoder.cache_dtypes[0]), image)
    assert encoder.fingerprint() == Pixels(SIZE, CPU).fingerprint() != Pixels(64, CPU).fingerprint()


def test_one_score_and_one_map_per_image(fitted: Autoencoder) -> None:
    scores = fitted.score((unseen(5),))
    assert scores.score_N.shape == (5,)
    assert scores.map_NHW.shape == (5, SIZE // 2, SIZE // 2)
    assert scores.score_N.dtype == scores.map_NHW.dtype == np.float32
    assert np.isfinite(scores.map_NHW).all()


def test_scores_rise_with_abnormality_and_the_map_peaks_on_it(fitted: Autoencoder) -> None:
    normal, spoilt = fitted.score((unseen(),)), fitted.score((with_blob(unseen()),))
    assert spoilt.score_N.min() > normal.score_N.max()
    for map_HW in spoilt.map_NHW:
        row, column = np.unravel_index(map_HW.argmax(), map_HW.shape)
        assert 9 <= row <= 13
        assert 1 <= column <= 5


def test_scores_do_not_depend_on_batch_size_or_order(fitted: Autoencoder) -> None:
    images = unseen()
    together = fitted.score((images,)).score_N
    alone = np.concatenate([fitted.score((image[None],)).score_N for image in images])
    backwards = fitted.score((images.flip(0),)).score_N[::-1]
    np.testing.assert_allclose(alone, together, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(backwards, together, rtol=1e-3, atol=1e-4)


def test_scoring_changes_nothing(fitted: Autoencoder) -> None:
    before = fitted.state()
    fitted.score((with_blob(unseen()),))
    assert all(torch.equal(before[name], tensor) for name, tensor in fitted.state().items())


def test_a_state_brings_back_the_very_same_scores(fitted: Autoencoder) -> None:
    copy = Autoencoder(CONFIG, STEPS, CPU).load_state(fitted.state())
    images = (with_blob(unseen()),)
    assert np.array_equal(copy.score(images).map_NHW, fitted.score(images).map_NHW)


def test_a_state_is_a_snapshot_of_contiguous_cpu_tensors() -> None:
    detector = fit(0)
    state = detector.state()
    assert all(tensor.device == CPU and tensor.is_contiguous() for tensor in state.values())
    before = detector.score((unseen(),)).score_N
    for tensor in state.values():
        tensor.zero_()
    assert np.array_equal(detector.score((unseen(),)).score_N, before)


def test_the_same_seed_is_bit_equal_and_another_differs(fitted: Autoencoder) -> None:
    images = (unseen(),)
    assert np.array_equal(fit(0).score(images).map_NHW, fitted.score(images).map_NHW)
    assert not np.array_equal(fit(1).score(images).map_NHW, fitted.score(images).map_NHW)


def test_fitting_leaves_the_global_generators_alone_and_ignores_them() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = fit(0).score((unseen(),)).score_N
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    torch.manual_seed(6)
    assert np.array_equal(fit(0).score((unseen(),)).score_N, first)


def test_a_share_smaller_than_a_batch_is_enough() -> None:
    assert np.isfinite(fit(0, source=Stripes(3)).score((unseen(),)).score_N).all()


def test_identical_images_do_not_divide_by_zero() -> None:
    source = Stripes(8)
    source.image_N3HW[:] = 100
    plain = source.image_N3HW[:1]
    detector = fit(0, source=source)
    assert np.isfinite(detector.score((plain,)).score_N).all()
    assert detector.score((with_blob(plain),)).score_N > detector.score((plain,)).score_N


def test_progress_is_reported_step_by_step_with_the_loss() -> None:
    seen: list[tuple[int, int, str]] = []
    losses: list[float] = []

    def report(done: int, total: int, unit: str, figures: Mapping[str, float]) -> None:
        seen.append((done, total, unit))
        losses.append(figures["loss"])

    Autoencoder(CONFIG, 3, CPU).fit(Stripes(8), 0, report)
    assert seen == [(1, 3, "step"), (2, 3, "step"), (3, 3, "step")]
    assert losses[0] > losses[-1] > 0


def test_a_loss_that_is_not_finite_stops_the_member() -> None:
    source = Stripes(8)
    source.image_N3HW[3] = float("nan")
    with pytest.raises(MemberError, match="loss at step 0 is nan"):
        fit(0, source=source)


def test_more_steps_redraw_better() -> None:
    def loss(steps: int) -> float:
        state = Autoencoder(CONFIG, steps, CPU).fit(Stripes(48), 0).state()
        return float(state["usual_HW"].mean())

    assert loss(120) < 0.7 * loss(5)


def test_many_bands_are_measured_fewer_images_at_a_time() -> None:
    read: list[int] = []

    class Watched(Stripes):
        def batch(self, rows: npt.NDArray[np.int64]) -> Layers:
            read.append(len(rows))
            return super().batch(rows)

    source = Watched(40)
    source.image_N3HW = source.image_N3HW[:, :1].repeat(1, 400, 1, 1)
    detector = Autoencoder(CONFIG, 2, CPU).fit(source, 0)
    assert max(read) == CONFIG.batch_size
    assert detector.state()["mean_3HW"].shape == (400, SIZE, SIZE)
