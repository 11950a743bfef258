"""The manifest: any name survives, any order of rows is one manifest, and what is saved is what is loaded."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb_ray.data.manifest import IMAGES, MANIFEST, QUARANTINE, Manifest, path_from_text, path_text
from llb_ray.errors import DataError


def rows(*image_ids: str, split: str = "train") -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "image_id": image_id,
                "path": f"{image_id}.png",
                "category": "c",
                "group": image_id,
                "split": split,
                "label": None,
                "defect_type": None,
                "mask_path": None,
            }
            for image_id in image_ids
        ],
        MANIFEST,
    )


def aside(*paths: str) -> pa.Table:
    return pa.Table.from_pylist(
        [{"path": path, "split": "train", "reason": "empty file"} for path in paths], QUARANTINE
    )


def rewritten(table: pa.Table, column: str, value: str) -> pa.Table:
    index = table.schema.get_field_index(column)
    return table.set_column(index, table.schema.field(column), pa.array([value] * len(table)))


@given(st.binary())
def test_any_name_survives_as_text(name: bytes) -> None:
    path = os.fsdecode(name)
    text = path_text(path)
    assert text.encode("utf-8").decode("utf-8") == text
    assert path_from_text(text) == path


@given(st.lists(st.binary(), unique=True))
def test_different_names_have_different_texts(names: list[bytes]) -> None:
    assert len({path_text(os.fsdecode(name)) for name in names}) == len(names)


def test_plain_names_are_left_alone() -> None:
    assert path_text("train/good/Straße 1\n.png") == "train/good/Straße 1\n.png"


@given(st.permutations(["a", "b", "c", "d"]))
def test_order_of_rows_does_not_matter(order: list[str]) -> None:
    assert Manifest.of(Path("r"), rows(*order)) == Manifest.of(Path("r"), rows("a", "b", "c", "d"))


def test_ids_are_unique_and_splits_known() -> None:
    with pytest.raises(DataError, match="names an image_id twice"):
        Manifest.of(Path("r"), rows("a", "a"))
    with pytest.raises(DataError, match="unknown split 'val'"):
        Manifest.of(Path("r"), rows("a", split="val"))


def test_views_of_a_manifest() -> None:
    table = pa.concat_tables([rows("b", "d"), rows("a", "c", split="test")])
    manifest = Manifest.of(Path("r"), table, aside("z", "y"))
    assert manifest.image_ids("train") == ["b", "d"]
    assert manifest.image_ids("test") == ["a", "c"]
    assert manifest.unlabelled().schema == IMAGES
    assert manifest.quarantine["path"].to_pylist() == ["y", "z"]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    nasty = rewritten(rows("a", "b"), "path", path_text(os.fsdecode(b"a\xff\\\n.png")))
    manifest = Manifest.of(tmp_path, nasty, aside("x.png"))
    manifest.save(tmp_path / "images.arrow")
    assert Manifest.load(tmp_path / "images.arrow", tmp_path) == manifest


def test_an_empty_manifest_is_saved_too(tmp_path: Path) -> None:
    manifest = Manifest.of(tmp_path, MANIFEST.empty_table())
    manifest.save(tmp_path / "images.arrow")
    assert Manifest.load(tmp_path / "images.arrow", tmp_path) == manifest


def test_other_files_are_not_manifests(tmp_path: Path) -> None:
    path = tmp_path / "images.arrow"
    with pytest.raises(DataError, match="not a readable manifest"):
        Manifest.load(path, tmp_path)
    path.write_bytes(b"no arrow file")
    with pytest.raises(DataError, match="not a readable manifest"):
        Manifest.load(path, tmp_path)
    Manifest.of(tmp_path, rows("a")).save(path)
    feather.write_feather(pa.table({"image_id": ["a"]}), path)
    with pytest.raises(DataError, match="its columns differ"):
        Manifest.load(path, tmp_path)
