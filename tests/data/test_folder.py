"""A folder becomes a manifest: every file is a row or a quarantine row, whatever the folder holds."""

import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llb_ray.config import DataConfig
from llb_ray.data import masks
from llb_ray.data.decoding import content_id
from llb_ray.data.folder import read_folder
from llb_ray.data.manifest import Manifest, path_from_text
from llb_ray.errors import ConfigError, DataError

PLAIN = DataConfig()


def photo(path: Path, seed: int) -> Path:
    """A small image whose bytes are its seed's own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)).save(path, "PNG")
    return path


def photos(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        photo(root / name, seed)
    return root


def by_path(manifest: Manifest) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in manifest.table.to_pylist()}


def reasons(manifest: Manifest) -> dict[str, str]:
    return dict(zip(manifest.quarantine["path"].to_pylist(), manifest.quarantine["reason"].to_pylist(), strict=True))


def refusal(root: Path, config: DataConfig = PLAIN) -> str:
    with pytest.raises(DataError) as caught:
        read_folder(root, config)
    return str(caught.value)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An MVTec-style tree: contaminated training images, masks in both spellings, and files that are no inputs."""
    root = photos(
        tmp_path / "tile",
        "train/good/0.png",
        "train/good/1.png",
        "train/crack/c0.png",
        "train/loose.png",
        "test/good/0.png",
        "test/crack/c1.png",
        "test/crack/c2.png",
        "test/crack/c3.png",
    )
    photos(
        root / "ground_truth/crack",
        "c0_mask.png",
        "c1_mask.png",
        "c2.png",
        "nobody_mask.png",
    )
    (root / "readme.txt").write_text("no input")
    return root


def test_plain_folder_is_unlabelled_training(tmp_path: Path) -> None:
    root = photos(tmp_path / "bolts", "b.png", "sub/a.jpg", "sub/deeper/c.bin")
    manifest = read_folder(root, PLAIN)
    assert manifest.root == root
    for path, row in by_path(manifest).items():
        assert row["image_id"] == row["group"] == content_id(root / path)
        assert (row["category"], row["split"]) == ("bolts", "train")
        assert row["label"] is row["defect_type"] is row["mask_path"] is None
    assert set(by_path(manifest)) == {"b.png", "sub/a.jpg", "sub/deeper/c.bin"}
    assert len(manifest.quarantine) == 0


def test_relative_root_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of the cluster has another working directory."""
    monkeypatch.chdir(photos(tmp_path / "bolts", "a.png"))
    manifest = read_folder(Path("."), PLAIN)
    assert manifest.root == tmp_path / "bolts"
    assert manifest.table["category"].to_pylist() == ["bolts"]


def test_tree_gives_splits_labels_and_masks(tree: Path) -> None:
    manifest = read_folder(tree, DataConfig(category="magnet"))
    found = {
        path: (row["split"], row["label"], row["defect_type"], row["mask_path"])
        for path, row in by_path(manifest).items()
    }
    assert found == {
        "train/good/0.png": ("train", 0, None, None),
        "train/good/1.png": ("train", 0, None, None),
        "train/crack/c0.png": ("train", 1, "crack", "ground_truth/crack/c0_mask.png"),
        "train/loose.png": ("train", None, None, None),
        "test/good/0.png": ("test", 0, None, None),
        "test/crack/c1.png": ("test", 1, "crack", "ground_truth/crack/c1_mask.png"),
        "test/crack/c2.png": ("test", 1, "crack", "ground_truth/crack/c2.png"),
        "test/crack/c3.png": ("test", 1, "crack", None),
    }
    assert set(manifest.table["category"].to_pylist()) == {"magnet"}
    assert len(manifest.quarantine) == 0, "masks and readme.txt are no inputs"


def test_a_mask_belongs_to_one_image(tmp_path: Path) -> None:
    root = photos(
        tmp_path, "train/good/0.png", "train/crack/7.png", "test/crack/7.png", "ground_truth/crack/7_mask.png"
    )
    found = by_path(read_folder(root, PLAIN))
    assert found["test/crack/7.png"]["mask_path"] == "ground_truth/crack/7_mask.png"
    assert found["train/crack/7.png"]["mask_path"] is None


def test_train_only_tree_has_labels(tmp_path: Path) -> None:
    manifest = read_folder(photos(tmp_path, "train/good/0.png", "train/crack/1.png"), PLAIN)
    assert {path: row["label"] for path, row in by_path(manifest).items()} == {
        "train/good/0.png": 0,
        "train/crack/1.png": 1,
    }


def test_many_categories_are_refused(tmp_path: Path) -> None:
    names = [f"{category}/{kind}" for category in "abcd" for kind in ("train/good/0.png", "test/good/1.png")]
    message = refusal(photos(tmp_path, "preview.png", *names))
    assert message == f"{tmp_path}: holds 4 data sets with tests of their own; point --data at one (a, b, c)"
    assert "(sets/a, sets/b, sets/c)" in refusal(_moved_into(tmp_path, "sets"))


def _moved_into(root: Path, folder: str) -> Path:
    children = list(root.iterdir())
    (root / folder).mkdir()
    for child in children:
        child.rename(root / folder / child.name)
    return root


def test_masks_are_never_trained_on(tmp_path: Path) -> None:
    message = refusal(photos(tmp_path, "test/crack/0.png", "ground_truth/crack/0_mask.png"))
    assert "ground_truth holds masks, so images whose defects are known would be trained on" in message


def test_nothing_is_lost_and_nothing_is_fatal(tmp_path: Path) -> None:
    root = photos(
        tmp_path / "r", "good.png", "with space.png", "new\nline.png", os.fsdecode(b"caf\xe9.png"), "back\\x41"
    )
    photo(root / "z copy.png", 0)
    (root / "empty.png").touch()
    (root / "text.png").write_text("not an image")
    (root / "cut.png").write_bytes((root / "good.png").read_bytes()[:90])
    (root / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    os.mkfifo(root / "fifo.png")
    (root / "broken.png").symlink_to("nowhere")
    (root / "self.png").symlink_to("self.png")
    (root / "sub").mkdir()
    (root / "sub" / "loop").symlink_to("..")
    (root / "link.png").symlink_to(photo(tmp_path / "outside.png", 99))
    manifest = read_folder(root, PLAIN)
    assert set(by_path(manifest)) == {
        "good.png",
        "with space.png",
        "new\nline.png",
        "caf\\xe9.png",
        "back\\\\x41",
        "link.png",
    }
    found = reasons(manifest)
    assert found.pop("text.png").startswith("not an image")
    assert found.pop("cut.png").startswith("cannot be decoded")
    assert found == {
        "z copy.png": "same content as good.png",
        "empty.png": "empty file",
        "fifo.png": "not a regular file",
        "broken.png": "cannot be opened (No such file or directory)",
        "self.png": "cannot be opened (Too many levels of symbolic links)",
        "sub/loop": "same folder as .",
    }
    for path in by_path(manifest):
        assert (root / path_from_text(path)).is_file()
    manifest.save(tmp_path / "images.arrow")
    assert Manifest.load(tmp_path / "images.arrow", root) == manifest


def test_linked_folder_is_read_once(tmp_path: Path) -> None:
    root = photos(tmp_path / "r", "a.png", "real/b.png")
    photo(tmp_path / "elsewhere" / "c.png", 9)
    (root / "twin").symlink_to("real")
    (root / "far").symlink_to(tmp_path / "elsewhere")
    manifest = read_folder(root, PLAIN)
    assert set(by_path(manifest)) == {"a.png", "real/b.png", "far/c.png"}
    assert reasons(manifest) == {"twin": "same folder as real"}


def test_unreadable_folder_is_quarantined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions do not stop root, who runs many a test suite, so the refusal is played."""
    root = photos(tmp_path / "r", "a.png", "locked/b.png")
    listdir = os.listdir

    def guarded(path: Path) -> list[str]:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", guarded)
    assert reasons(read_folder(root, PLAIN)) == {"locked": "cannot be opened (Permission denied)"}


def test_of_equal_files_training_and_then_the_first_name_stays(tmp_path: Path) -> None:
    root = photos(tmp_path, "train/good/b.png", "test/good/other.png")
    photo(root / "train/good/a.png", 0)
    photo(root / "train/crack/z.png", 0)
    photo(root / "test/crack/a.png", 0)
    manifest = read_folder(root, PLAIN)
    assert set(by_path(manifest)) == {"train/good/a.png", "test/good/other.png"}
    assert reasons(manifest) == dict.fromkeys(
        ["train/crack/z.png", "train/good/b.png", "test/crack/a.png"], "same content as train/good/a.png"
    )
    assert by_path(manifest)["train/good/a.png"]["label"] is None, "the folders contradict each other"


def test_a_folder_that_is_a_label_does_not_choose_among_equal_files(tmp_path: Path) -> None:
    root = photos(tmp_path, "train/good/b.png", "test/good/other.png")
    photo(root / "train/crack/z.png", 0)
    assert "train/good/b.png" in by_path(read_folder(root, PLAIN))


def test_groups_come_from_the_path(tmp_path: Path) -> None:
    root = photos(tmp_path, "part1_top.png", "part1_side.png", "part2_top.png", "odd.png")
    found = by_path(read_folder(root, DataConfig(category="c", group_pattern=r"(part\d+)_")))
    assert found["part1_top.png"]["group"] == found["part1_side.png"]["group"] == "c/part1"
    assert found["part2_top.png"]["group"] == "c/part2"
    assert found["odd.png"]["group"] == found["odd.png"]["image_id"]


def test_an_empty_group_is_no_group(tmp_path: Path) -> None:
    found = by_path(read_folder(photos(tmp_path, "a.png", "b.png"), DataConfig(group_pattern=r"(\d*)")))
    assert all(row["group"] == row["image_id"] for row in found.values())


@pytest.mark.parametrize(("pattern", "problem"), [("(", "not a regular expression"), ("part", "has no group")])
def test_bad_group_patterns_are_refused(pattern: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"data.group_pattern = '{re.escape(pattern)}': {problem}"):
        read_folder(tmp_path, DataConfig(group_pattern=pattern))


def test_unusable_roots_are_one_sentence(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == f"{tmp_path / 'none'}: no such folder; give a folder of images"
    assert "not a folder" in refusal(photo(tmp_path / "file.png", 0))
    (tmp_path / "empty").mkdir()
    assert "holds no files" in refusal(tmp_path / "empty")
    (tmp_path / "empty" / "a.txt").touch()
    assert "none of the 1 files found is a readable training image (first, a.txt: empty file)" in refusal(
        tmp_path / "empty"
    )


def test_a_tree_without_training_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train" / "good").mkdir(parents=True)
    assert "none of the 1 files found is a readable training image; " in refusal(photos(tmp_path, "test/good/0.png"))


def test_large_images_are_quarantined_by_the_configured_limit(tmp_path: Path) -> None:
    root = photos(tmp_path, "a.png")
    Image.new("L", (100, 100)).save(root / "large.png")
    manifest = read_folder(root, DataConfig(max_pixels=9_999))
    assert reasons(manifest) == {"large.png": "100 x 100 pixels is more than data.max_pixels = 9999"}


def test_progress_counts_every_file(tmp_path: Path) -> None:
    (tmp_path / "bad.png").touch()
    seen: list[tuple[int, int]] = []
    read_folder(photos(tmp_path, "a.png", "b.png"), PLAIN, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def _identity(manifest: Manifest) -> list[Sequence[Any]]:
    return [manifest.table[name].to_pylist() for name in ("image_id", "split", "group")]


def test_names_and_labels_change_neither_ids_nor_order(tree: Path, tmp_path: Path) -> None:
    """Every file renamed and every label swapped: the unlabelled identity of the set stays the same."""
    renamed = tmp_path / "renamed"
    for index, path in enumerate(sorted(path for path in tree.rglob("*.png") if "ground_truth" not in path.parts)):
        split = path.relative_to(tree).parts[0]
        kind = "good" if path.parent.name == "crack" else "scratch"
        (renamed / split / kind).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, renamed / split / kind / f"{100 - index}.dat")
    assert _identity(read_folder(renamed, PLAIN)) == _identity(read_folder(tree, PLAIN))


@pytest.mark.parametrize("mask", ["ground_truth/crack/{}_mask.png", "test/crack/{}_mask.png"])
def test_names_in_a_folder_are_examined_once_and_not_for_every_image(
    mask: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else ten thousand photographs in one folder take minutes, and a hundred thousand take hours."""
    looks = []
    for count in (8, 32):
        root, examined = tmp_path / str(count), list[str]()
        names = ("train/good/{}.png", "test/crack/{}.png", mask)
        photos(root, *(name.format(number) for number in range(count) for name in names))
        with monkeypatch.context() as patch:
            for name in ("means_masks", "described_stem"):
                patch.setattr(masks, name, _noting(getattr(masks, name), examined))
            assert read_folder(root, PLAIN).table["mask_path"].null_count == count
        looks.append(len(examined))
    assert looks[1] <= 4 * looks[0] + 8


def _noting(examine: Callable[[str], Any], examined: list[str]) -> Callable[[str], Any]:
    def look(name: str) -> Any:
        examined.append(name)
        return examine(name)

    return look
