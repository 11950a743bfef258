"""`llb_ray.Detector`: the same verdict on an image however it is handed over, and the one that the run gives it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import llb_ray
from llb_ray.data.tables import read_table
from llb_ray.engine.inference import TrainedDetector
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
