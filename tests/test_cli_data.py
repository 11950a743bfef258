"""The commands that list data sets and make training sets, and a run of what they wrote."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import llb_ray
from llb_ray import RunConfig
from llb_ray.cli import main
from llb_ray.config import DatasetOptions, with_overrides
from llb_ray.data.adapters.base import Adapter
from llb_ray.data.listing import Listing
from llb_ray.extensions import DATASETS
from tests.support import final_files, photo


def _llb(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def config(tiny: RunConfig, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(with_overrides(tiny, ["data.group_pattern=null"]).to_yaml())
    return path


@pytest.fixture
def listed(photos: Path, tmp_path: Path) -> Path:
    """The manifest file of the synthetic tree."""
    path = tmp_path / "weave.arrow"
    assert _llb("manifest", "mvtec", photos, "--group-pattern", r"(obj\d+)", "--out", path).exit_code == 0
    return path


def _run(config: Path, out: Path, *more: str | Path) -> Result:
    return _llb("run", "--config", config, "--out", out, "--executor", "serial", *more)


def test_manifest_says_what_it_listed(photos: Path, tmp_path: Path) -> None:
    result = _llb("manifest", "mvtec", photos.parent, "--out", tmp_path / "m.arrow")
    assert result.exit_code == 0, result.output
    said = dict(re.findall(r"^(\w[\w, ]*?) {2,}(\S+) *$", result.output, re.MULTILINE))
    assert (said["images"], said["categories"], said["left out"]) == ("72", "1", "0")
    assert (said["train, normal"], said["train, anomalous"], said["objects"]) == ("36", "12", "72")
    assert said["manifest file"] == str(tmp_path / "m.arrow")
    assert Listing.load(tmp_path / "m.arrow").about["kind"] == "mvtec"


def test_problems_are_one_sentence_and_a_report_and_may_be_skipped(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"path,label\n{photos}/a.png,0\n../b.png,0\ngone.png,3\nthere.png,0\n")
    photo(tmp_path / "there.png")
    out = tmp_path / "sets" / "m.arrow"
    words = ["manifest", "table", tmp_path, "--table", tmp_path / "t.csv", "--out", out]
    result = _llb(*words)
    report = tmp_path / "sets" / "m.problems.csv"
    assert result.exit_code == 1
    assert f"3 problems with the listed images (t.csv 1 {photos}/a.png: is an absolute path" in result.stderr
    assert f"; {report} has them all; fix that" in result.stderr
    assert "\n" not in result.stderr.strip()
    with report.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["number"] for row in rows] == ["1", "2", "3"]
    assert rows[2] | {"what": ""} == {"source": "t.csv", "number": "3", "path": "gone.png", "what": ""}
    assert not out.exists()
    skipped = _llb(*words, "--skip-bad")
    assert skipped.exit_code == 0, skipped.output
    assert f"what was left out  {report}" in skipped.output
    assert Listing.load(out).table["path"].to_pylist() == ["there.png"]
    (tmp_path / "t.csv").write_text("path\nthere.png\n")
    assert _llb(*words).exit_code == 0
    assert not report.exists(), "a report of what is mended would mislead"


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["nonsense", "ROOT"], 2, "'nonsense' is not one of 'folder'"),
        (["mvtec", "ROOT", "--views", "single"], 1, "views has no effect with kind mvtec; it is for real_iad"),
        (["mvtec", "ROOT", "--category", "wave"], 1, "no category 'wave' is there; did you mean 'weave'?"),
        (["real_iad", "ROOT", "--alpha", "2"], 1, "llb-ray manifest: alpha = 2.0: input should be less than 1"),
        (["mvtec", "ROOT/none"], 1, "no such folder"),
    ],
)
def test_what_cannot_be_listed_is_refused(
    words: list[str], code: int, sentence: str, photos: Path, tmp_path: Path
) -> None:
    said = [word.replace("ROOT", str(photos)) for word in words]
    result = _llb("manifest", *said, "--out", tmp_path / "m.arrow")
    assert (result.exit_code, sentence in result.stderr) == (code, True), result.stderr


def test_every_layout_has_an_adapter_whose_options_there_are() -> None:
    for kind in DATASETS.names():
        adapter = DATASETS.load(kind, Adapter)
        assert adapter.options | adapter.needs.keys() <= set(DatasetOptions.model_fields)
        assert adapter.needs.keys() <= adapter.options, "what is needed has a meaning"


def test_a_run_of_a_manifest_file_is_the_run_of_its_folder(
    config: Path, listed: Path, finished: Path, tmp_path: Path
) -> None:
    result = _run(config, tmp_path / "run", "--manifest", listed)
    assert result.exit_code == 0, result.output
    own = {"config.yaml", "config.json", "run.json"}  # run.json has the digest of config.yaml
    found, expected = final_files(tmp_path / "run"), final_files(finished)
    assert {name: digest for name, digest in found.items() if name not in own} == {
        name: digest for name, digest in expected.items() if name not in own
    }
    indices = [json.loads((run / "run.json").read_text()) for run in (tmp_path / "run", finished)]
    assert indices[0]["artifacts"] == indices[1]["artifacts"]
    assert _llb("audit", tmp_path / "run").exit_code == 0


def test_images_that_went_missing_are_quarantined(config: Path, photos: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(photos, tmp_path / "weave"))
    assert _llb("manifest", "mvtec", root, "--out", tmp_path / "m.arrow").exit_code == 0
    gone = sorted((root / "train" / "good").glob("*.png"))[0]
    gone.unlink()
    result = _run(config, tmp_path / "run", "--manifest", tmp_path / "m.arrow")
    assert result.exit_code == 0, result.output
    assert f"quarantined train/good/{gone.name}: cannot be read (No such file or directory)" in result.output


def test_images_may_have_moved(config: Path, listed: Path, photos: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(photos, tmp_path / "moved"))
    sets = ("--manifest", listed, "--root", moved, "--objects", "12", "--out", tmp_path / "sets")
    assert _llb("contaminate", *sets).exit_code == 0
    found = tmp_path / "sets" / "alpha0.1-seed0.arrow"
    assert Listing.load(found).root == moved
    moved.rename(tmp_path / "again")
    refused = _run(config, tmp_path / "run", "--manifest", found)
    assert f"{moved}: no such folder, and the images are listed below it" in refused.stderr
    words = ("--manifest", found, "--root", tmp_path / "again")
    assert _run(config, tmp_path / "run", *words).exit_code == 0


def test_a_run_has_one_source_of_images(config: Path, listed: Path, photos: Path, tmp_path: Path) -> None:
    for more in ((), ("--manifest", listed, "--data", photos), ("--data", photos, "--category", "weave")):
        assert _run(config, tmp_path / "run", *more).exit_code == 2


@pytest.mark.parametrize("name", ["category", "group_pattern"])
def test_settings_that_a_manifest_file_decides_are_refused(
    name: str, config: Path, listed: Path, tmp_path: Path
) -> None:
    result = _run(config, tmp_path / "run", "--manifest", listed, "--set", f"data.{name}=(x)")
    assert f"data.{name} has no effect with a manifest file" in result.stderr


def test_some_of_several_categories_are_named(config: Path, photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("weave", "gear"):
        shutil.copytree(photos, root / name)
    assert _llb("manifest", "mvtec", root, "--out", tmp_path / "m.arrow").exit_code == 0
    words = ("--manifest", tmp_path / "m.arrow")
    assert "did you mean 'gear'?" in _run(config, tmp_path / "run", *words, "--category", "gaer").stderr
    assert _run(config, tmp_path / "run", *words, "--category", "gear").exit_code == 0


def test_a_manifest_file_is_contaminated_and_run(config: Path, listed: Path, tmp_path: Path) -> None:
    words = ["--alpha", "0", "--alpha", "0.25", "--seed", "1", "--objects", "12", "--out", tmp_path / "sets"]
    result = _llb("contaminate", "--manifest", listed, *words)
    assert result.exit_code == 0, result.output
    assert sorted(os.listdir(tmp_path / "sets")) == ["alpha0-seed1.arrow", "alpha0.25-seed1.arrow"]
    assert re.search(r"alpha0.25-seed1.arrow +24 +6 ", result.output)
    assert _run(config, tmp_path / "run", "--manifest", tmp_path / "sets" / "alpha0.25-seed1.arrow").exit_code == 0


def test_contaminate_refuses_what_is_not_there_and_misuse(listed: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "sets")
    too_much = ("--alpha", "0.9", "--objects", "12")
    assert "largest alpha possible is 0.5" in _llb("contaminate", "--manifest", listed, *too_much, *out).stderr
    assert "has no column 'pattern'" in _llb("contaminate", "--manifest", listed, "--tail", "pattern=3:1", *out).stderr
    assert "not a long tail" in _llb("contaminate", "--manifest", listed, "--tail", "3", *out).stderr
    assert _llb("contaminate", *out).exit_code == 2
    (tmp_path / "r.yaml").write_text("dataset: {kind: mvtec, root: weave}\n")
    twice = _llb("contaminate", "--recipe", tmp_path / "r.yaml", "--manifest", listed, *out)
    assert "give the labelled images once" in twice.stderr
    assert not (tmp_path / "sets").exists()


def test_what_is_typed_goes_before_the_recipe(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("dataset: {kind: mvtec, root: weave}\nalphas: [0.5]\nnum_objects: 8\n")
    words = ["--recipe", tmp_path / "r.yaml", "--root", photos.parent, "--alpha", "0.25", "--out", tmp_path / "sets"]
    assert _llb("contaminate", *words).exit_code == 0
    assert os.listdir(tmp_path / "sets") == ["alpha0.25-seed0.arrow"]
    recipe = llb_ray.Listing.load(tmp_path / "sets" / "alpha0.25-seed0.arrow").about["recipe"]
    assert (recipe["num_objects"], recipe["alpha"]) == (8, 0.25)
