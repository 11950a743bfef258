"""Files to be judged: a folder or a list, read a path at a time, in an order that stays."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from llb_ray.data.predict_inputs import Inputs
from llb_ray.errors import DataError

NAMES = ["b.png", "a/2.png", "/abs/c d.png"]


def _paths(inputs: Inputs) -> list[str]:
    return [file.path for file in inputs.read()]


def _list(folder: Path, kind: str) -> Path:
    path = folder / f"list.{kind}"
    if kind == "txt":
        path.write_text("\n".join([*NAMES[:2], "", NAMES[2]]) + "\n")
    elif kind == "csv":
        path.write_text("score,path\n" + "".join(f"1,{name}\n" for name in NAMES))
    else:
        parquet.write_table(pa.table({"score": [1, 2, 3, 4], "path": [*NAMES, None]}), path)
    return path


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
def test_a_list_names_files_in_its_own_order_and_relative_to_itself(kind: str, tmp_path: Path) -> None:
    inputs = Inputs.of(_list(tmp_path, kind))
    assert (inputs.root, inputs.num_files) == (tmp_path, 3)
    assert _paths(inputs) == NAMES
    assert _paths(inputs) == NAMES


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_list_without_paths_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"list.{kind}"
    if kind == "csv":
        path.write_text("file\nx.png\n")
    else:
        parquet.write_table(pa.table({"file": ["x.png"]}), path)
    with pytest.raises(DataError, match=r"list\.\w+: no list of images .* column named path"):
        Inputs.of(path)


def test_names_in_tables_are_spelt_as_our_tables_spell_them(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\ncaf\\xe9.png\n")
    assert _paths(Inputs.of(tmp_path / "list.csv")) == ["caf\udce9.png"]


def test_a_folder_is_walked_by_name_and_a_trees_masks_are_left_out(tmp_path: Path) -> None:
    for name in ("train/good/1.png", "test/bad/2.png", "ground_truth/bad/2_mask.png", "licence.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    inputs = Inputs.of(tmp_path)
    assert inputs.num_files == 2
    assert _paths(inputs) == ["train/good/1.png", "test/bad/2.png"]


def test_masks_are_not_judged(tmp_path: Path) -> None:
    for name in ("bad/1.png", "ground_truth/bad/1_mask.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert _paths(Inputs.of(tmp_path)) == ["bad/1.png"]


@pytest.mark.parametrize("name", ["nothing", "nothing.csv"])
def test_what_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        Inputs.of(tmp_path / name)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a few files, of which none is opened."""
    for name in ("a/1.jpg", "a/2.png", "a/deep/3.jpg", "b/4.jpg", "odd[1].jpg"):
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).touch()
    (tmp_path / "outside.jpg").touch()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


WAYS = {
    "an image": ("a/1.jpg", ["1.jpg"]),
    "an image whose name looks like a pattern": ("odd[1].jpg", ["odd[1].jpg"]),
    "a pattern": ("a/*.jpg", ["a/1.jpg"]),
    "a pattern from here": ("./*/*.jpg", ["a/1.jpg", "b/4.jpg"]),
    "a deep pattern": ("**/*.jpg", ["a/1.jpg", "a/deep/3.jpg", "b/4.jpg", "odd[1].jpg"]),
    "a folder is no match": ("a/*", ["a/1.jpg", "a/2.png"]),
    "several": (["b", "a/1.jpg", "a/d*/*", "odd[1].jpg"], ["b/4.jpg", "a/1.jpg", "a/deep/3.jpg", "odd[1].jpg"]),
    "twice": (["b", "b/4.jpg"], ["b/4.jpg", "b/4.jpg"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_files_are_named_in_many_ways(way: str, here: Path) -> None:
    named, expected = WAYS[way]
    inputs = Inputs.of(named)
    assert (inputs.num_files, _paths(inputs), _paths(inputs)) == (len(expected), expected, expected)
    assert all((inputs.root / path).exists() for path in expected)


def test_what_is_not_below_the_working_directory_keeps_its_whole_path(here: Path) -> None:
    (here.parent / "list.txt").write_text("outside.jpg\nhere/b/4.jpg\n")
    assert _paths(Inputs.of(["b", "../outside.jpg", "../list.txt"])) == [
        "b/4.jpg",
        str(here.parent / "outside.jpg"),
        str(here.parent / "outside.jpg"),
        "b/4.jpg",
    ]


def test_paths_come_on_standard_input_and_are_read_twice(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"b/4.jpg\n\n# no image\na/gone.jpg\n")))
    inputs = Inputs.of("-")
    assert (inputs.root, inputs.num_files) == (here, 2)
    assert _paths(inputs) == _paths(inputs) == ["b/4.jpg", "a/gone.jpg"]


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ("c/*.jpg", r"c/\*.jpg: matches no file; give a folder"),
        ("gone.jpg", "gone.jpg: no such file or folder; give a folder"),
        (["b", "gone.jpg"], "gone.jpg: no such file or folder; give a folder"),
        ([], "no image to predict; give a folder"),
    ],
)
def test_what_names_no_file_is_refused(named: str | list[str], sentence: str, here: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        Inputs.of(named)
