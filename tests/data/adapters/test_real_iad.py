"""Real-IAD's official lists: on the real files where they are, and on small ones of the same form always."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llb_ray.config import DatasetOptions
from llb_ray.data.adapters import read_listing, survey
from llb_ray.data.listing import Listing
from llb_ray.data.listing_problems import BadEntries
from llb_ray.errors import DataError
from tests.support import photo, shared

UNCHECKED = DatasetOptions(check_files=False)


def entry(image: str, mask: str | None = None, kind: str = "OK", category: str = "mint") -> dict[str, Any]:
    return {"category": category, "anomaly_class": kind, "image_path": image, "mask_path": mask}


def views(folder: str, kind: str = "OK", masked: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Five views of one object, a defect to be seen in some of them."""
    names = {view: f"{folder}/mint_{folder[-4:]}_C{view}_2023" for view in range(1, 6)}
    return [
        entry(f"{name}.jpg", f"{name}.png" if view in masked else None, kind if view in masked else "OK")
        for view, name in names.items()
    ]


def write(path: Path, train: list[Any], test: list[Any], prefix: str = "mint/") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = {"prefix": prefix, "normal_class": "OK", "pre_transform": False}
    path.write_text(json.dumps({"meta": meta, "train": train, "test": test}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two normal objects for training; a normal and an anomalous one for testing; every image there."""
    train = [*views("OK/S0001"), *views("OK/S0002")]
    test = [*views("OK/S0003"), *views("NG/HS/S0004", "HS", masked=(1, 3))]
    write(tmp_path / "realiad_jsons" / "realiad_jsons" / "mint.json", train, test)
    for number, said in enumerate([*train, *test]):
        for name in filter(None, (said["image_path"], said["mask_path"])):
            photo(tmp_path / "realiad_1024" / "mint" / name, number)
    return tmp_path


def by_path(listing: Listing) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in listing.table.to_pylist()}


def problems(root: Path, options: DatasetOptions = UNCHECKED) -> dict[str, str]:
    with pytest.raises(BadEntries) as caught:
        read_listing("real_iad", root, options)
    return {problem.path: problem.what for problem in caught.value.problems}


def test_five_views_are_one_object_and_a_hidden_defect_is_normal(root: Path) -> None:
    listing = read_listing("real_iad", root)
    rows = by_path(listing)
    assert len(rows) == 20
    shown = rows["realiad_1024/mint/NG/HS/S0004/mint_0004_C1_2023.jpg"]
    assert (shown["category"], shown["split"], shown["label"], shown["defect_type"]) == ("mint", "test", 1, "HS")
    assert shown["mask_path"] == "realiad_1024/mint/NG/HS/S0004/mint_0004_C1_2023.png"
    hidden = rows["realiad_1024/mint/NG/HS/S0004/mint_0004_C2_2023.jpg"]
    assert (hidden["label"], hidden["defect_type"], hidden["mask_path"]) == (0, None, None)
    assert shown["group"] == hidden["group"] == "mint/NG/HS/S0004"
    assert len(set(listing.table["group"].to_pylist())) == 4
    assert list(listing.about["sources"]) == ["realiad_jsons/realiad_jsons/mint.json"]


def test_one_view_is_the_top_one(root: Path) -> None:
    rows = by_path(read_listing("real_iad", root, DatasetOptions(views="single")))
    assert len(rows) == 4
    assert all("_C1_" in path for path in rows)


def test_the_official_single_view_lists_come_first(root: Path) -> None:
    train = [entry("OK/S0001/mint_0001_C1_2023.jpg")]
    write(root / "realiad_jsons" / "realiad_jsons_sv" / "mint.json", train, [])
    assert len(read_listing("real_iad", root, DatasetOptions(views="single")).table) == 1


def test_contaminated_lists_are_chosen_by_alpha(root: Path) -> None:
    with pytest.raises(DataError, match="none of any alpha is there; `llb-ray contaminate` makes such sets"):
        read_listing("real_iad", root, DatasetOptions(alpha=0.1))
    train = [*views("OK/S0001"), *views("NG/HS/S0004", "HS", masked=(1,))]
    write(root / "realiad_jsons" / "realiad_jsons_fuiad_0.1" / "mint.json", train, views("OK/S0003"))
    listing = read_listing("real_iad", root, DatasetOptions(alpha=0.1))
    assert sum(listing.table["label"].to_pylist()) == 1
    assert listing.about["options"] == {"alpha": 0.1}
    with pytest.raises(DataError, match="holds no realiad_jsons_fuiad_0.2 .*; those of alpha 0.1 are there"):
        read_listing("real_iad", root, DatasetOptions(alpha=0.2))


@pytest.mark.parametrize("mask", [None, "None", ""])
def test_every_spelling_of_no_mask_is_none(mask: str | None, tmp_path: Path) -> None:
    write(tmp_path / "realiad_jsons" / "mint.json", [entry("OK/S0001/a_C1_1.jpg", mask, "HS")], [])
    (row,) = read_listing("real_iad", tmp_path, UNCHECKED).table.to_pylist()
    assert (row["label"], row["mask_path"]) == (0, None)


def test_the_normal_class_is_normal_though_a_mask_is_named(tmp_path: Path) -> None:
    write(tmp_path / "realiad_jsons" / "mint.json", [entry("OK/S0001/a_C1_1.jpg", "OK/S0001/a_C1_1.png")], [])
    (row,) = read_listing("real_iad", tmp_path, UNCHECKED).table.to_pylist()
    assert (row["label"], row["mask_path"]) == (0, None)


def test_everything_that_is_wrong_is_in_one_report(tmp_path: Path) -> None:
    train = [
        entry("OK/S0001/a_C1_1.jpg"),
        entry("../../etc/passwd"),
        entry("/etc/passwd"),
        entry("OK/S0001/a_C1_1.jpg"),
        entry("OK/S0002/b_C1_1.jpg", "../b.png", "HS"),
        entry("OK/S0003/c_C1_1.jpg", category="zipper"),
        {"image_path": "OK/S0004/d_C1_1.jpg"},
        entry("\ud800_C1_1.jpg"),
        "text",
    ]
    write(tmp_path / "realiad_jsons" / "mint.json", train, [entry("OK/S0005/e.jpg")])
    with pytest.raises(BadEntries, match="8 problems with the listed images") as caught:
        read_listing("real_iad", tmp_path, UNCHECKED)
    found = {problem.number: (problem.path, problem.what) for problem in caught.value.problems}
    assert found.keys() == {2, 3, 4, 5, 6, 7, 8, 9}
    assert found[2] == ("mint/../../etc/passwd", "leaves the root")
    assert found[3][1].startswith("is an absolute path")
    assert found[4][1] == "is listed twice (first in realiad_jsons/mint.json train 1)"
    assert found[5][1] == "leaves the root"
    assert found[6][1] == "is of category 'zipper', the file of 'mint'"
    assert (
        found[7][1]
        == found[8][1]
        == found[9][1]
        == ("not an entry with category, anomaly_class, image_path and mask_path")
    )
    kept = read_listing("real_iad", tmp_path, DatasetOptions(check_files=False, skip_bad=True))
    assert (len(kept.table), kept.about["left_out"]) == (2, 8)
    single = survey("real_iad", tmp_path, DatasetOptions(check_files=False, views="single")).problems
    assert "names no view (C1 to C5)" in {problem.what for problem in single}


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"meta": {}}', '{"meta": {"prefix": 1, "normal_class": "OK"}, "train": [], "test": []}']
)
def test_what_is_no_list_of_real_iads_is_one_problem_among_others(content: str, root: Path) -> None:
    (root / "realiad_jsons" / "realiad_jsons" / "zipper.json").write_text(content)
    with pytest.raises(BadEntries, match="1 problem with .*zipper.json: not one of Real-IAD's lists"):
        read_listing("real_iad", root)
    assert read_listing("real_iad", root, DatasetOptions(skip_bad=True)).categories == ["mint"]


def test_missing_images_and_masks_and_misfits_are_found(root: Path) -> None:
    folder = root / "realiad_1024" / "mint"
    (folder / "OK/S0001/mint_0001_C1_2023.jpg").unlink()
    (folder / "NG/HS/S0004/mint_0004_C1_2023.png").unlink()
    photo(folder / "NG/HS/S0004/mint_0004_C3_2023.png", 1, width=9)
    assert problems(root, DatasetOptions()) == {
        "realiad_1024/mint/OK/S0001/mint_0001_C1_2023.jpg": "no such image",
        "realiad_1024/mint/NG/HS/S0004/mint_0004_C1_2023.png": "no such mask",
        "realiad_1024/mint/NG/HS/S0004/mint_0004_C3_2023.png": "the mask has 9 x 6 pixels, its image 8 x 6",
    }
    kept = read_listing("real_iad", root, DatasetOptions(skip_bad=True))
    assert (len(kept.table), kept.about["left_out"]) == (17, 3)


def test_the_folder_of_the_images_is_found_or_chosen(root: Path, tmp_path: Path) -> None:
    (root / "realiad_raw").mkdir()
    with pytest.raises(DataError, match="holds realiad_1024 and realiad_raw; choose one"):
        read_listing("real_iad", root)
    assert len(read_listing("real_iad", root, DatasetOptions(images="realiad_1024")).table) == 20
    assert "no such image" in problems(root, DatasetOptions(images="realiad_raw")).values()
    (root / "realiad_raw").rmdir()
    (root / "realiad_1024").rename(root / "elsewhere")
    with pytest.raises(DataError, match="holds none of realiad_1024, realiad_512"):
        read_listing("real_iad", root)
    assert "holds no images" in read_listing("real_iad", root, UNCHECKED).about["notes"][0]


def test_only_the_categories_that_are_asked_for(root: Path) -> None:
    with pytest.raises(DataError, match="no category 'minth' is there; did you mean 'mint'?"):
        read_listing("real_iad", root, DatasetOptions(categories=("minth",)))
    with pytest.raises(DataError, match="holds no realiad_jsons with the official .json files"):
        read_listing("real_iad", root / "realiad_1024")


@pytest.mark.shared_data
def test_all_official_lists_are_one_listing() -> None:
    listing = read_listing("real_iad", shared("splits/realiad_jsons") / "splits", UNCHECKED)
    assert (len(listing.table), len(listing.categories)) == (151_050, 30)
    labels = listing.table["label"].to_pylist()
    assert (labels.count(0), labels.count(1)) == (99_721, 51_329)
    assert listing.table["mask_path"].null_count == 99_721
    assert len(set(listing.table["group"].to_pylist())) * 5 == 151_050
    single = read_listing(
        "real_iad", listing.root, DatasetOptions(check_files=False, views="single", categories=("mint", "zipper"))
    )
    assert single.categories == ["mint", "zipper"]
    assert len(set(single.table["group"].to_pylist())) == len(single.table)
