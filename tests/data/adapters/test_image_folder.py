"""Folders of Hugging Face's datasets: a table metadata in the root or in a folder for each split."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

import llb_ray
from llb_ray.config import DatasetOptions
from llb_ray.data.adapters import read_listing
from llb_ray.errors import DataError
from tests.support import photo

ROWS: list[dict[str, Any]] = [
    {"file_name": "a.png", "label": 0, "mask_file_name": None},
    {"file_name": "deep/b.png", "label": 1, "mask_file_name": "b_mask.png"},
]


def write(folder: Path, form: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"metadata.{form}"
    if form == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        names = list(rows[0])
        lines = [names, *([str(row[name] if row[name] is not None else "") for name in names] for row in rows)]
        path.write_text("".join(",".join(line) + "\n" for line in lines))


def found(root: Path, **options: Any) -> list[dict[str, Any]]:
    return read_listing("imagefolder", root, DatasetOptions(**options)).table.to_pylist()


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("folder", ["", "train", "validation"])
def test_a_table_of_any_form_lists_images(form: str, folder: str, tmp_path: Path) -> None:
    write(tmp_path / folder, form, ROWS)
    for number, name in enumerate(("a.png", "deep/b.png", "b_mask.png")):
        photo(tmp_path / folder / name, number)
    prefix = f"{folder}/" if folder else ""
    normal, odd = sorted(found(tmp_path), key=lambda row: str(row["path"]))
    assert [normal["path"], odd["path"], odd["mask_path"]] == [
        *(f"{prefix}{name}" for name in ("a.png", "deep/b.png", "b_mask.png"))
    ]
    assert (normal["label"], odd["label"]) == (0, 1)
    assert {normal["split"], odd["split"]} == {"test" if folder == "validation" else "train"}
    assert normal["category"] == tmp_path.name


def test_an_exported_set_is_read_again(finished: Path, photos: Path, tmp_path: Path) -> None:
    llb_ray.export(finished, "parquet", out=tmp_path / "hf")
    rows = found(tmp_path / "hf")
    manifest = llb_ray.read_manifest(_saved(tmp_path))
    assert {row["split"] for row in rows} == {"train", "test"}
    assert len(manifest.table) == len(rows) == 36 + 24


def _saved(folder: Path) -> Path:
    llb_ray.manifest("imagefolder", folder / "hf", out=folder / "hf.arrow")
    return folder / "hf.arrow"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"path": "a.png"}], "has a row without file_name"),
        ([{"file_name": "a.png", "label": "scratchy"}], "unknown label 'scratchy'"),
        ([{"file_name": "../a.png"}], "leaves the root"),
        ([{"file_name": "a.png", "split": "holdout"}], "unknown split 'holdout'"),
        ([{"file_name": "missing.png"}], "missing.png"),
    ],
)
def test_faults_are_named(rows: list[dict[str, Any]], sentence: str, tmp_path: Path) -> None:
    write(tmp_path, "jsonl", rows)
    with pytest.raises(DataError, match=sentence):
        found(tmp_path)


def test_a_folder_without_a_table_is_refused(tmp_path: Path) -> None:
    photo(tmp_path / "train" / "a.png")
    with pytest.raises(DataError, match="has none of metadata.csv"):
        found(tmp_path)


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match="not readable"):
        found(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name\na.png\n")
    photo(tmp_path / "a.png")
    assert len(found(tmp_path)) == 1, "the CSV comes first"
