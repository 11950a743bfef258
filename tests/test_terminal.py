"""Names on the terminal and in tables: whatever a file or a category is called, it is text there."""

import csv
import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
from click.testing import CliRunner, Result

from llb_ray.cli import main

ESCAPE = "\x1b[2J\x1b]0;owned\x07"
NAMES = [f"a{ESCAPE}.png", "a\nllb-ray: all is well.png", "a\rb.png", "[red].png", "\u202egnp.png"]


def _invoked(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def _harmless(result: Result) -> None:
    assert not isinstance(result.exception, Exception), result.output
    for text in (result.stdout, result.stderr):
        assert re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text) is None
    assert not any(line.startswith("llb-ray: all is well") for line in result.output.splitlines())


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_files_name_is_text_in_messages(name: str, photos: Path, tmp_path: Path) -> None:
    data = tmp_path / name.removesuffix(".png")
    shutil.copytree(photos / "train" / "good", data)
    (data / name).write_text("no image")
    (data / f"{name}.lnk").symlink_to(data)
    _harmless(_invoked("run", "--data", data, "--out", tmp_path / "run", "--set", "no.such=1"))
    _harmless(_invoked("run", "--data", data / name, "--out", tmp_path / "run"))
    _harmless(_invoked("init", data, "--out", tmp_path / "c.yaml"))
    _harmless(_invoked("manifest", "folder", data, "--out", tmp_path / "m.arrow"))
    _harmless(_invoked("manifest", "folder", data, "--out", tmp_path / "m.arrow", "--skip-bad"))
    _harmless(_invoked("status", data))
    _harmless(_invoked("audit", data))


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_category_is_text_in_tables(name: str, photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(photos, root / name)
    options = [
        "--set",
        "detector.name=autoencoder",
        "--set",
        "detector.image_size_px=32",
        "--set",
        "detector.member_steps=2",
    ]
    options += ["--set", "detector.final_steps=2", "--filters", "none", "--executor", "serial"]
    scanned = _invoked("scan", "--dataset", "mvtec", "--root", root, "--out", tmp_path / "scan", *options)
    assert scanned.exit_code == 0, scanned.output
    _harmless(scanned)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_a_prediction_is_a_formula_and_its_table_is_a_list(
    start: str, finished: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    index = json.loads((finished / "run.json").read_text())
    image = next(Path(index["data_root"]).rglob("test/good/*.png"))
    shutil.copy(image, data / f"{start}1+1.png")
    (data / f"{start}bad.png").write_text("no image")
    told = _invoked("predict", finished, "--data", data, "--out", tmp_path / "one", "--overlays", "none")
    assert told.exit_code == 0, told.output
    _harmless(told)
    for table in (tmp_path / "one").glob("*.csv"):
        with table.open(newline="") as file:
            assert not any(cell.startswith(tuple("=+-@\t\r")) for row in csv.reader(file) for cell in row)
    shutil.copy(tmp_path / "one" / "scores.csv", data / "list.csv")
    assert parquet.read_table(tmp_path / "one" / "scores.parquet")["path"].to_pylist() == [f"{start}1+1.png"]
    listed = _invoked("predict", finished, "--data", data / "list.csv", "--out", tmp_path / "two")
    assert (listed.exit_code, "1 images scored" in listed.output) == (0, True)
