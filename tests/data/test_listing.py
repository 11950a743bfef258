"""Listings: what is saved is what is loaded, canonical order, and refusals of one sentence."""

import json
import pickle
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb_ray.data.listing import LISTING, Listing
from llb_ray.data.listing_problems import BadEntries, Problem
from llb_ray.errors import DataError


def rows(*paths: str, category: str = "gear", split: str = "train", mask: str | None = None) -> pa.Table:
    said = {"category": category, "split": split, "mask_path": mask}
    return pa.Table.from_pylist([{"path": path, **said} for path in paths], LISTING)


def test_what_is_saved_is_loaded_with_the_users_own_columns(tmp_path: Path) -> None:
    table = rows("b.png", "a.png").append_column("lot", pa.array(["007", None]))
    listing = Listing.of(Path("/photos"), table, {"kind": "table", "options": {"views": "multi"}})
    listing.save(tmp_path / "new" / "m.arrow")
    loaded = Listing.load(tmp_path / "new" / "m.arrow")
    assert loaded == listing
    assert loaded.user_columns == ["lot"]
    assert loaded.table["path"].to_pylist() == ["a.png", "b.png"]
    assert Listing.load(tmp_path / "new" / "m.arrow", tmp_path).root == tmp_path


def test_the_same_listing_is_the_same_bytes(tmp_path: Path) -> None:
    for name, order in (("a", ("x.png", "y.png")), ("b", ("y.png", "x.png"))):
        Listing.of(Path("/r"), rows(*order), {"b": 1, "a": 2}).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@given(st.permutations(["a", "b", "c", "d"]))
def test_order_of_rows_does_not_matter(order: list[str]) -> None:
    assert Listing.of(Path("r"), rows(*order)) == Listing.of(Path("r"), rows("a", "b", "c", "d"))


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (pa.concat_tables([rows("a"), rows("a", category="other")]), "a path is listed twice"),
        (rows("a", split="val"), "unknown split 'val'"),
        (rows("/etc/passwd"), "/etc/passwd leaves the root"),
        (rows("a/../../b"), "a/../../b leaves the root"),
        (rows("a", mask="../mask.png"), "../mask.png leaves the root"),
    ],
)
def test_what_cannot_be_listed_is_refused(table: pa.Table, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        Listing.of(Path("/r"), table)


def test_one_category_of_several() -> None:
    listing = Listing.of(Path("/r"), pa.concat_tables([rows("a"), rows("b", category="zipper")]))
    assert listing.categories == ["gear", "zipper"]
    assert listing.of_category("zipper").table["path"].to_pylist() == ["b"]
    with pytest.raises(DataError, match="no category 'zippre' is listed; did you mean 'zipper'?"):
        listing.of_category("zippre")
    with pytest.raises(DataError, match="known are gear, zipper"):
        listing.of_category("audiojack")


def test_other_files_are_no_manifest_files(tmp_path: Path) -> None:
    path = tmp_path / "m.arrow"
    with pytest.raises(DataError, match="not a readable manifest file"):
        Listing.load(path)
    path.write_bytes(b"no arrow file")
    with pytest.raises(DataError, match="not a readable manifest file"):
        Listing.load(path)
    _write(path, rows("a"), None)
    with pytest.raises(DataError, match="not a manifest file"):
        Listing.load(path)
    _write(path, rows("a"), {"version": 99, "root": "/r", "about": {}})
    with pytest.raises(DataError, match="of version 99, this one reads 1"):
        Listing.load(path)
    said = {"version": 1, "root": "/r", "about": {}}
    _write(path, rows("a").drop_columns(["group"]), said)
    with pytest.raises(DataError, match="not a manifest file of this version"):
        Listing.load(path)
    _write(path, rows("a").select(["category", *(n for n in LISTING.names if n != "category")]), said)
    with pytest.raises(DataError, match="its columns differ"):
        Listing.load(path)
    _write(path, rows("../a"), said)
    with pytest.raises(DataError, match="leaves the root"):
        Listing.load(path)


def _write(path: Path, table: pa.Table, said: dict[str, object] | None) -> None:
    table = table.replace_schema_metadata(None if said is None else {"llb_ray": json.dumps(said)})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def test_an_error_carries_its_problems_from_process_to_process() -> None:
    problems = [Problem("a.csv", 3, "x.png", "no such image"), Problem("", None, "y", "not a regular file")]
    error = pickle.loads(pickle.dumps(BadEntries.of(Path("/r"), problems)))  # noqa: S301
    assert error.problems == tuple(problems)
    assert str(error).startswith("/r: 2 problems with the listed images (a.csv 3 x.png: no such image; y: not a reg")
