"""Prediction: a row per image with its decision, bad files quarantined, nothing held that grows with their number."""

import csv
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import llb_ray
from llb_ray.cli import main
from llb_ray.data.decoding import Size
from llb_ray.data.tables import read_table
from llb_ray.engine.inference.predict import Prediction
from llb_ray.errors import DataError


def _llb(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An anomaly, and a file that is no image."""
    folder = tmp_path_factory.mktemp("noise")
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "noise.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def _rows(out: Path) -> list[dict[str, str]]:
    with (out / "scores.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_list_is_scored_like_a_folder_and_predictions_are_lists(finished: Path, photos: Path, tmp_path: Path) -> None:
    folder = llb_ray.predict(finished, photos / "test", out=tmp_path / "folder")
    rows = _rows(tmp_path / "folder")
    listed = photos / "test" / "list.csv"
    shutil.copy(tmp_path / "folder" / "scores.csv", listed)
    try:
        again = llb_ray.predict(finished, listed, out=tmp_path / "list", overlays="none")
    finally:
        listed.unlink()
    assert (again.num_scored, again.num_anomalous) == (folder.num_scored, folder.num_anomalous)
    assert _rows(tmp_path / "list") == rows


def test_every_row_has_its_decision_and_quantile(finished: Path, photos: Path, noise: Path, tmp_path: Path) -> None:
    prediction = llb_ray.predict(finished, photos / "test", out=tmp_path)
    table = parquet.read_table(tmp_path / "scores.parquet")
    assert table.column_names == [
        *("path", "image_id", "score", "decision", "quantile"),
        *("num_regions", "width", "height"),
    ]
    above = [score > prediction.threshold for score in table["score"].to_pylist()]
    assert table["decision"].to_pylist() == ["anomalous" if one else "normal" for one in above]
    assert prediction.num_anomalous == sum(above)
    assert all(0 <= share <= 1 for share in table["quantile"].to_pylist())


def test_what_is_put_aside_says_why_and_batches_may_be_empty(
    finished: Path, photos: Path, noise: Path, tmp_path: Path
) -> None:
    good = sorted((photos / "test" / "good").glob("*.png"))[0]
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join([*["gone.png"] * 40, str(good), str(noise / "broken.png")]))
    done: list[tuple[int, int]] = []
    prediction = llb_ray.predict(
        finished, listed, out=tmp_path / "out", progress=lambda now, total: done.append((now, total))
    )
    assert (prediction.num_scored, prediction.num_quarantined) == (1, 41)
    assert done == [(32, 42), (42, 42)]
    lines = (tmp_path / "out" / "quarantine.csv").read_text().splitlines()
    assert lines[1].startswith('"gone.png","cannot be read (No such file')
    assert lines[-1].startswith(f'"{noise}/broken.png","')
    assert (tmp_path / "out" / "overlays" / f"{str(good)[1:]}.png").is_file()


def test_a_path_outside_the_lists_folder_is_drawn_inside_out(finished: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copy(sorted((photos / "test" / "good").glob("*.png"))[0], tmp_path / "a.png")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "l.txt").write_text("../a.png\n")
    llb_ray.predict(finished, tmp_path / "lists" / "l.txt", out=tmp_path / "out")
    assert {path.suffix for path in (tmp_path / "out" / "overlays").iterdir()} == {".png"}
    assert not list(tmp_path.glob("*.png.png"))


@pytest.mark.parametrize(
    ("overlays", "drawn"),
    [("all", {"good.png.png", "noise.png.png"}), ("anomalous", {"noise.png.png"}), ("none", set())],
)
def test_overlays_are_of_whom_they_are_asked_for(
    overlays: str, drawn: set[str], finished: Path, photos: Path, noise: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    table = read_table(finished / "image_scores.arrow").sort_by("score")
    shutil.copy(photos / table["path"][0].as_py(), data / "good.png")
    shutil.copy(noise / "noise.png", data)
    result = _llb("predict", finished, "--data", data, "--out", tmp_path / "out", "--overlays", overlays)
    assert (result.exit_code, "1 anomalous" in result.output) == (0, True), result.output
    assert {path.name for path in (tmp_path / "out" / "overlays").glob("*")} == drawn
    assert (tmp_path / "out" / "colour_scale.png").exists() == bool(drawn)


def test_maps_are_kept_on_request_and_not_left_from_before(finished: Path, noise: Path, tmp_path: Path) -> None:
    assert _llb("predict", finished, "--data", noise, "--out", tmp_path, "--maps").exit_code == 0
    maps = read_table(tmp_path / "maps" / "part-00000.arrow")
    assert maps.column_names == ["path", "image_id", "map"]
    assert maps["map"].combine_chunks().to_numpy_ndarray().shape == (1, 16, 16)
    assert _llb("predict", finished, "--data", noise, "--out", tmp_path).exit_code == 0
    assert not (tmp_path / "maps").exists()


def test_an_anomaly_may_be_an_exit_status(finished: Path, photos: Path, noise: Path, tmp_path: Path) -> None:
    found = _llb("predict", finished, "--data", noise, "--out", tmp_path / "a", "--fail-on-anomaly")
    assert (found.exit_code, "1 anomalous" in found.output) == (3, True)
    table = read_table(finished / "image_scores.arrow").sort_by("score")
    (tmp_path / "l.txt").write_text(str(photos / table["path"][0].as_py()))
    fine = _llb("predict", finished, "--data", tmp_path / "l.txt", "--out", tmp_path / "b", "--fail-on-anomaly")
    assert (fine.exit_code, "0 anomalous" in fine.output) == (0, True)


@pytest.mark.parametrize(
    ("names", "status"),
    [(["good"], 0), (["good", "broken"], 4), (["good", "gone.png"], 4), (["good", "noise", "broken"], 3)],
)
def test_what_could_not_be_judged_fails_a_check_with_a_status_of_its_own(
    names: list[str], status: int, finished: Path, photos: Path, noise: Path, tmp_path: Path
) -> None:
    table = read_table(finished / "image_scores.arrow").sort_by("score")
    known = {"good": photos / table["path"][0].as_py(), "noise": noise / "noise.png", "broken": noise / "broken.png"}
    (tmp_path / "l.txt").write_text("".join(f"{known.get(name, name)}\n" for name in names))
    arguments = ("predict", finished, "--data", tmp_path / "l.txt", "--overlays", "none", "--out", tmp_path / "out")
    assert _llb(*arguments, "--fail-on-anomaly").exit_code == status
    assert _llb(*arguments).exit_code == 0


@pytest.mark.parametrize("name", ["photo.png", "PHOTO.JPG", "no_suffix"])
def test_one_image_is_data_too(name: str, finished: Path, photos: Path, tmp_path: Path) -> None:
    source = next(photos.glob("test/good/*.png"))
    Image.open(source).save(tmp_path / name, "PNG")
    prediction = llb_ray.predict(finished, tmp_path / name, out=tmp_path / "out")
    assert (prediction.num_scored, [row["path"] for row in _rows(tmp_path / "out")]) == (1, [name])
    assert (tmp_path / "out" / "overlays" / f"{name}.png").is_file()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("broken.png", r"broken.png: none of the 1 files found can be judged \(first, broken.png: "),
        ("gone.png", r"gone.png: no such file or folder; give a folder"),
        ("gone.txt", r"gone.txt: no such file or folder; give a folder"),
    ],
)
def test_what_is_no_image_and_no_list_is_refused(
    name: str, reason: str, finished: Path, noise: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=reason):
        llb_ray.predict(finished, noise / name, out=tmp_path / "out")


def test_a_list_of_which_nothing_exists_is_told_with_its_first_reason(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("path\na.png\nb.png\n")
    with pytest.raises(DataError, match=r"none of the 2 files .* \(first, a.png: cannot be read \(No such file"):
        llb_ray.predict(finished, tmp_path / "l.csv", out=tmp_path / "out")


def test_a_prediction_of_nothing_leaves_no_table(finished: Path, noise: Path, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text(f"{noise / 'broken.png'}\n")
    with pytest.raises(DataError, match="none of the 1 files found can be judged"):
        llb_ray.predict(finished, tmp_path / "l.txt", out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("way", ["images", "pattern", "standard input", "folder and --data"])
def test_images_are_named_in_many_ways(
    way: str, finished: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(photos / "test" / "good", tmp_path / "new")
    monkeypatch.chdir(tmp_path)
    names = sorted(f"new/{path.name}" for path in (tmp_path / "new").iterdir())
    arguments = {
        "images": names,
        "pattern": ["new/*.png"],
        "standard input": ["-"],
        "folder and --data": [*names[:2], "--data", "new"],
    }[way]
    words = [str(finished), *arguments, "--out", "out", "--overlays", "none"]
    result = CliRunner().invoke(main, ["predict", *words], input="\n".join(names))
    assert result.exit_code == 0, result.output
    expected = [*names[:2], *names] if way == "folder and --data" else names
    assert [row["path"] for row in _rows(tmp_path / "out")] == expected


def test_no_image_named_is_misuse(finished: Path, tmp_path: Path) -> None:
    result = _llb("predict", finished, "--out", tmp_path / "out")
    assert (result.exit_code, "Missing IMAGES" in result.output) == (2, True)


def _tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError, MemoryError])
@pytest.mark.parametrize("stopped_at", [0, 1])
def test_an_interrupted_prediction_goes_on_with_the_next_image(
    error: type[BaseException], stopped_at: int, finished: Path, photos: Path, noise: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(photos / "train", tmp_path / "data"))
    shutil.copy(noise / "broken.png", data / "good")

    def predict(out: str, progress: Callable[[int, int], None]) -> Prediction:
        return llb_ray.predict(finished, data, out=tmp_path / out, maps=True, overlays="anomalous", progress=progress)

    calls: list[int] = []

    def stop(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) > stopped_at:
            raise error

    judged: list[int] = []
    told = predict("whole", lambda done, total: judged.append(done))
    with pytest.raises(error):
        predict("hurt", stop)
    left = {path.name for path in (tmp_path / "hurt").iterdir()}
    assert left <= {".unfinished", "maps", "overlays", "colour_scale.png"}
    assert predict("hurt", lambda done, total: None) == replace(told, out=tmp_path / "hurt")
    assert _tree(tmp_path / "hurt") == _tree(tmp_path / "whole")


def test_what_is_recorded_is_not_judged_again_unless_it_changed(
    finished: Path, photos: Path, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llb_ray.engine.inference.trained_detector import TrainedDetector

    data = Path(shutil.copytree(photos / "train", tmp_path / "data"))
    judge, batches = TrainedDetector.judge, list[int]()

    def counted(self: TrainedDetector, image_NHWC: np.ndarray, sizes: Sequence[Size], names: Sequence[str]) -> object:
        batches.append(len(image_NHWC))
        return judge(self, image_NHWC, sizes, names)

    def stopped(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainedDetector, "judge", counted)
    for change, again in ((False, [16]), (True, [32, 16])):
        with pytest.raises(KeyboardInterrupt):
            llb_ray.predict(finished, data, out=tmp_path / "out", overlays="none", progress=stopped)
        batches.clear()
        if change:
            shutil.copy(noise / "noise.png", sorted(data.rglob("*.png"))[0])
        llb_ray.predict(finished, data, out=tmp_path / "out", overlays="none")
        assert batches == again
    with pytest.raises(KeyboardInterrupt):
        llb_ray.predict(finished, data, out=tmp_path / "out", overlays="none", progress=stopped)
    for record in (tmp_path / "out" / ".unfinished").glob("0*"):
        record.write_bytes(bytes(record.stat().st_size))  # what a power cut leaves
    batches.clear()
    llb_ray.predict(finished, data, out=tmp_path / "out", overlays="none")
    assert batches == [32, 16]
