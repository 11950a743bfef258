"""VisA's CSV, tables of one's own, and arrays."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from llb_ray.config import DataConfig, DatasetOptions
from llb_ray.data.adapters import read_listing
from llb_ray.data.listing_problems import BadEntries
from llb_ray.data.listing_to_manifest import identify
from llb_ray.errors import ConfigError, DataError
from tests.support import photo, shared

VISA = """object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/0836.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png
pcb1,test,normal,pcb1/Data/Images/Normal/0001.JPG,
"""


def rows(kind: str, root: Path, **options: Any) -> list[dict[str, Any]]:
    return read_listing(kind, root, DatasetOptions(**options)).table.to_pylist()


def faults(kind: str, root: Path, **options: Any) -> dict[int | None, str]:
    with pytest.raises(BadEntries) as caught:
        rows(kind, root, **options)
    return {problem.number: problem.what for problem in caught.value.problems}


def csv(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_visas_csv(tmp_path: Path) -> None:
    csv(tmp_path / "split_csv" / "1cls.csv", VISA)
    for number, name in enumerate(line.split(",")[3] for line in VISA.splitlines()[1:]):
        photo(tmp_path / name, number)
    photo(tmp_path / "candle/Data/Masks/Anomaly/000.png")
    found = rows("visa", tmp_path)
    assert [(row["category"], row["split"], row["label"]) for row in found] == [
        ("candle", "test", 1),
        ("candle", "train", 0),
        ("pcb1", "test", 0),
    ]
    assert found[0]["mask_path"] == "candle/Data/Masks/Anomaly/000.png"
    assert [row["category"] for row in rows("visa", tmp_path, categories=("pcb1",))] == ["pcb1"]
    photo(tmp_path / "candle/Data/Masks/Anomaly/000.png", width=7)
    assert faults("visa", tmp_path) == {3: "the mask has 7 x 6 pixels, its image 8 x 6"}


def test_visas_csv_with_faults(tmp_path: Path) -> None:
    more = "candle,test,ok,a.JPG,\ncandle,val,normal,b.JPG,\ncandle,test,normal,../c.JPG,\ncandle,test,normal,,\n"
    csv(tmp_path / "own.csv", VISA + more)
    found = faults("visa", tmp_path, table="own.csv", check_files=False)
    assert found == {
        5: "unknown label 'ok'; VisA's are normal and anomaly",
        6: "unknown split 'val'; use train or test",
        7: "leaves the root",
        8: "is no name that a file can have",
    }
    with pytest.raises(DataError, match=r"split_csv/1cls.csv: cannot be read .No such file"):
        rows("visa", tmp_path)
    csv(tmp_path / "own.csv", "object,split\n")
    with pytest.raises(DataError, match="has no column 'label'"):
        rows("visa", tmp_path, table="own.csv")


@pytest.mark.shared_data
def test_the_official_csv_of_visa(tmp_path: Path) -> None:
    (tmp_path / "split_csv").mkdir()
    shutil.copy(shared("splits/visa_split_csv") / "splits/visa_split_csv/1cls.csv", tmp_path / "split_csv")
    listing = read_listing("visa", tmp_path, DatasetOptions(check_files=False))
    assert (len(listing.table), len(listing.categories)) == (10_821, 12)
    assert (
        sum(listing.table["label"].to_pylist()) == 1_200 == len(listing.table) - listing.table["mask_path"].null_count
    )


def test_a_table_needs_only_paths_and_keeps_its_own_columns(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    text = "path,lot,label,split,group,mask_path\n./a.png,007,good,,,\nsub//b.png,8,ANOMALY,test,g,m.png\nc.png,,,,,\n"
    csv(root / "lots.csv", text)
    for number, name in enumerate(("a.png", "sub/b.png", "c.png", "m.png")):
        photo(root / name, number)
    found = {row["path"]: row for row in rows("table", root, table="lots.csv")}
    assert {path: (row["lot"], row["label"], row["split"], row["group"]) for path, row in found.items()} == {
        "a.png": ("007", 0, "train", None),
        "sub/b.png": ("8", 1, "test", "g"),
        "c.png": (None, None, "train", None),
    }
    assert found["sub/b.png"]["mask_path"] == "m.png"
    assert {row["category"] for row in found.values()} == {"photos"}
    csv(root / "bare.csv", "path\na.png\n")
    assert len(rows("table", root, table="bare.csv")) == 1


def test_a_parquet_table_keeps_its_types_and_ids_are_checked(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    table = {"path": ["a.png"], "label": [1], "weight": [0.5], "category": ["nut"], "image_id": ["f" * 32]}
    parquet.write_table(pa.table(table), tmp_path / "t.parquet")
    listing = read_listing("table", tmp_path, DatasetOptions(table="t.parquet", categories=("nut",)))
    (row,) = listing.table.to_pylist()
    assert (row["label"], row["weight"], row["category"]) == (1, 0.5, "nut")
    with pytest.raises(DataError, match="not the image f+ that was listed"):
        identify(listing, DataConfig())


def test_everything_wrong_with_a_table_is_in_one_report(tmp_path: Path) -> None:
    lines = "a.png,1,train|/abs.png,0,train|a.png,0,train|../x.png,0,train|b.png,maybe,train|c.png,0,val|,0,train"
    csv(tmp_path / "t.csv", "path,label,split\n" + lines.replace("|", "\n") + "\n")
    photo(tmp_path / "a.png")
    assert faults("table", tmp_path, table="t.csv") == {
        2: "is an absolute path; it has to be relative to the root",
        3: "is listed twice (first in t.csv 1)",
        4: "leaves the root",
        5: "unknown label 'maybe'; use 0 or good, ok, normal, negative, pass, defect_free, 1 or anomalous, bad, "
        "or nothing",
        6: "unknown split 'val'; use train or test",
        7: "is no name that a file can have",
    }
    assert [row["path"] for row in rows("table", tmp_path, table="t.csv", skip_bad=True)] == ["a.png"]


def test_a_mask_of_two_images_is_a_problem(tmp_path: Path) -> None:
    for number, name in enumerate(("a.png", "b.png", "m.png")):
        photo(tmp_path / name, number)
    csv(tmp_path / "t.csv", "path,mask_path\na.png,m.png\nb.png,m.png\n")
    assert set(faults("table", tmp_path, table="t.csv").values()) == {"is the mask of more than one image"}


def test_a_turned_photograph_has_the_size_that_is_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg", exif=exif)
    csv(tmp_path / "t.csv", "path,mask_path\na.jpg,m.png\n")
    photo(tmp_path / "m.png", width=6, height=8)
    assert len(rows("table", tmp_path, table="t.csv")) == 1
    photo(tmp_path / "m.png", width=8, height=6)
    assert faults("table", tmp_path, table="t.csv") == {1: "the mask has 8 x 6 pixels, its image 6 x 8"}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t.csv", b"path,a,a\nx,1,2\n", "two columns of one name"),
        ("t.csv", b"path,a\nx\n", "not a CSV file"),
        ("t.csv", b"", "not a CSV file"),
        ("t.parquet", b"no parquet", "not a Parquet file"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        rows("table", tmp_path, table=name)


def test_a_table_has_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kind table needs table"):
        rows("table", tmp_path)


def arrays(path: Path, shape: tuple[int, ...] = (8, 6), classes: Any = (0, 1, 1)) -> Path:
    image = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    np.savez(path, x_train=image, y_train=np.array(classes), x_test=image[:1] // 2, y_test=np.array(classes[:1]))
    return path


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 1), (8, 6, 3)])
def test_arrays_become_pictures_once(shape: tuple[int, ...], tmp_path: Path) -> None:
    file, out = arrays(tmp_path / "tiny.npz", shape), tmp_path / "images"
    listing = read_listing("arrays", file, DatasetOptions(write_to=out))
    assert listing.root == out
    found = {row["path"]: row for row in listing.table.to_pylist()}
    assert set(found) == {"train/0/000000.png", "train/1/000001.png", "train/1/000002.png", "test/0/000000.png"}
    row = found["train/1/000002.png"]
    assert (row["category"], row["split"], row["label"], row["pattern"]) == ("tiny", "train", None, "1")
    with np.load(file) as said, Image.open(out / "train/1/000002.png") as picture:
        assert np.array_equal(np.asarray(picture), said["x_train"][2].squeeze())
    before = (out / "train/0/000000.png").stat().st_mtime_ns
    assert read_listing("arrays", file, DatasetOptions(write_to=out)) == listing
    assert (out / "train/0/000000.png").stat().st_mtime_ns == before


def test_an_unfinished_folder_is_gone_on_with_and_a_foreign_one_left_alone(tmp_path: Path) -> None:
    file, out = arrays(tmp_path / "tiny.npz"), tmp_path / "images"
    read_listing("arrays", file, DatasetOptions(write_to=out))
    (out / "arrays.json").unlink()
    (out / "train/0/000000.png").write_bytes(b"cut")
    assert len(identify(read_listing("arrays", file, DatasetOptions(write_to=out)), DataConfig()).table) == 4
    other = arrays(tmp_path / "other.npz", (4, 4))
    for folder in (out, photo(tmp_path / "mine" / "a.png").parent):
        with pytest.raises(DataError, match="holds files of another kind"):
            read_listing("arrays", other, DatasetOptions(write_to=folder))


def test_arrays_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kind arrays needs write_to"):
        rows("arrays", tmp_path / "a.npz")
    path = tmp_path / "a.npz"
    with pytest.raises(DataError, match="cannot be read"):
        rows("arrays", path, write_to=tmp_path / "o")
    path.write_bytes(b"no zip")
    with pytest.raises(DataError, match="not an .npz file of x_train"):
        rows("arrays", path, write_to=tmp_path / "o")
    image, names = np.zeros((2, 4, 4)), np.array([0, 1])
    np.savez(path, x_train=image, y_train=names, x_test=image, y_test=names)
    with pytest.raises(DataError, match="x_train is float64 .2, 4, 4.; it has to be uint8"):
        rows("arrays", path, write_to=tmp_path / "o")
    np.savez(path, x_train=image.astype(np.uint8), y_train=names[:1], x_test=image, y_test=names)
    with pytest.raises(DataError, match="y_train is int64 .1.; it has to name N classes"):
        rows("arrays", path, write_to=tmp_path / "o")
    np.savez(path, x_train=image.astype(np.uint8), y_train=np.array(["a", "../../b"]), x_test=image, y_test=names)
    with pytest.raises(DataError, match="class '../../b' in y_train cannot be the name of a folder"):
        rows("arrays", path, write_to=tmp_path / "o")
    assert not (tmp_path / "o").exists()
