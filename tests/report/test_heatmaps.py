"""Heatmaps: one scale for all that a run draws, and a photograph that stays visible under its map."""

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import llb_ray
from llb_ray.data.tables import read_table
from llb_ray.engine.evaluation.held_out_maps import HeldOutMaps
from llb_ray.engine.pixel_grid import PixelGrid
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.ensemble.purified_dataset import kept_ids
from llb_ray.report.heatmaps import Scale, overlay

SCALE = Scale(low=1.0, high=5.0)
RNG = np.random.default_rng(0)
Pixels = npt.NDArray[np.uint8]


def _photo(height: int = 48, width: int = 70) -> Pixels:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _map(value: float, side: int = 32) -> npt.NDArray[np.float32]:
    return np.full((side, side), value, np.float32)


@pytest.mark.parametrize("shape", [(48, 70), (20, 9), (32, 32)])
def test_an_overlay_has_the_photographs_shape(shape: tuple[int, int]) -> None:
    photo = _photo(*shape)
    drawn = overlay(photo, _map(3.0), SCALE)
    assert drawn.shape == photo.shape
    assert drawn.dtype == np.uint8


@pytest.mark.parametrize("value", [1.0, 0.5, -100.0])
def test_where_the_map_is_low_the_photograph_is_as_it_was(value: float) -> None:
    photo = _photo()
    assert np.array_equal(overlay(photo, _map(value), SCALE), photo)


def test_only_the_hot_place_is_painted() -> None:
    photo = _photo(64, 64)
    map_HW = _map(0.0)
    map_HW[4:8, 20:24] = 5.0
    changed = (overlay(photo, map_HW, SCALE) != photo).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert rows.min() >= 7
    assert rows.max() <= 16
    assert columns.min() >= 39
    assert columns.max() <= 48
    assert changed[9:15, 41:47].all()


@pytest.mark.parametrize("value", [5.0, 1e6])
def test_under_the_hottest_spot_the_photograph_is_still_visible(value: float) -> None:
    black, white = (overlay(np.full((8, 8, 3), level, np.uint8), _map(value), SCALE) for level in (0, 255))
    contrast = white.astype(int) - black
    assert contrast.min() >= 60
    assert black.mean() > 100


def test_hotter_is_more_opaque() -> None:
    painted = [overlay(np.zeros((8, 8, 3), np.uint8), _map(value), SCALE).mean() for value in (1, 2, 3, 4, 5)]
    assert painted == sorted(set(painted))


def test_a_scale_places_a_map_between_its_ends() -> None:
    assert SCALE.share(np.array([[0, 1, 3, 5, 9]], np.float32)).tolist() == [[0, 0, 0.5, 1, 1]]


def test_normal_images_stay_all_but_blank_and_a_far_one_is_bright() -> None:
    map_NHW = RNG.normal(size=(200, 16, 16)).astype(np.float32)
    scale = Scale.of(map_NHW)
    share_NHW = np.stack([scale.share(one) for one in map_NHW])
    assert (share_NHW > 0).mean() < 0.02
    assert np.percentile(np.quantile(share_NHW, 0.99, axis=(1, 2)), 95) <= 0.5 + 1e-6
    assert scale.share(np.full((1, 1), map_NHW.max() * 2, np.float32)).item() == 1


def test_equal_maps_have_a_scale(recwarn: pytest.WarningsRecorder) -> None:
    photo = _photo(32, 32)
    scale = Scale.of(np.full((3, 32, 32), 2.0, np.float32))
    assert np.array_equal(overlay(photo, _map(2.0), scale), photo)
    assert not recwarn.list


def test_the_scale_is_of_held_out_maps_of_kept_images(finished: Path) -> None:
    folder = RunFolder.open(finished)
    made, config = folder.made(), folder.config()
    purified, final = read_table(finished / "purified" / "part-0.arrow"), read_scores(made.final_scores)
    maps = HeldOutMaps.of(made.held_out_maps, config, None).of_kept(purified, final, purified)
    assert maps is not None
    scale, expected = Scale.of_run(folder), Scale.of(PixelGrid.of(config, None).smooth(maps[1]))
    assert (scale.low, scale.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert scale.low < scale.high


def test_without_these_the_scale_is_of_the_maps_of_all_kept_images(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HeldOutMaps, "of_kept", lambda *_: None)
    folder = RunFolder.open(finished)
    scored = read_scores(folder.made().final_scores)
    kept = set(kept_ids(read_table(finished / "purified" / "part-0.arrow")))
    rows = [row for row, image_id in enumerate(scored["image_id"].to_pylist()) if image_id in kept]
    map_NHW = scored["map"].combine_chunks().to_numpy_ndarray()[rows]
    scale, expected = Scale.of_run(folder), Scale.of(PixelGrid.of(folder.config(), None).smooth(map_NHW))
    assert (scale.low, scale.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_a_hot_image_does_not_change_how_another_looks(finished: Path, photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for image in sorted((photos / "test" / "good").glob("*.png"))[:3]:
        shutil.copy(image, data)
    alone = _overlays(finished, data, tmp_path / "alone")
    Image.fromarray(_photo(48, 48)).save(data / "noise.png")
    together = _overlays(finished, data, tmp_path / "together")
    hot = together.pop("noise.png.png").astype(int)
    assert together.keys() == alone.keys() != set()
    for name, drawn in alone.items():
        assert np.abs(drawn.astype(int) - together[name]).max() <= 1
    assert np.abs(hot - np.asarray(Image.open(data / "noise.png"))).max() > 50


def _overlays(run: Path, data: Path, out: Path) -> dict[str, Pixels]:
    llb_ray.predict(run, data, out=out)
    assert (out / "colour_scale.png").is_file()
    return {path.name: np.asarray(Image.open(path)) for path in (out / "overlays").rglob("*.png")}


def test_a_large_photograph_is_drawn_smaller_and_in_proportion(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    Image.new("RGB", (2048, 512), "grey").save(tmp_path / "data" / "deep" / "wide.png")
    llb_ray.predict(finished, tmp_path / "data", out=tmp_path / "out")
    assert Image.open(tmp_path / "out" / "overlays" / "deep" / "wide.png.png").size == (1024, 256)
