"""The scripts and the notebook of examples/ run, on a tiny data set."""

import runpy
import shutil
import sys
from pathlib import Path

import matplotlib
import nbformat
import pytest

import llb_ray

EXAMPLES = Path(__file__).parents[1] / "examples"
_TINY = ("detector.name=autoencoder", "detector.image_size_px=32", "detector.channels=4", "members.count=2")
_FEW_STEPS = ("detector.member_steps=12", "detector.final_steps=20", "purify.keep_ratio=0.75")
_QUICK = [*_TINY, *_FEW_STEPS, "threshold.folds=2"]
SETTINGS = [word for setting in _QUICK for word in ("--set", setting)]


def _example(name: str, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def test_every_example_is_listed_and_run() -> None:
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"| `{name}` |" in listed for name in files)
    assert all(f'"{name}"' in Path(__file__).read_text() for name in files)


@pytest.mark.usefixtures("one_thread")
def test_first_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _example("first_run.py", monkeypatch, "--out", tmp_path, "--data", photos, *SETTINGS)
    said = capsys.readouterr().out
    assert "36 images kept, 12 rejected" in said
    assert "24 images scored" in said
    assert llb_ray.status(tmp_path / "run").state == "finished"


def test_judge_arrays(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = sorted(photos.glob("test/good/*.png"))[:3]
    _example("judge_arrays.py", monkeypatch, run, *images, "--out", tmp_path / "maps")
    assert len(list((tmp_path / "maps").glob("*.png"))) == 3
    said = capsys.readouterr().out
    assert all(f"{path}: " in said for path in images)


def test_review(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _example("review.py", monkeypatch, run, "--out", tmp_path / "reviewed", "--keep", 2)
    said = capsys.readouterr().out
    assert "38 images kept, 10 rejected" in said
    assert "\nok " in said


def test_choose_threshold(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _example("choose_threshold.py", monkeypatch, run, photos / "test", "--rate", 0.05)
    lines = capsys.readouterr().out.splitlines()
    above = [int(line.rpartition(", ")[2].split()[0]) for line in lines[:3]]
    assert above == sorted(above, reverse=True), "a smaller rate has fewer images above its threshold"
    assert lines[3].startswith("the run's threshold is now")


@pytest.mark.usefixtures("one_thread")
def test_compare_filters(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _example("compare_filters.py", monkeypatch, "--out", tmp_path, "--data", photos, *SETTINGS)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [(name, rejected) for name, rejected, _ in rows] == [("none", "0"), ("llb", "12"), ("oracle", "12")]


@pytest.mark.usefixtures("one_thread")
def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in cells), "no output is committed"
    source = "\n".join(cell.source for cell in cells)
    quick = source.replace("settings = []", f"settings = {_QUICK}").replace("size_px = 224", "size_px = 48")
    assert quick.count("autoencoder") == quick.count("size_px = 48") == 1
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    exec(compile(quick, "tour.ipynb", "exec"), {})
    assert llb_ray.status(tmp_path / "runs" / "tour" / "reviewed").state == "finished"
