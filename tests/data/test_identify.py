"""From a listing to a manifest: the quarantine of a folder, groups of their own, and ids that are checked."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llb_ray.config import DataConfig, DatasetOptions
from llb_ray.data.adapters import read_listing
from llb_ray.data.decoding import content_id
from llb_ray.data.folder import read_folder
from llb_ray.data.listing import LISTING, Listing
from llb_ray.data.listing_to_manifest import identify
from llb_ray.errors import DataError
from tests.support import photo

SETTINGS = DataConfig()


def listing(root: Path, *rows: dict[str, Any]) -> Listing:
    said = [{"category": "c", "split": "train", **row} for row in rows]
    return Listing.of(root, pa.Table.from_pylist(said, LISTING))


def test_a_folder_and_its_listing_are_one_manifest(photos: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(photos, tmp_path / "weave"))
    (data / "train" / "good" / "notes.txt").write_text("not an image")
    shutil.copy(sorted((data / "train" / "good").glob("*.png"))[0], data / "test" / "good" / "copy.png")
    pattern = r"(obj\d+)"
    listed = read_listing("mvtec", data, DatasetOptions(group_pattern=pattern))
    read = read_folder(data, DataConfig(group_pattern=pattern))
    assert identify(listed, SETTINGS) == read
    assert len(read.quarantine) == 2


def test_what_is_missing_copied_or_another_image_is_quarantined(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    photo(tmp_path / "b.png", 2)
    shutil.copy(tmp_path / "a.png", tmp_path / "z.png")
    names = ("a.png", "z.png", "gone.png")
    found = identify(
        listing(tmp_path, *({"path": p} for p in names), {"path": "b.png", "image_id": "0" * 32}), SETTINGS
    )
    assert found.table["path"].to_pylist() == ["a.png"]
    assert dict(zip(found.quarantine["path"].to_pylist(), found.quarantine["reason"].to_pylist(), strict=True)) == {
        "b.png": f"not the image {'0' * 32} that was listed",
        "gone.png": "cannot be read (No such file or directory)",
        "z.png": "same content as a.png",
    }


def test_an_image_that_stands_alone_is_its_own_group(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    photo(tmp_path / "b.png", 2)
    known = content_id(tmp_path / "b.png")
    rows = {"path": "a.png"}, {"path": "b.png", "group": "c/1", "image_id": known}
    found = {row["path"]: row for row in identify(listing(tmp_path, *rows), SETTINGS).table.to_pylist()}
    assert found["a.png"]["group"] == found["a.png"]["image_id"] == content_id(tmp_path / "a.png")
    assert (found["b.png"]["group"], found["b.png"]["image_id"]) == ("c/1", known)


def test_copies_that_contradict_each_other_are_unlabelled(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
    rows = {"path": "a.png", "label": 0}, {"path": "b.png", "label": 1, "defect_type": "crack"}
    (row,) = identify(listing(tmp_path, *rows), SETTINGS).table.to_pylist()
    assert (row["path"], row["label"]) == ("a.png", None)


def test_progress_counts_every_file_and_nothing_readable_is_refused(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with pytest.raises(DataError, match="none of the 1 images listed for training is readable .first, a.png: cannot"):
        identify(listing(tmp_path, {"path": "a.png"}), SETTINGS, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 1)]


def test_a_root_that_is_missing_is_refused_before_any_file_is_looked_for(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with pytest.raises(DataError, match="gone: no such folder, and the images are listed below it"):
        identify(
            listing(tmp_path / "gone", {"path": "a.png"}), SETTINGS, lambda done, total: seen.append((done, total))
        )
    assert seen == []
