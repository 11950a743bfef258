"""The exported detector: torch's numbers by another runtime, from bytes to decision, and no file where they differ."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import load, parse, with_overrides
from llb_ray.data.decoding import read_rgb
from llb_ray.errors import ArtifactError, ConfigError, MemberError
from llb_ray.exporting import comparison
from llb_ray.exporting.onnx import round_down

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore")
RUNS = ["finished", "finished_bank", "finished_reconstruction"]


@pytest.fixture(scope="module")
def finished_reconstruction(photos: Path, tiny_bank: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    backbone = tiny_bank.detector.model_dump(mode="json")["backbone"]
    sizes = {"image_size_px": 32, "channels": 8, "member_steps": 5, "final_steps": 8}
    config = parse({"detector": {"name": "reconstruction", "backbone": backbone, **sizes}, "members": {"count": 2}})
    out = tmp_path_factory.mktemp("reconstruction") / "run"
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=out, executor="serial")
    return out


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.fixture(scope="module")
def model(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    exported = llb_ray.export(run, "onnx", out=path)
    assert "images of the run within" in exported.sentence()
    return path


def _bytes(photos: Path) -> npt.NDArray[np.uint8]:
    return np.stack([read_rgb(path, 32, 10**6) for path in sorted((photos / "test").rglob("*.png"))])


@pytest.mark.parametrize("batch", [1, 3, 24])
def test_another_runtime_says_the_same_of_images_that_it_was_not_compared_on(
    batch: int, model: Path, run: Path, photos: Path
) -> None:
    image_BHW3 = _bytes(photos)[:batch]
    expected = llb_ray.Detector.load(run).predict(list(image_BHW3))
    session = onnxruntime.InferenceSession(str(model))
    score_B, anomalous_B, map_BHW = session.run(None, {"image": image_BHW3})
    scale = np.abs(expected.map_NHW).max()
    assert np.abs(score_B - expected.score_N).max() < 1e-4 * scale
    assert np.abs(map_BHW - expected.map_NHW).max() < 1e-3 * scale
    assert ["anomalous" if one else "normal" for one in anomalous_B] == expected.decisions


def test_the_file_is_whole_and_says_what_it_needs_to_know(model: Path, run: Path) -> None:
    assert [path.name for path in model.parent.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(str(model))
    said = session.get_modelmeta().custom_metadata_map
    assert float(said["llb_ray.threshold"]) == llb_ray.Detector.load(run).calibration.threshold
    assert "32 x 32 px, bicubic" in said["llb_ray.resize"]
    prefix = "llb_ray.backbone."
    origin = {key.removeprefix(prefix): value for key, value in said.items() if key.startswith(prefix)}
    assert origin == json.loads((run / "run.json").read_text())["weights"]
    assert ("sha256" in origin) == (load(run / "config.yaml").detector.name != "autoencoder")
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape[1:]) == ("image", "tensor(uint8)", [32, 32, 3])
    assert [output.name for output in session.get_outputs()] == ["score", "anomalous", "map"]


def test_a_model_that_says_something_else_is_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "TOLERANCE", 0.0)
    with pytest.raises(MemberError, match="differ by .* from torch's and its maps by .* more than the 0 allowed"):
        llb_ray.export(finished, "onnx", out=tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has to end in \.onnx"):
        llb_ray.export(finished, "onnx", out=tmp_path / "model.pt")
    with pytest.raises(ArtifactError, match="no finished run here"):
        llb_ray.export(tmp_path, "onnx", out=tmp_path / "model.onnx")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_no_onnx_of_a_network_in_a_short_format(
    precision: str, tiny_bank: RunConfig, photos: Path, tmp_path: Path
) -> None:
    config = with_overrides(tiny_bank, [f"detector.backbone.precision={precision}"])
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path / "run", executor="serial")
    for name in ("model.onnx", "model.xml"):
        format = "onnx" if name.endswith("onnx") else "openvino"
        with pytest.raises(ConfigError, match=rf"precision={precision}: .*; export it as torch-export, or train in"):
            llb_ray.export(tmp_path / "run", format, out=tmp_path / name)
    exported = llb_ray.export(tmp_path / "run", "torch-export", out=tmp_path / "model.pt2")
    assert "images of the run within" in exported.sentence()
    assert precision in llb_ray.bench(tmp_path / "run", images=4, batch=2).unavailable["onnxruntime"]
    assert {path.name for path in tmp_path.iterdir()} == {"run", "model.pt2"}


def test_the_threshold_is_an_input_that_may_be_left_out(model: Path, run: Path, photos: Path) -> None:
    image_BHW3 = _bytes(photos)
    session = onnxruntime.InferenceSession(str(model))
    (name,) = [value.name for value in session.get_overridable_initializers()]
    assert name == "threshold"
    score_B, _, _ = session.run(None, {"image": image_BHW3})
    for threshold in (-np.inf, float(np.median(score_B)), np.inf):
        (anomalous_B,) = session.run(["anomalous"], {"image": image_BHW3, name: np.array([threshold], np.float32)})
        assert anomalous_B.tolist() == (score_B > threshold).tolist()


@pytest.mark.parametrize("threshold", [0.1, 0.3, 1.0, -0.7, 3e-9])
def test_rounding_a_threshold_changes_no_decision(threshold: float) -> None:
    (rounded,) = round_down(threshold)
    near = [np.float32(threshold), *(np.nextafter(np.float32(threshold), np.float32(way)) for way in (-9, 9))]
    assert [bool(score > rounded) for score in near] == [float(score) > threshold for score in near]
