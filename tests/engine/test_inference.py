"""`llb_ray.Detector`: the same verdict on an image however it is handed over, and the one that the run gives it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import llb_ray
from llb_ray.data.tables import read_table
from llb_ray.engine.inference.trained_detector import TrainedDetector
from llb_ray.errors import ArtifactError, DataError


@pytest.fixture(scope="module")
def detector(finished: Path) -> TrainedDetector:
    return llb_ray.Detector.load(finished)


@pytest.fixture(scope="module")
def paths(photos: Path) -> list[Path]:
    return sorted((photos / "test").rglob("*.png"))


def test_the_verdict_is_the_runs(detector: TrainedDetector, paths: list[Path], finished: Path, photos: Path) -> None:
    said = read_table(finished / "image_scores.arrow")
    score = dict(zip(said["path"].to_pylist(), said["score"].to_pylist(), strict=True))
    verdicts = detector.predict(paths)
    expected = [score[path.relative_to(photos).as_posix()] for path in paths]
    assert verdicts.score_N.tolist() == pytest.approx(expected, rel=1e-4)
    assert len(verdicts) == len(verdicts.map_NHW) == len(paths)


def test_decisions_and_quantiles_follow_from_the_held_out_scores(detector: TrainedDetector, paths: list[Path]) -> None:
    verdicts, known = detector.predict(paths), detector.calibration
    assert set(verdicts.decisions) == {"normal", "anomalous"}
    for score, decision, share in zip(verdicts.score_N, verdicts.decisions, verdicts.quantile_N, strict=True):
        assert (decision == "anomalous") == (score > known.threshold)
        assert share == pytest.approx(np.mean(known.held_out_N < score))


def test_paths_pictures_and_arrays_are_one(detector: TrainedDetector, paths: list[Path]) -> None:
    few = paths[:3]
    pictures = [Image.open(path) for path in few]
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in few]
    expected = detector.predict(few).score_N
    for same in (map(str, few), pictures, iter(arrays)):
        assert np.array_equal(detector.predict(same).score_N, expected)


def test_a_grey_array_is_a_grey_photograph(detector: TrainedDetector) -> None:
    grey_HW = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    pair = detector.predict([grey_HW, np.stack([grey_HW] * 3, axis=2)])
    assert pair.score_N[0] == pair.score_N[1]


FORMS: dict[str, Callable[[Path], Any]] = {
    "str": str,
    "path": Path,
    "os.PathLike": lambda path: next(entry for entry in os.scandir(path.parent) if entry.name == path.name),
    "picture": Image.open,
    "array_HW3": lambda path: np.asarray(Image.open(path).convert("RGB")),
    "array_1HW3": lambda path: np.asarray(Image.open(path).convert("RGB"))[None],
    "array of paths": lambda path: np.array([str(path)]),
    "list": lambda path: [path],
    "generator": lambda path: (one for one in [path]),
}


@pytest.mark.parametrize("form", FORMS)
def test_one_image_is_one_verdict_in_whatever_form(form: str, detector: TrainedDetector, paths: list[Path]) -> None:
    verdicts, expected = detector.predict(FORMS[form](paths[0])), detector.predict([paths[0]])
    assert (len(verdicts), verdicts.score_N.tolist()) == (1, expected.score_N.tolist())


def test_one_grey_array_is_one_verdict(detector: TrainedDetector) -> None:
    assert len(detector.predict(np.zeros((40, 50), np.uint8))) == 1


@pytest.mark.parametrize(
    ("image", "named"),
    [
        (b"bytes", "of type bytes"),
        (np.zeros((4, 5, 3)), r"ndarray, float64 \[4, 5, 3\]"),
        (np.zeros((4, 5, 4), np.uint8), r"uint8 \[4, 5, 4\]"),
        (np.zeros((3, 4, 5), np.uint8), r"uint8 \[3, 4, 5\]"),
        (np.zeros((4, 5), bool), r"bool \[4, 5\]"),
        (np.zeros(5, np.uint8), r"uint8 \[5\]"),
        (torch.zeros((4, 5, 3), dtype=torch.uint8), r"Tensor, torch.uint8 \[4, 5, 3\]"),
        (7, "of type int"),
        (None, "of type NoneType"),
    ],
)
def test_a_single_thing_that_is_no_image_is_refused_as_one(
    image: object, named: str, detector: TrainedDetector
) -> None:
    with pytest.raises(DataError, match=f"{named}; give a path"):
        detector.predict(image)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8), "no/such.png", 3]
)
def test_what_is_no_image_is_refused(detector: TrainedDetector, image: object) -> None:
    with pytest.raises(DataError):
        detector.predict([image])  # type: ignore[list-item]


def test_nothing_to_predict_is_refused(detector: TrainedDetector) -> None:
    with pytest.raises(DataError, match="give at least one"):
        detector.predict([])


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no finished run here"):
        llb_ray.Detector.load(tmp_path)
