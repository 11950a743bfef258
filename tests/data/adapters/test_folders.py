"""Folders and MVTec-style trees, one category or several, and what is said aloud about MVTec LOCO."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from llb_ray.config import DataConfig, DatasetOptions
from llb_ray.data.adapters import read_listing
from llb_ray.data.folder import read_folder
from llb_ray.data.listing_problems import BadEntries
from llb_ray.errors import ConfigError, DataError
from tests.support import photo, shared

TREE = ("train/good/0.png", "train/good/1.png", "test/good/0.png", "test/crack/0.png")


def tree(root: Path) -> Path:
    for number, name in enumerate(TREE):
        photo(root / name, number)
    photo(root / "ground_truth/crack/0_mask.png", 9)
    (root / "readme.txt").write_text("no input")
    return root


def rows(kind: str, root: Path, **options: Any) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in read_listing(kind, root, DatasetOptions(**options)).table.to_pylist()}


def test_a_plain_folder_is_unlabelled_training(tmp_path: Path) -> None:
    photo(tmp_path / "bolts/sub/a_obj1.png")
    photo(tmp_path / "bolts/b.png", 1)
    found = rows("folder", tmp_path / "bolts", group_pattern=r"(obj\d)")
    assert set(found) == {"sub/a_obj1.png", "b.png"}
    assert {(row["category"], row["split"], row["label"]) for row in found.values()} == {("bolts", "train", None)}
    assert (found["sub/a_obj1.png"]["group"], found["b.png"]["group"]) == ("bolts/obj1", None)


def test_what_is_no_file_is_a_problem(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "broken.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo.png")
    with pytest.raises(BadEntries, match="2 problems with the listed images") as caught:
        read_listing("folder", tmp_path)
    assert {problem.path for problem in caught.value.problems} == {"broken.png", "fifo.png"}
    assert set(rows("folder", tmp_path, skip_bad=True)) == {"a.png"}


@pytest.mark.parametrize("below", ["", "screw/"])
def test_a_tree_alone_or_below_its_root(below: str, tmp_path: Path) -> None:
    tree(tmp_path / "mvtec" / "screw")
    found = rows("mvtec", tmp_path / "mvtec" if below else tmp_path / "mvtec" / "screw")
    assert set(found) == {below + name for name in TREE}
    crack = found[below + "test/crack/0.png"]
    assert (crack["category"], crack["split"], crack["label"], crack["defect_type"]) == ("screw", "test", 1, "crack")
    assert crack["mask_path"] == below + "ground_truth/crack/0_mask.png"


def test_several_categories_or_some_of_them(tmp_path: Path) -> None:
    for name in ("screw", "hazelnut"):
        tree(tmp_path / name)
    (tmp_path / "licence").mkdir()
    assert len(rows("mvtec", tmp_path)) == 8
    assert {row["category"] for row in rows("mvtec", tmp_path, categories=("screw",)).values()} == {"screw"}
    (tmp_path / "screw/test/crack/broken.png").symlink_to("nowhere")
    with pytest.raises(BadEntries, match="images .screw/test/crack/broken.png: cannot be opened"):
        rows("mvtec", tmp_path)
    with pytest.raises(DataError, match="no category 'skrew' is there; did you mean 'screw'?"):
        rows("mvtec", tmp_path, categories=("skrew",))


def test_a_mask_of_another_size_or_of_no_format_is_a_problem(tmp_path: Path) -> None:
    root = tree(tmp_path)
    photo(root / "ground_truth/crack/0_mask.png", 9, width=9)
    with pytest.raises(BadEntries, match="the mask has 9 x 6 pixels, its image 8 x 6"):
        rows("mvtec", root)
    (root / "ground_truth/crack/0_mask.png").write_text("no mask")
    with pytest.raises(BadEntries, match="not a usable mask"):
        rows("mvtec", root)
    assert len(rows("mvtec", root, check_files=False)) == 4


def test_what_is_left_out_of_mvtec_loco_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tree(tmp_path / "juice_bottle")
    photo(root / "validation/good/0.png", 5)
    photo(root / "ground_truth/crack/1/000.png", 6)
    notes = read_listing("mvtec", root).about["notes"]
    assert "the images in validation are no input" in notes[0]
    assert "holds 1 folders of several masks each" in notes[1]
    with caplog.at_level(logging.WARNING):
        read_folder(root, DataConfig())
    assert caplog.messages == notes


def test_a_validation_folder_of_a_plain_folder_is_input(tmp_path: Path) -> None:
    photo(tmp_path / "validation/0.png")
    assert read_listing("folder", tmp_path).about["notes"] == []
    assert set(rows("folder", tmp_path)) == {"validation/0.png"}


def test_the_wrong_kind_is_refused_with_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="read it as kind mvtec"):
        rows("folder", tree(tmp_path / "screw"))
    photo(tmp_path / "plain" / "a.png")
    with pytest.raises(DataError, match="or read it as kind folder"):
        rows("mvtec", tmp_path / "plain")
    for kind in ("folder", "mvtec"):
        with pytest.raises(DataError, match="no such folder"):
            rows(kind, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    for options in ({}, {"group_pattern": "(x)"}):
        with pytest.raises(DataError, match="lists no images"):
            rows("folder", tmp_path / "empty", **options)


def test_options_that_do_not_apply_are_refused(tmp_path: Path) -> None:
    tree(tmp_path)
    with pytest.raises(ConfigError, match="views has no effect with kind mvtec; it is for real_iad"):
        rows("mvtec", tmp_path, views="single")
    with pytest.raises(ConfigError, match="group_pattern = '.nope.': matches no file"):
        rows("mvtec", tmp_path, group_pattern="(nope)")
    with pytest.raises(ConfigError, match="kind = 'mvtek': there is no such data set layout; did you mean 'mvtec'"):
        rows("mvtek", tmp_path)


def test_columns_join_by_path_whatever_the_suffix(tmp_path: Path) -> None:
    root = tree(tmp_path)
    table = root / "patterns.csv"
    table.write_text("path,pattern,lot\ntrain/good/0.jpg,red,007\ntest/good/0.png,blue,8\nnobody.png,blue,9\n")
    found = rows("mvtec", root, columns="patterns.csv")
    assert (found["train/good/0.png"]["pattern"], found["train/good/0.png"]["lot"]) == ("red", "007")
    assert found["test/good/0.png"]["pattern"] == "blue"
    assert found["train/good/1.png"]["pattern"] is None
    for content, sentence in (
        ("path,pattern\na,1\na.png,2\n", "names an image twice"),
        ("path,label\ntrain/good/0.png,1\n", "has a column 'label' already"),
        ("path,pattern\nx.png,1\n", "names none of the images"),
        ("file,pattern\nx.png,1\n", "has no column 'path'"),
    ):
        table.write_text(content)
        with pytest.raises(DataError, match=sentence):
            rows("mvtec", root, columns="patterns.csv")


@pytest.mark.shared_data
def test_magnetic_tile_and_juice_bottle() -> None:
    data = shared("magnetic_tile", "mvtec_loco_juice_bottle/pattern_labels.csv")
    tiles = read_listing("mvtec", data / "magnetic_tile", DatasetOptions(check_files=False))
    assert tiles.table["split"].to_pylist().count("train") == 720
    assert sum(tiles.table["label"].to_pylist()) == 392
    bottles = read_listing(
        "mvtec", data / "mvtec_loco_juice_bottle", DatasetOptions(columns="pattern_labels.csv", check_files=False)
    )
    assert bottles.table["pattern"].null_count == 0
