"""Photographs that are not square, in detectors of their shape: from the settings to regions, overlays and exports."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import load, parse, sides, with_overrides
from llb_ray.data.decoding import read_rgb
from llb_ray.data.mask_files import read_mask
from llb_ray.detectors.backbones import Backbone
from llb_ray.engine.pixel_grid import PixelGrid
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.errors import ConfigError
from tests.support import labelled_photos, square_defects

OBLONG = (32, 64)
NAMES = ["tiny", "tiny_bank", "tiny_reconstruction"]


@pytest.fixture(scope="module")
def tiny_reconstruction(tiny_bank: RunConfig) -> RunConfig:
    backbone = tiny_bank.detector.model_dump(mode="json")["backbone"]
    sizes = {"image_size_px": 32, "channels": 8, "member_steps": 2, "final_steps": 3}
    return parse({"detector": {"name": "reconstruction", "backbone": backbone, **sizes}, "members": {"count": 2}})


@pytest.fixture(scope="module")
def strips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twice as wide as high; the anomalous ones of the test split have a bright square at the right."""
    draw = square_defects((40, 80), 3, slice(10, 22), slice(60, 72))
    counts = [("train", "good", 18), ("test", "good", 5), ("test", "spot", 5)]
    return labelled_photos(tmp_path_factory.mktemp("strips"), counts, draw)


@pytest.fixture(scope="module", params=NAMES)
def run(request: pytest.FixtureRequest, strips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = request.getfixturevalue(request.param)
    settings = [f"detector.image_size_px={list(OBLONG)}", "threshold.method=folds", "threshold.folds=2"]
    config = with_overrides(tiny, [*settings, "data.group_pattern=null", "features.augment=[rot180]"])
    out = tmp_path_factory.mktemp("oblong") / "run"
    llb_ray.run(config, llb_ray.read_folder(strips, config), out=out, executor="serial")
    return out


@pytest.mark.parametrize(("size", "found"), [("96", (96, 96)), ("[96, 160]", (96, 160)), ("[96, 96]", (96, 96))])
@pytest.mark.parametrize("name", ["memory_bank", "reconstruction", "autoencoder", "density"])
def test_a_size_is_a_side_or_height_and_width(name: str, size: str, found: tuple[int, int]) -> None:
    config = load(None, [f"detector.name={name}", f"detector.image_size_px={size}"])
    assert config.detector.size == found
    assert config == RunConfig.model_validate(config.model_dump(mode="json"))
    assert isinstance(config.detector.image_size_px, int) == (found[0] == found[1]), "one spelling, one key"
    assert config.evaluation.sigma_at(found) == min(found) / 56


@pytest.mark.parametrize("size", ["0", "-3", "[96]", "[96, 0]", "[96, 96, 3]", "[a, b]", "1.5", "true", "99999", "{}"])
def test_what_is_no_size_is_refused_in_one_sentence(size: str) -> None:
    with pytest.raises(ConfigError, match=r"detector.image_size_px = .*: give the side of a square, or \[height"):
        load(None, [f"detector.image_size_px={size}"])


@pytest.mark.parametrize("size", ["[96, 100]", "[100, 96]", "100"])
def test_each_side_is_a_multiple_of_what_the_encoder_takes(size: str) -> None:
    with pytest.raises(ConfigError, match="multiple of 16"):
        load(None, ["detector.name=autoencoder", f"detector.image_size_px={size}"])
    config = load(None, ["detector.backbone={name: test_vit.r160_in1k, weights: random}"])
    assert config.detector.network is not None
    with pytest.raises(ConfigError, match="multiple of the patch size, 16"):
        Backbone(config.detector.network, sides_of(size), torch.device("cpu"))


def sides_of(text: str) -> tuple[int, int]:
    value = [int(side) for side in text.strip("[]").split(",")]
    return sides(value[0] if len(value) == 1 else (value[0], value[1]))


@pytest.mark.parametrize("kind", ["rot90", "rot270"])
def test_a_quarter_turn_of_an_oblong_image_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"features.augment={kind} turns images on their side"):
        load(None, ["detector.image_size_px=[96, 160]", f"features.augment=[{kind}]"])
    load(None, ["detector.image_size_px=[96, 160]", "features.augment=[hflip, vflip, rot180]"])


def test_photographs_and_masks_are_brought_to_height_and_width(strips: Path) -> None:
    path = strips / "test" / "spot" / "0.png"
    assert read_rgb(path, OBLONG, 10**6).shape == (*OBLONG, 3)
    mask = read_mask(strips / "ground_truth" / "spot" / "0_mask.png", OBLONG, 10**6)
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 17, 48, 57)


def test_maps_regions_and_overlays_have_the_photographs_shape(run: Path, strips: Path, tmp_path: Path) -> None:
    folder = RunFolder.open(run)
    config = folder.config()
    detector = llb_ray.Detector.load(run, false_area_rate=0.01)
    verdicts = detector.predict([strips / "test" / "spot" / f"{number}.png" for number in range(3)])
    height, width = verdicts.map_NHW.shape[1:]
    assert width == 2 * height
    smooth = PixelGrid.of(config, None).smooth(verdicts.map_NHW)
    assert smooth.shape == (3, *OBLONG)
    assert verdicts.sizes == [(40, 80)] * 3
    assert all(region.x + region.width <= 80 and region.y + region.height <= 40 for region in chain(*verdicts.regions))
    llb_ray.predict(run, strips / "test" / "spot", out=tmp_path / "out", overlays="all", masks=True)
    assert Image.open(tmp_path / "out" / "overlays" / "0.png.png").size == (80, 40)
    assert Image.open(tmp_path / "out" / "masks" / "0.png.png").size == (80, 40)


def test_the_spot_is_found_where_it_is(run: Path, strips: Path) -> None:
    if RunFolder.open(run).config().detector.trains_by_gradient:
        pytest.skip("trained for a few steps")
    verdicts = llb_ray.Detector.load(run).predict([strips / "test" / "spot" / "0.png"])
    row, column = np.unravel_index(verdicts.map_NHW[0].argmax(), verdicts.map_NHW.shape[1:])
    height, width = verdicts.map_NHW.shape[1:]
    assert 0.2 < row / height < 0.6
    assert 0.7 < column / width < 0.95


def test_the_run_is_audited_and_its_report_is_written(run: Path) -> None:
    assert llb_ray.audit(run)
    assert llb_ray.write_report(run).stat().st_size > 0


@pytest.mark.filterwarnings("ignore")
def test_an_exported_model_takes_that_size(run: Path, strips: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    llb_ray.export(run, "onnx", out=tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    assert session.get_inputs()[0].shape[1:] == [*OBLONG, 3]
    assert "32 x 64 px" in session.get_modelmeta().custom_metadata_map["llb_ray.resize"]
    image_1HW3 = read_rgb(strips / "test" / "spot" / "0.png", OBLONG, 10**6)[None]
    verdict = llb_ray.Detector.load(run).predict(list(image_1HW3))
    score_B, _, map_BHW = session.run(None, {"image": image_1HW3})
    assert np.allclose(score_B, verdict.score_N, rtol=1e-3)
    assert map_BHW.shape == verdict.map_NHW.shape
