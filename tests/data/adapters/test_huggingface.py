"""Parquet shards of Hugging Face's datasets: images, masks and labels are in the rows."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

import llb_ray
from llb_ray.config import DatasetOptions
from llb_ray.data.adapters import read_listing
from llb_ray.errors import DataError
from tests.support import photo


def _picture(path: Path, seed: int, name: str | None = "a.png") -> dict[str, Any]:
    """A row's image, as `datasets` stores it."""
    return {"bytes": photo(path, seed).read_bytes(), "path": name}


def _mask(path: Path) -> dict[str, Any]:
    Image.new("L", Image.open(photo(path, 0)).size, 255).save(path)
    return {"bytes": path.read_bytes(), "path": None}


def _shard(path: Path, rows: list[dict[str, Any]], names: list[str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path)


def _found(root: Path, out: Path) -> list[dict[str, Any]]:
    rows = read_listing("huggingface", root, DatasetOptions(write_to=out)).table.to_pylist()
    return sorted(rows, key=lambda row: str(row["path"]))


@pytest.mark.parametrize(
    "name", ["data/test-00000-of-00001.parquet", "default/test/0000.parquet", "validation.parquet"]
)
def test_rows_become_files(name: str, tmp_path: Path) -> None:
    scratch, out = tmp_path / "scratch.png", tmp_path / "photos"
    good = {"image": _picture(scratch, 1), "label": 0, "mask": None}
    bad = {"image": _picture(scratch, 2, None), "label": 1, "mask": _mask(scratch)}
    _shard(tmp_path / "hub" / name, [good, bad], ["good", "scratch"])
    normal, odd = _found(tmp_path / "hub", out)
    assert (normal["label"], normal["defect_type"], normal["mask_path"]) == (0, None, None)
    assert (odd["label"], odd["defect_type"]) == (1, "scratch")
    assert {normal["split"], odd["split"]} == {"test"}
    assert (out / normal["path"]).read_bytes() == good["image"]["bytes"]
    assert (out / odd["mask_path"]).read_bytes() == bad["mask"]["bytes"]
    before = (out / normal["path"]).stat().st_mtime_ns
    assert [row["path"] for row in _found(tmp_path / "hub", out)] == [normal["path"], odd["path"]]
    assert (out / normal["path"]).stat().st_mtime_ns == before, "written once"


def test_a_run_takes_the_manifest(tmp_path: Path) -> None:
    rows = [{"image": _picture(tmp_path / "a.png", seed)} for seed in range(4)]
    _shard(tmp_path / "hub" / "train-00000-of-00001.parquet", rows)
    out = tmp_path / "hub.arrow"
    llb_ray.manifest("huggingface", tmp_path / "hub", out=out, options=DatasetOptions(write_to=tmp_path / "photos"))
    assert len(llb_ray.read_manifest(out).table) == 4


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"image": {"bytes": b"", "path": "a.png"}}, "has no image in it"),
        ({"image": {"bytes": b"no image", "path": "a.png"}, "label": "dog"}, "unknown label 'dog'"),
        ({"text": "a"}, "no column has images"),
    ],
)
def test_faults_are_named(row: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    _shard(tmp_path / "hub" / "train.parquet", [row])
    with pytest.raises(DataError, match=sentence):
        _found(tmp_path / "hub", tmp_path / "photos")


def test_what_is_no_shard_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    with pytest.raises(DataError, match=r"has no \.parquet files"):
        _found(tmp_path / "hub", tmp_path / "photos")
    (tmp_path / "hub" / "train.parquet").write_bytes(b"none")
    with pytest.raises(DataError, match="not readable"):
        _found(tmp_path / "hub", tmp_path / "photos")


@pytest.mark.parametrize("name", ["../../evil.sh", "a/b.png", "x.\x1b[31m", ".png", "a"])
def test_a_name_in_a_row_decides_nothing_but_the_suffix(name: str, tmp_path: Path) -> None:
    _shard(tmp_path / "hub" / "train.parquet", [{"image": _picture(tmp_path / "a.png", 1, name)}])
    (row,) = _found(tmp_path / "hub", tmp_path / "photos")
    assert row["path"].startswith("train/train-000001")
    assert (tmp_path / "photos" / row["path"]).is_file()
