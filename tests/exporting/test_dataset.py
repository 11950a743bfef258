"""The purified set in other tools' layouts: what was kept and nothing else, whole paths, and no name lost."""

import csv
import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
from click.testing import CliRunner

import llb_ray
from llb_ray import RunConfig
from llb_ray.cli import main
from llb_ray.data.images import content_id
from llb_ray.data.tables import read_table
from llb_ray.errors import DataError

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
