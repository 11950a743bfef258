"""Labels of COCO, labelme and CVAT as masks for evaluation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import llb_ray
from llb_ray.cli import main
from llb_ray.config import DatasetOptions
from llb_ray.data.adapters import read_listing
from llb_ray.data.adapters.labelled import MASKS
from llb_ray.data.label_shapes import coco_counts, mask_of, polygon
from llb_ray.errors import DataError
from tests.support import photo

KINDS = ["coco", "labelme", "cvat"]
SIZE = (40, 30)  # width, height
BOX = [[10, 5], [20, 5], [20, 15], [10, 15]]  # 100 pixels


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images for training, and two that are labelled below."""
    root = tmp_path / "parts"
    for number, name in enumerate(("train-0.png", "train-1.png", "lot/bad.png", "lot/good.png")):
        photo(root / name, number)
        Image.open(root / name).resize(SIZE).save(root / name)
    return root


def _coco(**changed: Any) -> dict[str, Any]:
    images = [{"id": 7, "file_name": "lot/bad.png"}, {"id": 9, "file_name": "lot/good.png"}]
    annotation = {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [[value for xy in BOX for value in xy]]}
    return {
        "images": [image | {"width": 40, "height": 30} for image in images],
        "categories": [{"id": 3, "name": "hole"}, {"id": 4, "name": "ok"}],
        "annotations": [annotation | changed],
    }


def _labelme(**changed: Any) -> dict[str, Any]:
    shape = {"label": "hole", "points": BOX, "shape_type": "polygon"} | changed
    return {"imagePath": "..\\elsewhere\\bad.png", "imageWidth": 40, "imageHeight": 30, "shapes": [shape]}


def _cvat(shape: str | None = None, name: str = "lot/bad.png") -> str:
    shape = shape or f'<polygon label="hole" points="{";".join(f"{x},{y}" for x, y in BOX)}" occluded="0" />'
    return (
        f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>'
        f'<image id="0" name="{name}" width="40" height="30">{shape}</image>'
        '<image id="1" name="lot/good.png" width="40" height="30"></image></annotations>'
    )


def _write(kind: str, root: Path, said: Any = None) -> DatasetOptions:
    """The label file of this kind, and the options that name it."""
    if kind == "labelme":
        (root / "lot" / "bad.json").write_text(json.dumps(said or _labelme()))
        empty = {"imagePath": "good.png", "imageWidth": 40, "imageHeight": 30, "shapes": []}
        (root / "lot" / "good.json").write_text(json.dumps(empty))
        return DatasetOptions()
    path = root.parent / f"labels.{'xml' if kind == 'cvat' else 'json'}"
    said = said or (_cvat() if kind == "cvat" else _coco())
    path.write_text(said if isinstance(said, str) else json.dumps(said))
    return DatasetOptions(table=path)


def _rows(kind: str, root: Path, said: Any = None) -> dict[str, dict[str, Any]]:
    table = read_listing(kind, root, _write(kind, root, said)).table
    return {row["path"]: row for row in table.to_pylist()}


def _mask(root: Path, row: dict[str, Any]) -> Any:
    return np.array(Image.open(root / row["mask_path"]))


@pytest.mark.parametrize("kind", KINDS)
def test_labelled_images_are_tests_and_the_others_for_training(kind: str, images: Path) -> None:
    rows = _rows(kind, images)
    assert sorted(rows) == ["lot/bad.png", "lot/good.png", "train-0.png", "train-1.png"]
    bad, good = rows["lot/bad.png"], rows["lot/good.png"]
    assert (bad["split"], bad["label"], bad["defect_type"]) == ("test", 1, "hole")
    assert (good["split"], good["label"], good["mask_path"]) == ("test", 0, None)
    assert {(rows[name]["split"], rows[name]["label"]) for name in ("train-0.png", "train-1.png")} == {("train", None)}
    mask_HW = _mask(images, bad)
    assert mask_HW.shape == (30, 40)
    assert mask_HW[5:15, 10:20].all()
    assert mask_HW.sum() == 100
    assert set(_rows(kind, images)) == set(rows)  # masks are no images, a second time


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("coco", _coco(segmentation=[], bbox=[10, 5, 10, 10])),
        ("coco", _coco(segmentation={"size": [30, 40], "counts": [305, *[10, 20] * 9, 10, 615]})),
        ("labelme", _labelme(points=[[20, 15], [10, 5]], shape_type="rectangle")),
        ("cvat", _cvat('<box label="hole" xtl="10" ytl="5" xbr="20" ybr="15" />')),
        ("cvat", _cvat('<mask label="hole" rle="0, 100" left="10" top="5" width="10" height="10" />')),
    ],
)
def test_shapes_of_other_kinds_make_the_same_mask(kind: str, said: Any, images: Path) -> None:
    mask_HW = _mask(images, _rows(kind, images, said)["lot/bad.png"])
    assert mask_HW[5:15, 10:20].all()
    assert mask_HW.sum() == 100


@pytest.mark.parametrize(
    ("points", "inside"),
    [
        ([[10, 5], [12, 5], [12, 30], [10, 30]], np.s_[5:30, 10:12]),  # as narrow as a crack, to the edge
        ([[-5, -5], [3, -5], [3, 2], [-5, 2]], np.s_[0:2, 0:3]),
        ([[10.3, 5.3], [13.3, 5.3], [13.3, 8.3], [10.3, 8.3]], np.s_[5:8, 10:13]),  # by the centres of pixels
        ([[10.7, 5.7], [10.9, 5.7], [10.9, 5.9]], np.s_[5:6, 10:11]),  # no centre is inside: it is not lost
    ],
)
def test_a_polygon_has_the_pixels_whose_centres_are_inside(points: Any, inside: Any) -> None:
    expected_HW = np.zeros((30, 40), bool)
    expected_HW[inside] = True
    assert np.array_equal(mask_of([polygon(points)], 40, 30), expected_HW)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("labelme", _labelme(points=[[20, 15], [25, 15]], shape_type="circle")),
        ("cvat", _cvat('<ellipse label="hole" cx="20" cy="15" rx="5" ry="5" />')),
    ],
)
def test_round_shapes_are_round(kind: str, said: Any, images: Path) -> None:
    mask_HW = _mask(images, _rows(kind, images, said)["lot/bad.png"])
    assert mask_HW.sum() == pytest.approx(np.pi * 25, rel=0.1)
    assert not mask_HW[10, 15]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("coco", _coco(category_id=4)),
        ("labelme", _labelme(label="OK")),
        ("cvat", _cvat('<box label="good" xtl="1" ytl="1" xbr="5" ybr="5" />')),
    ],
)
def test_a_shape_that_means_normal_is_no_defect(kind: str, said: Any, images: Path) -> None:
    row = _rows(kind, images, said)["lot/bad.png"]
    assert (row["label"], row["mask_path"]) == (0, None)


def test_a_tag_of_cvat_labels_an_image_without_a_mask(images: Path) -> None:
    row = _rows("cvat", images, _cvat('<tag label="dent" />'))["lot/bad.png"]
    assert (row["label"], row["defect_type"], row["mask_path"]) == (1, "dent", None)


def test_compressed_runs_are_those_of_cocos_own_code() -> None:
    assert coco_counts("94") == [9, 4]  # pycocotools: frString of short runs
    assert coco_counts("o7:") == [255, 10]
    # From the fourth on, differences from the one before the last.
    assert coco_counts("5560") == [5, 5, 6, 5]
    assert coco_counts("a9:d0000cb0") == [305, 10, 20, 10, 20, 10, 615]


@pytest.mark.parametrize(
    ("kind", "said", "sentence"),
    [
        ("coco", "[]", "not a COCO file"),
        ("coco", "[" * 100_000, "not a COCO file"),
        ("coco", json.dumps(_coco(image_id=1)), "not a COCO file"),
        ("labelme", {"version": "5"}, "not a labelme file"),
        ("cvat", "<annotations", "not a file of CVAT"),
        ("cvat", "<svg></svg>", "its root is <svg>"),
        ("cvat", '<!DOCTYPE a [<!ENTITY b "bb">]><annotations>&b;</annotations>', "declares a document type"),
        ("cvat", '<!doctype a SYSTEM "file:///etc/passwd"><annotations></annotations>', "declares a document type"),
    ],
)
def test_a_file_of_another_form_is_refused(kind: str, said: Any, sentence: str, images: Path) -> None:
    with pytest.raises(DataError, match=sentence) as raised:
        _rows(kind, images, said)
    assert len(str(raised.value).splitlines()) == 1
    assert not (images / MASKS).exists()


@pytest.mark.parametrize(
    ("kind", "said", "what"),
    [
        ("coco", _coco(segmentation=[[1, 2, 3]]), "not COCO annotations"),
        ("coco", _coco(segmentation=[[1, 2, 3, float("nan"), 5, 6]]), "no corners that an image can have"),
        ("coco", _coco(segmentation={"size": [30, 40], "counts": [5]}), "run lengths do not fit"),
        ("coco", _coco(segmentation={"size": [10**6, 10**6], "counts": [0, 10**12]}), "run lengths do not fit"),
        ("coco", _coco(segmentation={"size": [30, 40], "counts": "\u20ac"}), "run lengths are not in COCO's form"),
        ("labelme", _labelme(shape_type="line"), "a shape is a line; draw polygons"),
        ("labelme", _labelme() | {"imageWidth": 80}, "the labels are for 80 x 30 pixels, the image has 40 x 30"),
        ("labelme", _labelme(points=[[500, 500], [600, 500], [600, 600]]), "no shape covers a pixel"),
        ("cvat", _cvat('<polyline label="hole" points="1,1;2,2" />'), "a shape is a polyline"),
        ("cvat", _cvat('<mask label="x" rle="0,4" left="39" top="0" width="2" height="2" />'), "do not fit the image"),
        ("cvat", _cvat(name="../secret.png"), "no such image"),
    ],
)
def test_labels_that_do_not_fit_are_named(kind: str, said: Any, what: str, images: Path) -> None:
    options = _write(kind, images, said)
    with pytest.raises(DataError, match=what):
        read_listing(kind, images, options)
    listing = read_listing(kind, images, options.model_copy(update={"skip_bad": True}))
    assert "lot/good.png" in listing.table["path"].to_pylist()


def test_masks_are_not_written_through_a_link(images: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (images / MASKS).symlink_to(tmp_path / "outside")
    with pytest.raises(llb_ray.LlbError, match="is a link that leads out of"):
        _rows("coco", images)
    assert not list((tmp_path / "outside").iterdir())


def test_labels_for_other_images_are_refused(images: Path) -> None:
    (images / "lot" / "bad.png").unlink()
    (images / "lot" / "good.png").unlink()
    with pytest.raises(DataError, match=r"no labelled image is there \(the first is lot/bad.png\)"):
        _rows("coco", images)


def test_the_command_lists_them(images: Path, tmp_path: Path) -> None:
    options = _write("cvat", images)
    words = ["manifest", "cvat", images, "--table", options.table, "--out", tmp_path / "parts.arrow"]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    manifest = llb_ray.read_manifest(tmp_path / "parts.arrow")
    assert manifest.split("test")["label"].to_pylist().count(1) == 1
    result = CliRunner().invoke(main, ["manifest", "coco", str(images), "--out", str(tmp_path / "x.arrow")])
    assert "kind coco needs table, the COCO file" in result.stderr
