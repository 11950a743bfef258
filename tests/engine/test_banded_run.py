"""A run on images of several bands: one scale, of the training images alone, from the members to the prediction."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image

import llb_ray
from llb_ray import RunConfig
from llb_ray.artifacts import RECORD
from llb_ray.config import load, parse, with_overrides
from llb_ray.data.band_scale import BandScale
from llb_ray.data.bands import read_bands
from llb_ray.data.tables import read_table
from llb_ray.engine.features import measured_bands as bands_module
from llb_ray.engine.features.measured_bands import scale_recipe, write_scale
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.errors import AuditError, ConfigError, DataError
from llb_ray.search.search_plan import trial_images
from tests.support import final_files

BANDS = 6
SIDE = 40


def _scene(rng: np.random.Generator, strange: bool) -> np.ndarray:
    """A plate with a spectrum of its own; strange, a patch in it has the spectrum backwards, and is no brighter."""
    spectrum_C = np.array([200, 900, 400, 3000, 700, 1500])
    shade_HW1 = rng.normal(1, 0.02, (SIDE, SIDE, 1)) + 0.1 * np.sin(np.arange(SIDE) / 3 + rng.uniform(0, 6))[:, None]
    value_HWC = shade_HW1 * spectrum_C
    if strange:
        row, column = rng.integers(4, SIDE - 14, 2)
        value_HWC[row : row + 10, column : column + 10] = value_HWC[row : row + 10, column : column + 10, ::-1]
    return value_HWC


def _written(path: Path, value_HWC: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = value_HWC.round().astype(np.uint16)
    if path.suffix == ".tif":
        first, *more = [Image.fromarray(np.ascontiguousarray(pixels[..., band])) for band in range(BANDS)]
        first.save(path, save_all=True, append_images=more)
    elif path.suffix == ".npz":
        np.savez(path, data=np.moveaxis(pixels, 2, 0).astype(np.float64))
    else:
        np.save(path, pixels)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A contaminated tree of 36 training and 24 test images in three formats."""
    root, rng = tmp_path_factory.mktemp("data") / "plates", np.random.default_rng(5)
    for split, count, period in (("train", 36, 6), ("test", 24, 2)):
        for number in range(count):
            strange = number % period == 0
            name = f"{split}{number:02d}{('.npy', '.npz', '.tif')[number % 3]}"
            value_HWC = _scene(rng, strange)
            _written(root / split / ("swapped" if strange else "good") / name, value_HWC)
            if strange:
                mask = Image.fromarray(np.abs(value_HWC[..., 0] - value_HWC[..., 0].min()) > 600)
                (root / "ground_truth" / "swapped").mkdir(parents=True, exist_ok=True)
                mask.save(root / "ground_truth" / "swapped" / f"{Path(name).stem}_mask.png")
    return root


@pytest.fixture(scope="module")
def banded() -> RunConfig:
    sizes = {"image_size_px": 32, "channels": 8, "member_steps": 40, "final_steps": 80}
    return parse(
        {
            "data": {"bands": BANDS},
            "detector": {"name": "autoencoder", **sizes},
            "members": {"count": 3},
            "purify": {"keep_ratio": 0.8},
        }
    )


@pytest.fixture(scope="module")
def run(scenes: Path, banded: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("banded") / "run"
    llb_ray.run(banded, llb_ray.read_folder(scenes, banded), out=out, executor="serial")
    return out


def _scale(run: Path) -> BandScale:
    scale = bands_module.read_scale(RunFolder.open(run).made().bands)
    assert scale is not None
    return scale


def test_a_run_finds_what_only_the_bands_show_and_passes_its_audit(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["i_auroc"] > 0.9
    assert metrics["p_auroc"] > 0.9
    assert "6 bands are on the scale of the training images and no others" in llb_ray.audit(run)


@pytest.mark.ray
def test_ray_gives_the_very_same_files(
    run: Path, scenes: Path, banded: RunConfig, ray_local: None, tmp_path: Path
) -> None:
    llb_ray.run(banded, llb_ray.read_folder(scenes, banded), out=tmp_path / "run", executor="ray")
    assert final_files(tmp_path / "run") == final_files(run)


def test_the_scale_is_that_of_the_training_images_and_of_no_others(
    run: Path, scenes: Path, banded: RunConfig, tmp_path: Path
) -> None:
    files = sorted(path for path in (scenes / "train").rglob("*") if path.is_file())
    read = [read_bands(path, BANDS, 10**6).reshape(-1, BANDS) for path in files]
    low_C, high_C = np.quantile(np.concatenate(read), [0.01, 0.99], axis=0)
    assert _scale(run).low_C == pytest.approx(low_C)
    assert _scale(run).high_C == pytest.approx(high_C)

    other = Path(shutil.copytree(scenes, tmp_path / "plates"))
    for path in (other / "test").rglob("*.npy"):
        np.save(path, 50 * np.load(path).astype(np.float32))
    llb_ray.run(banded, llb_ray.read_folder(other, banded), out=tmp_path / "run", executor="serial")
    assert _scale(tmp_path / "run") == _scale(run)
    scores = [read_table(out / "scores.arrow") for out in (run, tmp_path / "run")]
    assert scores[0].equals(scores[1])


def test_the_scale_depends_neither_on_the_order_nor_on_the_names_of_files(
    scenes: Path, banded: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bands_module, "_VALUES", 36 * BANDS * 50)  # so that pixels are drawn
    monkeypatch.setattr(bands_module, "_IMAGES", 20)
    rows = llb_ray.read_folder(scenes, banded).split("train").to_pylist()
    paths = {row["image_id"]: row["path"] for row in rows}
    moved = Path(shutil.copytree(scenes, tmp_path / "elsewhere"))
    (moved / "train").rename(moved / "learn")
    renamed = {name: path.replace("train/", "learn/") for name, path in reversed(paths.items())}
    written = []
    for root, chosen in ((scenes, paths), (moved, renamed)):
        folder = tmp_path / str(len(written))
        folder.mkdir()
        write_scale(folder, root, chosen, BANDS, 10**6)
        written.append((folder / "bands.arrow").read_bytes())
    assert written[0] == written[1]


def test_an_image_that_changed_since_the_manifest_is_refused(scenes: Path, banded: RunConfig, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(scenes, tmp_path / "plates"))
    manifest = llb_ray.read_folder(moved, banded)
    victim = min((moved / "train" / "good").glob("*.npy"))
    np.save(victim, np.load(victim) + 1)
    with pytest.raises(DataError, match=f"^{victim}: its content changed since the manifest was made; run the same"):
        llb_ray.run(banded, manifest, out=tmp_path / "run", executor="serial")


def test_other_training_images_or_bands_are_another_scale() -> None:
    keys = {scale_recipe(bands, ids).key for bands in (5, 6) for ids in (["a", "b"], ["a"])}
    assert len(keys) == 4


def test_copies_and_encoding_anew_work_on_bands_too(run: Path, scenes: Path, banded: RunConfig, tmp_path: Path) -> None:
    manifest = llb_ray.read_folder(scenes, banded)
    streamed = with_overrides(banded, ["features.max_gib=0"])
    llb_ray.run(streamed, manifest, out=tmp_path / "streamed", executor="serial")
    for name in ("scores.arrow", "image_scores.arrow"):
        assert (tmp_path / "streamed" / name).read_bytes() == (run / name).read_bytes()
    copies = with_overrides(banded, ["features.augment=[hflip, rot90]", "detector.final_steps=5"])
    llb_ray.run(copies, manifest, out=tmp_path / "copies", executor="serial")
    assert llb_ray.audit(tmp_path / "copies")


def test_a_prediction_is_on_the_runs_scale_and_draws_what_it_found(run: Path, scenes: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(scenes / "test", tmp_path / "data"))
    Image.new("RGB", (8, 8)).save(data / "photograph.png")
    prediction = llb_ray.predict(run, data, out=tmp_path / "out")
    assert (prediction.num_scored, prediction.num_quarantined) == (24, 1)
    assert "data.bands = 6 asks for one" in (tmp_path / "out" / "quarantine.csv").read_text()
    found = parquet.read_table(tmp_path / "out" / "scores.parquet").to_pylist()
    said = {row["image_id"]: row["score"] for row in read_table(run / "image_scores.arrow").to_pylist()}
    assert {row["image_id"]: row["score"] for row in found} == pytest.approx(
        {row["image_id"]: said[row["image_id"]] for row in found}, rel=1e-4
    )
    hot = []
    for path in sorted(data.glob("swapped/*")):
        drawn = np.asarray(Image.open(tmp_path / "out" / "overlays" / "swapped" / f"{path.name}.png")).astype(int)
        value_HWC = read_bands(path, BANDS, 10**6)
        changed_HW = np.abs(drawn - _scale(run).picture(value_HWC)).max(axis=2) > 20
        mask_HW = np.asarray(Image.open(scenes / "ground_truth" / "swapped" / f"{path.stem}_mask.png"))
        assert drawn.shape == (SIDE, SIDE, 3)
        hot.append(changed_HW[mask_HW].mean() - changed_HW[~mask_HW].mean())
    assert len(hot) == 12
    assert np.median(hot) > 0.5


def test_a_configuration_that_names_no_bands_is_of_photographs(finished: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(finished, tmp_path / "old"))
    config = (old / "config.yaml").read_text().replace("  bands: null\n", "")
    (old / "config.yaml").write_text(config)
    assert "bands" not in config
    assert "no scale of bands (the images are photographs)" in llb_ray.audit(old)


def _other_bands(run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("bands: 6", "bands: 7"))


def _no_bands(run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("bands: 6", "bands: null"))


def _of_other_images(run: Path) -> None:
    (record,) = run.glob(f"artifacts/bands/*/{RECORD}")
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "inputs": {"images": "0" * 64}}))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_other_bands, "not the scale of 7 bands over the manifest's training images"),
        (_no_bands, "not what the run was made with: data.bands is None there"),
        (_of_other_images, "it describes another artifact"),
    ],
)
def test_the_audit_finds_a_scale_that_is_not_the_runs(
    spoil: Callable[[Path], None], sentence: str, run: Path, tmp_path: Path
) -> None:
    spoilt = Path(shutil.copytree(run, tmp_path / "run"))
    spoil(spoilt)
    with pytest.raises(AuditError, match=sentence):
        llb_ray.audit(spoilt)


@pytest.mark.parametrize("name", [None, "memory_bank", "reconstruction"])
def test_a_backbone_refuses_bands_when_the_configuration_is_read(name: str | None) -> None:
    sentence = f"detector {name or 'memory_bank'} knows RGB .* alone; choose detector.name=autoencoder"
    with pytest.raises(ConfigError, match=sentence) as refusal:
        load(None, ["data.bands=5", *([f"detector.name={name}"] if name else [])])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("given", [0, -3, "many", 1e9])
def test_a_number_of_bands_is_a_number(given: Any) -> None:
    with pytest.raises(ConfigError, match="data.bands = "):
        parse({"data": {"bands": given}})


def test_a_search_on_bands_cannot_plant_defects_and_says_what_can(
    scenes: Path, banded: RunConfig, tmp_path: Path
) -> None:
    manifest = llb_ray.read_folder(scenes, banded)
    with pytest.raises(ConfigError, match="data.bands=6: the objective canary plants defects in RGB photographs alone"):
        trial_images("canary", manifest, None, tmp_path / "out", banded)
    assert trial_images("split_half", manifest, None, tmp_path / "out", banded).image_ids("test") == []
    validation = Path(shutil.copytree(scenes / "test", tmp_path / "validation"))
    unseen = replace(manifest, table=manifest.split("train"))
    judged = trial_images("val_auroc", unseen, validation, tmp_path / "out", banded)
    assert len(judged.image_ids("test")) == 24
