"""Models that resize images by themselves: Pillow's resizing, in each format, and from C++."""

import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

import llb_ray
from llb_ray.errors import ConfigError
from llb_ray.exporting.resizing import Resize
from llb_ray.exporting.runtimes import Answer, import_openvino, load_onnxruntime, load_openvino, why_unavailable

pytestmark = pytest.mark.filterwarnings("ignore")
EXAMPLE = Path(__file__).parents[2] / "examples" / "judge.cpp"
SIZES = [(32, 32), (70, 41), (300, 500), (9, 20)]  # of the detector, reduced, much reduced, enlarged
Pixels = npt.NDArray[np.uint8]


def _photographs(photos: Path) -> list[Pixels]:
    """Photographs of these sizes, height first."""
    paths = sorted((photos / "test").rglob("*.png"))
    return [
        np.array(Image.open(path).convert("RGB").resize((width, height)))
        for path, (height, width) in zip(paths, SIZES, strict=False)
    ]


@pytest.mark.parametrize("size", [*SIZES, (32, 57), (57, 32), (20, 90), (90, 20), (1, 1)])
def test_a_resized_image_is_pillows_within_a_level(size: tuple[int, int]) -> None:
    noise_HW3 = np.random.default_rng(0).uniform(0, 255, (*size, 3))
    # Between its own extremes no value overshoots, where it would matter which axis is resized first.
    image_HW3 = (0.5 * noise_HW3 + 64).astype(np.uint8)
    expected_HW3 = np.array(Image.fromarray(image_HW3).resize((40, 32), Image.Resampling.BICUBIC))
    (resized_HW3,) = Resize((32, 40))(torch.from_numpy(image_HW3[None])).numpy()
    assert np.abs(resized_HW3.astype(int) - expected_HW3).max() <= 1


def _skip_without(runtime: str) -> None:
    if reason := why_unavailable(runtime):
        pytest.skip(reason)


def _judge(kind: str, path: Path, image_HW3: Pixels) -> Answer:
    if kind == "torch-export":
        program = torch.export.load(path).module()
        score_B, _, map_BHW = program(torch.from_numpy(image_HW3[None]), torch.zeros(1))
        return Answer(score_B.numpy(), map_BHW.numpy())
    return {"onnx": load_onnxruntime, "openvino": load_openvino}[kind](str(path), 1)(image_HW3[None])


@pytest.mark.parametrize(("kind", "suffix"), [("onnx", ".onnx"), ("torch-export", ".pt2"), ("openvino", ".xml")])
def test_images_of_any_size_get_the_detectors_scores(
    kind: str, suffix: str, finished_bank: Path, photos: Path, tmp_path: Path
) -> None:
    _skip_without("openvino" if kind == "openvino" else "onnxruntime")
    path = tmp_path / f"model{suffix}"
    llb_ray.export(finished_bank, kind, out=path, any_size=True)  # type: ignore[arg-type]
    images = _photographs(photos)
    resized = [Resize((32, 32))(torch.from_numpy(image_HW3[None]))[0].numpy() for image_HW3 in images]
    expected = llb_ray.Detector.load(finished_bank).predict(resized)
    scale = np.abs(expected.map_NHW).max()
    for image_HW3, score, map_HW in zip(images, expected.score_N, expected.map_NHW, strict=True):
        answer = _judge(kind, path, image_HW3)
        assert abs(answer.score_B[0] - score) < 1e-3 * scale
        assert np.abs(answer.map_BHW[0] - map_HW).max() < 1e-3 * scale


def test_what_is_no_model_has_no_size(finished_bank: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--any-size has no effect with parquet"):
        llb_ray.export(finished_bank, "parquet", out=tmp_path / "set", any_size=True)


def test_the_program_in_c_plus_plus_gives_the_detectors_score(
    finished_bank: Path, photos: Path, tmp_path: Path
) -> None:
    _skip_without("openvino")  # its package has the C++ library
    (package,) = map(Path, import_openvino().__path__)
    libraries = [str(path) for path in (package / "libs").glob("libopenvino.so*")]
    options = [f"-I{package / 'include'}", *libraries, f"-Wl,-rpath,{package / 'libs'}", "-o", str(tmp_path / "judge")]
    subprocess.run(["g++", "-std=c++17", str(EXAMPLE), *options], check=True)
    llb_ray.export(finished_bank, "onnx", out=tmp_path / "model.onnx", any_size=True)
    detector = llb_ray.Detector.load(finished_bank)
    for image_HW3 in _photographs(photos):
        Image.fromarray(image_HW3).save(tmp_path / "photo.ppm")
        said = subprocess.run(["./judge", "model.onnx", "photo.ppm"], cwd=tmp_path, capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        verdict = detector.predict(image_HW3)
        score, decision, *_ = said.stdout.replace(",", "").split()
        assert float(score) == pytest.approx(verdict.score_N[0], rel=0.1)  # a level of 32 px is much to random weights
        assert decision == ("anomalous" if float(score) > detector.calibration.threshold else "normal")
