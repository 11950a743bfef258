"""Published layouts, and what lies among photographs: masks, maps, notes and clutter are no photographs anywhere."""

import logging
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llb_ray.config import DataConfig, DatasetOptions
from llb_ray.data.adapters import read_listing
from llb_ray.data.folder import read_folder
from llb_ray.data.predict_inputs import Inputs
from llb_ray.errors import DataError

Save = Callable[[Path, str], None]


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=60) if path.suffix.lower() in (".jpg", ".jpeg") else image.save(path)


def photo(root: Path, name: str) -> None:
    """A photograph of its own, by its name."""
    seed = zlib.crc32(name.encode())
    _save(Image.fromarray(np.random.default_rng(seed).integers(20, 230, (16, 20), np.uint8)), root / name)


def mask(root: Path, name: str, value: int = 255) -> None:
    array = np.zeros((16, 20), np.uint8)
    array[4:9, 5 : 6 + len(name) % 10] = value
    _save(Image.fromarray(array), root / name)


def empty(root: Path, name: str) -> None:
    _save(Image.fromarray(np.zeros((16, 20), np.uint8)), root / name)


def depth(root: Path, name: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(1).normal(size=(16, 20)).astype(np.float32)).save(path)


def text(root: Path, name: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("{}")


def made(root: Path, *entries: tuple[Save, Iterable[str]]) -> Path:
    for save, names in entries:
        for name in names:
            save(root, name)
    return root


def some(pattern: str, count: int = 3) -> list[str]:
    return [pattern.format(number) for number in range(count)]


PLAIN = {
    "anomalib folder": [(photo, some("normal/{}.png") + some("bad/{}.png")), (mask, some("mask/bad/{}.png"))],
    "magnetic tile": [(photo, some("Imgs/e_{}.jpg")), (mask, some("Imgs/e_{}.png"))],
    "magnetic tile, free": [(photo, some("Imgs/e_{}.jpg")), (empty, some("Imgs/e_{}.png"))],
    "ksdd2": [(photo, some("2{}.png")), (empty, ["20_GT.png"]), (mask, ["21_GT.png", "22_GT.png"])],
    "ksdd": [(photo, some("kos01/Part{}.jpg")), (mask, some("kos01/Part{}_label.bmp"))],
    "dagm": [(photo, some("C/Tra/057{}.PNG")), (mask, some("C/Tra/Label/057{}_label.PNG"))],
    "visa, raw": [(photo, some("Images/Normal/{}.JPG")), (mask, some("Masks/Anomaly/{}.png"))],
    "aitex": [(photo, some("Defect_images/{}.png")), (mask, some("Mask_images/{}_mask.png"))],
    "real-iad, raw": [(photo, some("NG/S1/x_{}_C1.jpg")), (mask, some("NG/S1/x_{}_C1.png"))],
    "mvtec 3d": [(photo, some("a/rgb/{}.png")), (depth, some("a/xyz/{}.tiff")), (mask, some("a/gt/{}.png"))],
    "yolo": [(photo, some("images/{}.jpg")), (text, some("labels/{}.txt"))],
    "labelme": [(photo, some("{}.jpg")), (text, some("{}.json"))],
    "pascal": [(photo, some("{}.jpg")), (text, some("annotations/{}.xml"))],
    "names of their own": [(photo, some("img_{}.png")), (mask, some("msk_{}.png"))],
    "suffixed as jpeg": [(photo, some("{}.png")), (mask, some("{}-mask.jpg"))],
    "labels of two values": [(photo, some("a/{}.png")), (mask, some("label/x{}.png"))],
}


@pytest.mark.parametrize("layout", PLAIN)
def test_what_describes_photographs_is_no_photograph(
    layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = made(tmp_path / "set", *PLAIN[layout])
    expected = {name for save, names in PLAIN[layout] if save is photo for name in names}
    listed = read_listing("folder", root)
    assert set(listed.table["path"].to_pylist()) == expected
    assert all("describe other images" in note for note in listed.about["notes"])
    assert len(listed.about["notes"]) == (2 if layout == "mvtec 3d" else 1)
    manifest = read_folder(root, DataConfig())
    assert set(manifest.table["path"].to_pylist()) == expected
    assert not manifest.quarantine.num_rows
    caplog.clear()
    assert {file.path for file in Inputs.of(root).read()} == expected
    assert "describe other images" in caplog.text


PHOTOGRAPHS = {
    "face masks": some("with_mask/{}.png") + some("without_mask/{}.png"),
    "photographs of labels": some("label/{}.png") + some("bottle/x{}.png"),
    "a view of the label": some("bottle{}.png") + some("bottle{}_label.png"),
    "two cameras, two suffixes": some("{}.png") + some("{}.jpg"),
    "two kinds of name": some("top_{}.png") + some("side_{}.png"),
    "types": some("crack/{}.png") + some("hole/{}.png"),
}


@pytest.mark.parametrize("names", PHOTOGRAPHS.values(), ids=PHOTOGRAPHS)
def test_photographs_that_may_be_taken_for_masks_are_photographs(names: list[str], tmp_path: Path) -> None:
    made(tmp_path, (photo, names))
    listed = read_listing("folder", tmp_path)
    assert set(listed.table["path"].to_pylist()) == set(names)
    assert listed.about["notes"] == []


@pytest.mark.parametrize("save", [mask, empty], ids=["two values", "one value"])
def test_a_set_that_is_all_of_two_values_is_a_set_of_images(save: Save, tmp_path: Path) -> None:
    names = some("a_{}.png") + some("b_{}.png")
    made(tmp_path, (save, names))
    assert len(read_listing("folder", tmp_path).table) == 6


TREES = {
    "btad": ("train/ok", "test/ok", "test/ko", "ground_truth/ko/{}.png"),
    "normal": ("train/normal", "test/normal", "test/abnormal", "ground_truth/abnormal/{}_mask.png"),
    "negative": ("train/negative", "test/negative", "test/positive", "masks/positive/{}.bmp"),
    "capitals": ("Train/OK", "Test/OK", "Test/NG", "Ground_Truth/NG/{}_mask.PNG"),
    "defect-free": ("train/defect_free", "test/Defect-Free", "test/scratch", "ground_truth/scratch/{}_mask.jpg"),
    "many words": ("train/good_images", "test/good images", "test/dent", "test/ground_truth/dent/{}_mask.png"),
    "mvtec 3d": ("train/good/rgb", "test/good/rgb", "test/hole/rgb", "test/hole/gt/{}.png"),
    "no test of normals": ("train/NoDefect", "train/NoDefect", "test/crack", "mask/crack/{}.tif"),
    "masks beside": ("train/good", "test/good", "test/crack", "test/crack/{}_GT.png"),
    "masks by suffix": ("train/good", "test/good", "test/crack", "test/crack/{}.bmp"),
    "gif": ("train/pass", "test/pass", "test/fail", "ground_truth/fail/{}.gif"),
}


@pytest.mark.parametrize("layout", TREES)
def test_labels_and_masks_of_published_trees(layout: str, tmp_path: Path) -> None:
    train, good, bad, masks = TREES[layout]
    normal, anomalous = {f"{place}/{n}.png" for place in (train, good) for n in "123"}, {f"{bad}/{n}.png" for n in "78"}
    made(tmp_path, (photo, [*normal, *anomalous]), (mask, [masks.format(number) for number in "78"]))
    listing = read_listing("mvtec", tmp_path)
    rows = {row["path"]: row for row in listing.table.to_pylist()}
    assert {path: row["label"] for path, row in rows.items()} == dict.fromkeys(normal, 0) | dict.fromkeys(anomalous, 1)
    assert {row["split"] for path, row in rows.items() if path.startswith(train)} == {"train"}
    assert {rows[path]["mask_path"] for path in normal} == {None}
    assert [rows[f"{bad}/{number}.png"]["mask_path"] for number in "78"] == [masks.format(number) for number in "78"]
    manifest = read_folder(tmp_path, DataConfig())
    assert {row["path"]: row["mask_path"] for row in manifest.table.to_pylist()} == {
        path: row["mask_path"] for path, row in rows.items()
    }


@pytest.mark.parametrize(
    ("folders", "asked"),
    [
        (["train/images", "test/good", "test/bad"], "train"),
        (["train/a", "train/b", "test/a"], "train"),
        (["train/type1", "test/type1", "test/type2"], "train"),
        (["train/crack", "train/unknown", "test/good"], "train"),
        (["train", "test/a", "test/b"], "test"),
    ],
)
def test_labels_are_not_guessed_from_unknown_names(folders: list[str], asked: str, tmp_path: Path) -> None:
    made(tmp_path, *((photo, some(f"{folder}/{{}}.png")) for folder in folders))
    (tmp_path / "test").mkdir(exist_ok=True)
    names = ", ".join(sorted(folder.split("/")[1] for folder in folders if folder.startswith(f"{asked}/")))
    for read in (lambda: read_folder(tmp_path, DataConfig()), lambda: read_listing("mvtec", tmp_path)):
        with pytest.raises(DataError, match=rf"which images in {asked} are normal\? Its folders are {names}, and no"):
            read()


@pytest.mark.parametrize("folders", [["train/bad", "test/good"], ["train/ko", "train/scrap", "test/ok", "test/ko"]])
def test_training_images_none_of_which_is_normal_are_remarked_on(
    folders: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made(tmp_path, *((photo, some(f"{folder}/{{}}.png")) for folder in folders))
    (note,) = read_listing("mvtec", tmp_path).about["notes"]
    assert "all labelled training images are anomalous, none is normal" in note
    read_folder(tmp_path, DataConfig())
    assert note in caplog.text


def test_a_table_without_a_normal_training_image_is_remarked_on(tmp_path: Path) -> None:
    made(tmp_path, (photo, some("{}.png")))
    (tmp_path / "t.csv").write_text("path,label\n0.png,1\n1.png,anomalous\n2.png,\n")
    (note,) = read_listing("table", tmp_path, DatasetOptions(table=Path("t.csv"))).about["notes"]
    assert "none is normal" in note


CLUTTER = [
    ".DS_Store",
    "._0.png",
    ".hidden.png",
    "Thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "0.png~",
    ".ipynb_checkpoints/0-checkpoint.png",
    "@eaDir/0.png/SYNOFILE_THUMB_M.png",
    "__MACOSX/0.png",
    ".Trash-1000/files/0.png",
    ".thumbnails/0.png",
    "#recycle/0.png",
    "$RECYCLE.BIN/0.png",
    "System Volume Information/0.png",
    "lost+found/0.png",
]


@pytest.mark.parametrize("place", ["", "train/good/", "test/"])
def test_names_that_no_person_gave_are_skipped_and_counted(
    place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / ".hidden root is the user's own"
    names = some("train/good/{}.png") + some("test/good/1{}.png") if place else some("{}.png")
    made(root, (photo, names), (photo, [f"{place}{name}" for name in CLUTTER if name.endswith(".png")]))
    made(root, (text, [f"{place}{name}" for name in CLUTTER if not name.endswith(".png")]))
    manifest = read_folder(root, DataConfig())
    assert set(manifest.table["path"].to_pylist()) == set(names)
    assert not manifest.quarantine.num_rows
    assert f"{len(CLUTTER)} hidden or system files or folders skipped (" in caplog.text
    caplog.clear()
    assert {file.path for file in Inputs.of(root).read()} == set(names)
    assert f"{len(CLUTTER)} hidden or system files or folders skipped (" in caplog.text


def test_masks_are_found_in_any_format_and_what_is_left_over_is_named(tmp_path: Path) -> None:
    forms = ["a_mask.jpg", "b.bmp", "c_mask.tif", "d_mask.PNG", "e_GT.gif", "f.jpeg", "g.png.png", "h_mask.dat"]
    made(tmp_path, (photo, ["train/good/1.png", *(f"test/bad/{form[0]}.png" for form in forms), "test/bad/z.png"]))
    for form in forms:
        mask(tmp_path / "made", f"{form}.png")
        (tmp_path / "ground_truth/bad").mkdir(parents=True, exist_ok=True)
        suffix = Path(form).suffix.lower()
        kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".dat": "PNG"}.get(suffix, suffix[1:].upper())
        Image.open(tmp_path / "made" / f"{form}.png").save(tmp_path / "ground_truth/bad" / form, kind)
    mask(tmp_path, "ground_truth/bad/nobody_mask.png")
    mask(tmp_path, "ground_truth/other/7_mask.png")
    text(tmp_path, "ground_truth/bad/readme.txt")
    text(tmp_path, "ground_truth/bad/Thumbs.db")
    listing = read_listing("mvtec", tmp_path)
    masks = {row["path"]: row["mask_path"] for row in listing.table.to_pylist() if row["label"]}
    assert masks == {
        **{f"test/bad/{form[0]}.png": f"ground_truth/bad/{form}" for form in forms},
        "test/bad/z.png": None,
    }
    beside, odd, bare = listing.about["notes"]
    assert "the images in made are no input" in beside
    assert "3 files among the masks belong to no image (ground_truth/bad/nobody_mask.png, " in odd
    assert "ground_truth/other/7_mask.png" in odd
    assert "1 of 9 anomalous test images have no mask (test/bad/z.png)" in bare


@pytest.mark.parametrize("folder", ["validation", "test_public", "test_private", "test_private_mixed", "val"])
def test_images_beside_the_splits_are_named(folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(tmp_path, (photo, ["train/good/1.png", f"{folder}/good/0.png"]), (text, ["docs/readme.txt"]))
    (note,) = read_listing("mvtec", tmp_path).about["notes"]
    assert f"the images in {folder} are no input, only those in train" in note
    with caplog.at_level(logging.WARNING):
        read_folder(tmp_path, DataConfig())
    assert note in caplog.text


@pytest.mark.parametrize("images", ["realiad_256", "realiad_512"])
def test_real_iad_of_another_size_is_read(images: str, tmp_path: Path) -> None:
    made(tmp_path, (photo, [f"{images}/nut/OK/S1/nut_1_OK_C1_2023.jpg"]))
    (tmp_path / "realiad_jsons").mkdir()
    entry = '{"category": "nut", "anomaly_class": "OK", "image_path": "OK/S1/nut_1_OK_C1_2023.jpg", "mask_path": null}'
    head = '{"meta": {"prefix": "nut/", "normal_class": "OK"}, '
    (tmp_path / "realiad_jsons/nut.json").write_text(f'{head}"train": [{entry}], "test": []}}')
    assert Counter(read_listing("real_iad", tmp_path).table["split"].to_pylist()) == {"train": 1}
