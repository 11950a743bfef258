"""Programs of torch.export and OpenVINO's files: the detector's numbers, and no file where they differ."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import parse
from llb_ray.data.decoding import read_rgb
from llb_ray.errors import ConfigError, MemberError, ResourceError
from llb_ray.exporting import comparison
from llb_ray.exporting.runtimes import why_unavailable

pytestmark = pytest.mark.filterwarnings("ignore")


def _images(photos: Path) -> np.ndarray:
    return np.stack([read_rgb(path, 32, 10**6) for path in sorted((photos / "test").rglob("*.png"))[:6]])


@pytest.mark.parametrize("name", ["finished", "finished_bank"])
def test_a_program_gives_the_detectors_numbers(
    name: str, photos: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run, image_BHW3 = request.getfixturevalue(name), _images(photos)
    exported = llb_ray.export(run, "torch-export", out=tmp_path / "model.pt2")
    assert "images of the run within" in exported.sentence()
    expected = llb_ray.Detector.load(run).predict(list(image_BHW3))
    program = torch.export.load(tmp_path / "model.pt2").module()
    threshold = torch.tensor([expected.calibrations[0].threshold], dtype=torch.float32)
    score_B, anomalous_B, map_BHW = program(torch.from_numpy(image_BHW3), threshold)
    scale = np.abs(expected.map_NHW).max()
    assert np.abs(score_B.numpy() - expected.score_N).max() < 1e-3 * scale
    assert np.abs(map_BHW.numpy() - expected.map_NHW).max() < 1e-3 * scale
    assert ["anomalous" if one else "normal" for one in anomalous_B] == expected.decisions


def test_openvino_gives_the_detectors_numbers(finished_bank: Path, tmp_path: Path) -> None:
    if reason := why_unavailable("openvino"):
        pytest.skip(reason)
    exported = llb_ray.export(finished_bank, "openvino", out=tmp_path / "model.xml")
    assert "images of the run within" in exported.sentence()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]


@pytest.mark.parametrize("is_masked", [False, True])
def test_a_density_detector_is_exported_for_batches_of_any_size(
    is_masked: bool, photos: Path, tiny_bank: RunConfig, tmp_path: Path
) -> None:
    hidden_HW = np.zeros((32, 32), np.uint8)
    hidden_HW[:, :8] = 255
    Image.fromarray(hidden_HW).save(tmp_path / "mask.png")
    detector = {**tiny_bank.detector.model_dump(include={"image_size_px", "backbone"}), "name": "density"}
    settings = {"detector": detector, "members": {"count": 2}, "purify": {"filter": "none"}}
    config = parse({**settings, "data": {"ignore_mask": str(tmp_path / "mask.png") if is_masked else None}})
    run, images = tmp_path / "run", _images(photos)
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=run, executor="serial")
    llb_ray.export(run, "torch-export", out=tmp_path / "model.pt2")
    program, threshold = torch.export.load(tmp_path / "model.pt2").module(), torch.zeros(1)
    expected = llb_ray.Detector.load(run).predict(list(images))
    for size in (2, len(images), 20):  # more than are judged at once
        score_B, _, _ = program(torch.from_numpy(np.resize(images, (size, *images.shape[1:]))), threshold)
        assert score_B.numpy()[:6] == pytest.approx(expected.score_N[:size], rel=1e-2)
    if not why_unavailable("onnxruntime"):
        llb_ray.export(run, "onnx", out=tmp_path / "model.onnx")  # which is compared image by image


def test_openvino_reports_to_nobody(finished_bank: Path, tmp_path: Path) -> None:
    """Its telemetry forks a process that asks for an address, and without a network may wait for ever."""
    if reason := why_unavailable("openvino"):
        pytest.skip(reason)
    program = (
        "import sys, llb_ray\n"
        "llb_ray.export(sys.argv[1], 'openvino', out=sys.argv[2])\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
    )
    command = [sys.executable, "-c", program, str(finished_bank), str(tmp_path / "model.xml")]
    subprocess.run(command, check=True, timeout=300)


def test_openvino_that_is_missing_says_how_to_install_it(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llb_ray.exporting.runtimes.find_spec", lambda package: None)
    with pytest.raises(ResourceError, match="not installed .*openvino.*pip install"):
        llb_ray.export(finished, "openvino", out=tmp_path / "model.xml")


@pytest.mark.parametrize(("kind", "suffix"), [("torch-export", ".pt2"), ("openvino", ".xml")])
def test_another_name_and_a_taken_one_are_refused(kind: str, suffix: str, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"has to end in {suffix}"):
        llb_ray.export(finished, kind, out=tmp_path / "model.onnx")  # type: ignore[arg-type]
    (tmp_path / f"model{suffix}").touch()
    with pytest.raises(ConfigError, match="already exists"):
        llb_ray.export(finished, kind, out=tmp_path / f"model{suffix}")  # type: ignore[arg-type]


def test_a_program_that_says_something_else_is_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "TOLERANCE", -1.0)
    with pytest.raises(MemberError, match="differ by .* from torch's"):
        llb_ray.export(finished, "torch-export", out=tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


_FAILING = [  # what raises while a model is written or tried, and in which format
    ("onnx", ".onnx", "llb_ray.exporting.onnx._by_runtime"),
    ("onnx", ".onnx", "torch.onnx.export"),
    ("torch-export", ".pt2", "torch.export.load"),
    ("openvino", ".xml", "llb_ray.exporting.model_formats.load_openvino"),
]


@pytest.mark.parametrize(("kind", "suffix", "failing"), _FAILING)
def test_an_exporter_that_fails_leaves_a_sentence_and_no_file(
    kind: str, suffix: str, failing: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise RuntimeError("no such operator\nand a page about it")

    if kind == "openvino" and (reason := why_unavailable("openvino")):
        pytest.skip(reason)
    monkeypatch.setattr(failing, fail)
    with pytest.raises(MemberError, match=r"cannot be exported \(RuntimeError: no such operator\); nothing was"):
        llb_ray.export(finished, kind, out=tmp_path / f"model{suffix}")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
