"""The scale of bands: known answers, no dependence on order, and pictures that people can look at."""

import warnings

import numpy as np
import pytest

from llb_ray.data.augment import augment_image
from llb_ray.data.band_scale import SCALE, BandScale, some_pixels

RNG = np.random.default_rng(0)


def _ramp(*spans: tuple[float, float]) -> np.ndarray:
    """1001 pixels, each band evenly from one number to another."""
    return np.stack([np.linspace(low, high, 1001) for low, high in spans], axis=1).astype(np.float32)


def test_the_scale_is_the_outer_hundredths_of_each_band() -> None:
    scale = BandScale.of(_ramp((0, 1000), (-5, 5), (3e4, 2e4)))
    assert scale.low_C == pytest.approx((10, -4.9, 20_100))
    assert scale.high_C == pytest.approx((990, 4.9, 29_900))


def test_order_does_not_matter_and_a_table_brings_it_back() -> None:
    pixels = RNG.gamma(2, 300, (5000, 7)).astype(np.float32)
    scale = BandScale.of(pixels)
    assert BandScale.of(RNG.permutation(pixels)) == scale
    assert scale.table().schema == SCALE
    assert BandScale.of_table(scale.table()) == scale


def test_an_outlier_in_a_hundred_does_not_move_it() -> None:
    pixels = RNG.normal(100, 5, (10_000, 3)).astype(np.float32)
    spoilt = pixels.copy()
    spoilt[:50] = 1e6
    for clean, dirty in zip(BandScale.of(pixels).high_C, BandScale.of(spoilt).high_C, strict=True):
        assert dirty == pytest.approx(clean, rel=0.02)


def test_bytes_put_the_usual_values_in_the_middle_half_and_cut_off_what_is_far() -> None:
    scale = BandScale((100.0, -1.0), (200.0, 1.0))
    value_HWC = np.array([[[100, -1], [200, 1], [150, 0], [50, -2], [250, 2], [1e9, -3e38]]], np.float32)
    bytes_HWC = scale.to_bytes(value_HWC)
    assert bytes_HWC.dtype == np.uint8
    assert bytes_HWC[0].tolist() == [[64, 64], [191, 191], [128, 128], [0, 0], [255, 255], [255, 0]]


def test_every_band_counts_alike_whatever_its_unit() -> None:
    value_HWC = RNG.normal(size=(40, 40, 1)) * [1e-9, 1, 1e6] + [0, -3, 1e7]
    value_HWC = value_HWC.astype(np.float32)
    bytes_HWC = BandScale.of(value_HWC.reshape(-1, 3)).to_bytes(value_HWC).astype(int)
    assert np.abs(bytes_HWC - bytes_HWC[..., :1]).max() <= 1


@pytest.mark.parametrize("level", [0.0, 7.0, -3e4, 1e-30])
def test_a_band_that_never_changes_is_in_the_middle_and_still_shows_a_change(level: float) -> None:
    still = np.full((4, 4, 1), level, np.float32)
    scale = BandScale.of(still.reshape(-1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain, changed = scale.to_bytes(still), scale.to_bytes(still + np.float32(abs(level) or 1))
    assert len(np.unique(plain)) == 1
    assert (changed > plain).all()


def test_a_picture_shows_three_bands_on_their_own_scales() -> None:
    value_HWC = np.zeros((2, 2, 6), np.float32)
    value_HWC[0, 0, 5], value_HWC[0, 1, 3], value_HWC[1, 0, 1] = 10, 20, 30
    scale = BandScale((0.0,) * 6, (1.0, 30.0, 1.0, 20.0, 1.0, 10.0))
    picture = scale.picture(value_HWC)
    assert picture.dtype == np.uint8
    assert picture.tolist() == [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 0, 0]]]


@pytest.mark.parametrize("bands", [1, 2])
def test_a_picture_of_fewer_bands_is_grey(bands: int) -> None:
    value_HWC = np.linspace(0, 1, 8 * bands, dtype=np.float32).reshape(2, 4, bands)
    picture = BandScale((0.0,) * bands, (1.0,) * bands).picture(value_HWC)
    assert picture.shape == (2, 4, 3)
    assert (picture == picture[..., :1]).all()
    assert len(np.unique(picture)) == 8


def test_pixels_are_drawn_whole_and_at_most_as_many_as_asked_for() -> None:
    value_HWC = np.arange(60, dtype=np.float32).reshape(4, 5, 3)
    every = {tuple(pixel) for pixel in value_HWC.reshape(-1, 3)}
    drawn = some_pixels(value_HWC, 7, np.random.default_rng(1))
    assert drawn.shape == (7, 3)
    assert len({tuple(pixel) for pixel in drawn} & every) == 7
    assert len(some_pixels(value_HWC, 99, np.random.default_rng(1))) == 20


@pytest.mark.parametrize("kind", ["hflip", "vflip", "rot90", "rot180", "rot270"])
def test_augmentations_move_pixels_with_all_their_bands(kind: str) -> None:
    image_HWC = RNG.integers(0, 256, (8, 8, 5), dtype=np.uint8)
    moved = augment_image(image_HWC, kind)  # type: ignore[arg-type]
    assert moved.shape == image_HWC.shape
    for band in range(5):
        assert np.array_equal(moved[..., band], augment_image(image_HWC[..., [band]], kind)[..., 0])  # type: ignore[arg-type]
