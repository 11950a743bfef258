"""A run on 16-bit images that use a part of their scale: one black and white point, from the members to `predict`."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import with_overrides
from llb_ray.data.levels import Levels
from llb_ray.engine.features.measured_levels import have_16_bits, levels_recipe, measure_levels, read_levels
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.errors import AuditError, DataError
from llb_ray.exporting.onnx import _properties
from llb_ray.report.thumbnails import Pictures
from llb_ray.search.canary import with_canaries


def _photo(path: Path, seed: int, peak: int = 4095) -> Path:
    rng = np.random.default_rng(seed)
    value = np.clip(rng.normal(0.4, 0.05, (40, 40)) + 0.3 * (np.arange(40) > 20), 0, 1) * peak
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(value).astype(np.uint16)).save(path)
    return path


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("deep") / "plates"
    for seed in range(24):
        _photo(root / f"{seed:02d}.png", seed)
    return root


@pytest.fixture(scope="module")
def config(tiny: RunConfig) -> RunConfig:
    return with_overrides(tiny, ["data.group_pattern=null"])


@pytest.fixture(scope="module")
def run(deep: Path, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    told: list[str] = []
    out = tmp_path_factory.mktemp("run") / "run"
    llb_ray.run(config, llb_ray.read_folder(deep, config), out=out, executor="serial", tell=told.append)
    (note,) = [line for line in told if "small part of their scale" in line]
    assert "0 is read as black and 4095 as white, in this run and by predict" in note
    return out


def test_the_levels_are_stored_with_the_run_and_are_in_the_key_of_the_features(run: Path) -> None:
    made = RunFolder.open(run).made()
    assert read_levels(made.levels) == Levels(0, 4095)
    detector = llb_ray.Detector.load(run)
    assert detector.photographs.levels == Levels(0, 4095)
    assert detector.photographs.key == made.final.inputs["encoder"]
    assert any("16-bit images are on the black and white point" in check for check in llb_ray.audit(run))


def test_predict_reads_images_as_the_run_did_and_none_by_its_own_brightest_pixel(
    run: Path, deep: Path, tmp_path: Path
) -> None:
    detector = llb_ray.Detector.load(run)
    plain = detector.photographs.pixels(deep / "00.png")
    assert 100 < plain.mean() < 150
    value = np.asarray(Image.open(deep / "00.png")).copy()
    value[0, 0] = 65535
    Image.fromarray(value).save(tmp_path / "hot.png")
    hot = detector.photographs.pixels(tmp_path / "hot.png")
    assert np.abs(hot[4:].astype(int) - plain[4:]).max() == 0
    dark = detector.photographs.pixels(_photo(tmp_path / "dark.png", 0, peak=400))
    assert dark.max() < 40, "a single image has no white point of its own"
    from_file = detector.predict([deep / "00.png"]).score_N
    assert np.allclose(detector.predict([Image.open(deep / "00.png")]).score_N, from_file)


def test_the_report_shows_them_as_the_detector_saw_them(run: Path) -> None:
    finished = FinishedRun(RunFolder.open(run), None)
    image_id = finished.images["image_id"][0].as_py()
    thumbnail = Pictures.of(finished)._thumbnail(image_id)
    assert thumbnail is not None
    assert 100 < np.asarray(thumbnail).mean() < 150


def test_planted_copies_are_on_the_levels_of_the_originals(deep: Path, config: RunConfig, tmp_path: Path) -> None:
    manifest = with_canaries(llb_ray.read_folder(deep, config), tmp_path / "out", config, seed=0, share=0.4)
    copies = [path for path in manifest.split("test")["path"].to_pylist() if path.startswith("/")]
    assert copies
    assert all(100 < np.asarray(Image.open(path)).mean() < 150 for path in copies)


def test_sets_of_8_bits_have_no_levels(finished: Path, photos: Path) -> None:
    assert RunFolder.open(finished).made().levels is None
    names = {path.name: path.name for path in (photos / "train/good").iterdir()}
    assert not have_16_bits(photos / "train/good", names)
    assert any("no levels" in check for check in llb_ray.audit(finished))


def test_images_that_changed_are_refused(deep: Path, tmp_path: Path) -> None:
    shutil.copy(deep / "00.png", tmp_path / "00.png")
    with pytest.raises(DataError, match="its content changed"):
        measure_levels(tmp_path, {"0" * 32: "00.png"}, 10**6)


def test_levels_of_other_images_fail_the_audit(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llb_ray.engine.audit.audit.levels_recipe", lambda ids: levels_recipe(ids[1:]))
    with pytest.raises(AuditError, match="not the black and white point of the manifest's training images"):
        llb_ray.audit(run)


def test_an_exported_model_says_how_16_bits_become_8(run: Path) -> None:
    said = _properties(llb_ray.Detector.load(run), any_size=False)["llb_ray.input"]
    assert said == "uint8 [batch, 32, 32, 3], RGB, upright, from 16 bits by 0 as 0 and 4095 as 255"
