"""The purified set in other tools' layouts: what was kept and nothing else, whole paths, and no name lost."""

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from click.testing import CliRunner

import llb_ray
from llb_ray import RunConfig, api
from llb_ray.cli import main
from llb_ray.data.decoding import content_id
from llb_ray.data.tables import read_table
from llb_ray.errors import DataError
from tests.support import artifact_of, republish, rewrite, set_column

LAYOUTS = ["anomalib-csv", "mvtec-tree", "real-iad-json", "parquet"]


def _kept(run: Path) -> set[str]:
    rows = read_table(run / "purified" / "part-0.arrow").to_pylist()
    return {row["image_id"] for row in rows if row["decision"] == "kept"}


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_training_images_are_the_kept_ones(layout: str, copy: bool, finished: Path, tmp_path: Path) -> None:
    exported = llb_ray.export(finished, layout, out=tmp_path / "set", copy=copy)  # type: ignore[arg-type]
    train = list((tmp_path / "set").rglob("train/good/*"))
    assert {content_id(path) for path in train} == _kept(finished)
    assert "36 kept images to train on, 24 labelled to test" in exported.sentence()
    assert all((path.stat().st_nlink > 1) != copy and not path.is_symlink() for path in train)


def test_a_tree_is_read_back_with_its_labels_and_masks(
    finished: Path, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    llb_ray.export(finished, "mvtec-tree", out=tmp_path / "weave")
    again, before = (llb_ray.read_folder(root, tiny).split("test") for root in (tmp_path / "weave", photos))
    columns = ["image_id", "label", "defect_type"]
    assert again.select(columns).equals(before.select(columns))
    assert again["mask_path"].null_count == before["mask_path"].null_count < 24


def test_anomalibs_table_names_files_that_are_there(finished: Path, tmp_path: Path) -> None:
    llb_ray.export(finished, "anomalib-csv", out=tmp_path)
    with (tmp_path / "dataset.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["image_path"] for row in rows} | {row["mask_path"] for row in rows if row["mask_path"]} == _files(
        tmp_path
    ) - {"dataset.csv"}
    assert {row["label_index"] for row in rows if row["split"] == "train"} == {"0"}
    assert {row["label_index"] for row in rows if row["split"] == "test"} == {"0", "1"}


def test_the_json_is_as_real_iads(finished: Path, tmp_path: Path) -> None:
    llb_ray.export(finished, "real-iad-json", out=tmp_path)
    said = json.loads((tmp_path / "weave.json").read_text())
    assert said["meta"] == {"prefix": "weave/", "normal_class": "OK", "pre_transform": False}
    assert (len(said["train"]), len(said["test"])) == (36, 24)
    for entry in [*said["train"], *said["test"]]:
        assert (tmp_path / said["meta"]["prefix"] / entry["image_path"]).is_file()
        assert (entry["mask_path"] is None) == (entry["anomaly_class"] == "OK")
        assert entry["category"] == "weave"


def test_the_parquet_table_is_an_image_folders(finished: Path, tmp_path: Path) -> None:
    llb_ray.export(finished, "parquet", out=tmp_path)
    table = parquet.read_table(tmp_path / "metadata.parquet")
    assert table.column_names[:3] == ["file_name", "image_id", "path"]
    for row in table.to_pylist():
        assert content_id(tmp_path / row["file_name"]) == row["image_id"]


@pytest.fixture(scope="module")
def colliding(photos: Path, tiny: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images that all have one base name, but for case and ending."""
    root = tmp_path_factory.mktemp("colliding")
    data = root / "photos"
    for number, image in enumerate(sorted((photos / "train" / "good").glob("*.png"))[:20]):
        (data / str(number)).mkdir(parents=True)
        shutil.copy(image, data / str(number) / ("IMAGE.PNG" if number % 2 else "image.jpg"))
    config = tiny.model_copy(update={"data": RunConfig().data})
    llb_ray.run(config, llb_ray.read_folder(data, config), out=root / "run", executor="serial")
    return root / "run"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_image_takes_anothers_name(layout: str, colliding: Path, tmp_path: Path) -> None:
    llb_ray.export(colliding, layout, out=tmp_path / "set")  # type: ignore[arg-type]
    train = list((tmp_path / "set").rglob("train/good/*"))
    assert {content_id(path) for path in train} == _kept(colliding)
    assert len({path.stem.lower() for path in train}) == len(train) == 15


def test_what_cannot_be_is_one_sentence(
    finished: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(DataError, match="holds files already"):
        llb_ray.export(finished, "mvtec-tree", out=tmp_path / "full")
    with pytest.raises(DataError, match="the image is gone; name its new place with --data"):
        llb_ray.export(finished, "mvtec-tree", out=tmp_path / "a", data=tmp_path)
    moved = Path(shutil.copytree(photos, tmp_path / "moved"))
    assert llb_ray.export(finished, "mvtec-tree", out=tmp_path / "b", data=moved)

    def refused(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    result = CliRunner().invoke(main, ["export", str(finished), "--format", "mvtec-tree", "--out", str(tmp_path / "c")])
    assert (result.exit_code, "Invalid cross-device link); take --copy" in result.stderr) == (1, True)


HOSTILE = {  # a defect type or category, as a table's cell has it -> nothing of it may lead anywhere
    "above": "../../../mine",
    "absolute": "/tmp/mine",
    "a step": "a/../../mine",
    "nothing but dots": "..",
    "the normal ones' name": "good",
    "Real-IAD's name for them": "OK",
    "no UTF-8": "caf\\xe9",
    "a line end": "a\nb",
    "too long": "x" * 400,
}


@pytest.fixture
def renamed(finished: Path, tmp_path: Path) -> Callable[[str, str], Path]:
    """A copy of a finished run in which all defects, or the category, are called something else, sealed."""

    def rename(column: str, name: str) -> Path:
        run = Path(shutil.copytree(finished, tmp_path / "run"))
        if column == "category":
            for role, file in (("images", "images.arrow"), ("purified", "purified.arrow")):
                rewrite(artifact_of(run, role), file, lambda table: set_column(table, column, [name] * table.num_rows))
            shutil.copy(artifact_of(run, "purified") / "purified.arrow", run / "purified" / "part-0.arrow")
            republish(run, "purified/part-0.arrow")
        else:
            rewrite(artifact_of(run, "labels"), "labels.arrow", lambda table: _defects(table, name))
        return run

    return rename


def _defects(table: pa.Table, name: str) -> pa.Table:
    return set_column(table, "defect_type", [name if label else None for label in table["label"].to_pylist()])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("column", ["defect_type", "category"])
def test_no_name_leads_out_of_the_set_or_makes_a_defect_normal(
    column: str, name: str, layout: str, renamed: Callable[[str, str], Path], tmp_path: Path
) -> None:
    run = renamed(column, name)
    (tmp_path / "mine").mkdir()
    before = _files(tmp_path)
    exported = llb_ray.export(run, layout, out=tmp_path / "a" / "set", copy=True)  # type: ignore[arg-type]
    assert all(path.startswith("a/set/") for path in _files(tmp_path) - before)
    labels = read_table(artifact_of(run, "labels") / "labels.arrow").to_pylist()
    anomalous = {row["image_id"] for row in labels if row["label"] == 1 and row["split"] == "test"}
    found = {content_id(path) for path in (tmp_path / "a").rglob("test/*/*") if path.parent.name != "good"}
    assert found == anomalous
    if layout == "real-iad-json":
        entries = json.loads(exported.path.read_text())["test"]
        assert sum(entry["anomaly_class"] != "OK" for entry in entries) == len(anomalous)


def test_two_kinds_of_defects_stay_two(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    names = ["a/b", "a_b", "a\\\\b"]

    def change(table: pa.Table) -> pa.Table:
        kinds = [names[row % 3] if label else None for row, label in enumerate(table["label"].to_pylist())]
        return set_column(table, "defect_type", kinds)

    rewrite(artifact_of(run, "labels"), "labels.arrow", change)
    llb_ray.export(run, "mvtec-tree", out=tmp_path / "set")
    assert len([path for path in (tmp_path / "set" / "test").iterdir() if path.name != "good"]) == 3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_name_that_is_no_text_is_exported(
    layout: str, photos: Path, tiny: RunConfig, tmp_path: Path, finished: Path
) -> None:
    data = tmp_path / "photos"
    for number, image in enumerate(sorted((photos / "train" / "good").glob("*.png"))[:12]):
        data.mkdir(exist_ok=True)
        shutil.copy(image, os.fsencode(data) + b"/=caf\xe9\x1b[2J\n-%d.png" % number)
    config = tiny.model_copy(update={"data": RunConfig().data})
    llb_ray.run(config, llb_ray.read_folder(data, config), out=tmp_path / "run", executor="serial")
    llb_ray.export(tmp_path / "run", layout, out=tmp_path / "set")  # type: ignore[arg-type]
    train = list((tmp_path / "set").rglob("train/good/*"))
    assert {content_id(path) for path in train} == _kept(tmp_path / "run")
    assert all(path.name.isprintable() for path in train)
    assert api.report(tmp_path / "run").exists()


def test_an_export_that_was_stopped_is_run_again(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llb_ray.export(finished, "parquet", out=tmp_path / "whole")
    link = os.link
    for error in (KeyboardInterrupt, SystemExit, OSError):
        left = iter(range(5))

        def stopped(source: str, target: Path, left: Iterator[int] = left, error: type = error) -> None:
            if next(left, None) is None:
                raise error
            link(source, target)

        monkeypatch.setattr(os, "link", stopped)
        with pytest.raises((error, DataError)):
            llb_ray.export(finished, "parquet", out=tmp_path / "set")
        assert {path.name for path in tmp_path.iterdir()} == {"whole"}
    monkeypatch.undo()
    (tmp_path / ".set.llb-export" / "train").mkdir(parents=True)  # as SIGKILL leaves it
    llb_ray.export(finished, "parquet", out=tmp_path / "set")
    assert _files(tmp_path / "set") == _files(tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "set"}


def test_an_image_that_changed_since_is_not_exported(finished: Path, photos: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(photos, tmp_path / "moved"))
    for path in (moved / "train").rglob("*.png"):
        path.write_bytes(b"another")
    with pytest.raises(DataError, match="the image changed since the run"):
        llb_ray.export(finished, "mvtec-tree", out=tmp_path / "set", data=moved)
