"""Lists of images as people and programs write them: one reader, the same paths for `predict` and `manifest table`."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from llb_ray.config import DatasetOptions
from llb_ray.data.adapters import read_listing
from llb_ray.data.lists import is_list, read_list
from llb_ray.data.predict_inputs import Inputs
from llb_ray.errors import DataError
from tests.support import photo

NAMES = ["imgs/a.png", "imgs/sub dir/b.png", "imgs/größe.png", "imgs/x, y.png"]
Write = Callable[[Path], object]


def _csv(separator: str = ",", head: str = "path,lot", quote: bool = True, end: str = "\n") -> str:
    rows = [f'"{name}"{separator}007' if quote else f"{name}{separator}007" for name in NAMES]
    return end.join([head.replace(",", separator), *rows]) + end


def _parquet(paths: pa.Array, name: str = "path") -> Write:
    return lambda path: parquet.write_table(pa.table({name: paths, "lot": ["007"] * len(paths)}), path)


def _text(content: str, encoding: str = "utf-8") -> Write:
    return lambda path: path.write_bytes(content.encode(encoding))


def _folder_of_parquet(path: Path) -> None:
    path.mkdir()
    for number, names in enumerate((NAMES[:3], NAMES[3:])):
        parquet.write_table(pa.table({"path": names, "lot": ["007"] * len(names)}), path / f"part-{number}.parquet")
    (path / "_SUCCESS").touch()
    (path / ".part-0.parquet.crc").touch()


LISTS: dict[str, tuple[str, Write]] = {
    "plain": ("list.csv", _text(_csv())),
    "byte order mark": ("list.csv", _text(_csv(end="\r\n"), "utf-8-sig")),
    "UTF-16": ("list.csv", _text(_csv(), "utf-16")),
    "windows letters": ("list.csv", _text(_csv(), "cp1252")),
    "semicolons": ("list.csv", _text(_csv(";", quote=False))),
    "tabs in a CSV": ("list.csv", _text(_csv("\t", quote=False))),
    "backslashes": ("list.csv", _text(_csv().replace("/", "\\"))),
    "blanks": ("list.csv", _text(_csv(head=" path , lot").replace('"imgs', ' "imgs').replace('"', ""), "utf-8")),
    "a capital column": ("list.csv", _text(_csv(head="Path,lot"))),
    "image_path": ("list.csv", _text(_csv(head="image_path,lot"))),
    "a capital suffix": ("LIST.CSV", _text(_csv())),
    "tsv": ("list.tsv", _text(_csv("\t", quote=False))),
    "old line ends": ("list.csv", _text(_csv(end="\r"))),
    "blank lines": ("list.csv", _text(_csv().replace("\n", "\n\n"))),
    "text": ("list.txt", _text("\n".join(NAMES))),
    "text of windows": ("LIST.TXT", _text("\r\n".join(NAMES) + "\r\n", "utf-8-sig")),
    "text with comments": ("list.txt", _text("# of Monday\n" + "\n".join(NAMES) + "\n\n")),
    "parquet": ("list.parquet", _parquet(pa.array(NAMES))),
    "parquet of categories": ("list.PARQUET", _parquet(pa.array(NAMES).dictionary_encode())),
    "parquet of large strings": ("list.parquet", _parquet(pa.array(NAMES, pa.large_string()))),
    "parquet of bytes": ("list.parquet", _parquet(pa.array([name.encode() for name in NAMES]))),
    "parquet, image_path": ("list.parquet", _parquet(pa.array(NAMES), "image_path")),
    "parquet folder": ("list.parquet", _folder_of_parquet),
    "parquet folder without a suffix": ("spark", _folder_of_parquet),
    "letters decomposed": ("list.txt", _text("\n".join(NAMES).replace("ö", "o\u0308"))),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate(NAMES):
        photo(tmp_path / name, seed)
    return tmp_path


@pytest.mark.parametrize("kind", LISTS)
def test_every_form_of_a_list_names_its_images(kind: str, root: Path) -> None:
    name, write = LISTS[kind]
    if kind == "blanks":  # where nothing is quoted, no name may have a comma
        (root / NAMES[3]).rename(root / "imgs/x y.png")
        write = _text(_csv(head=" path , lot").replace("x, y", "x y").replace('"imgs', " imgs").replace('"', " "))
    expected = [name.replace("x, y", "x y") if kind == "blanks" else name for name in NAMES]
    write(root / name)
    assert is_list(root / name)
    inputs = Inputs.of(root / name)
    assert (inputs.root, inputs.num_files) == (root, 4)
    assert [file.path for file in inputs.read()] == expected
    listing = read_listing("table", root, DatasetOptions(table=Path(name)))
    assert listing.table["path"].to_pylist() == sorted(expected)
    if name.lower() != "list.txt":
        assert set(listing.table["lot"].to_pylist()) == {"007"}


REFUSED: dict[str, tuple[str, Write, str]] = {
    "no column": ("list.csv", _text("file,lot\nx.png,1\n"), "has no column 'path', only file, lot"),
    "no header": ("list.csv", _text("imgs/a.png\nimgs/b.png\n"), "has no column 'path', only imgs/a.png"),
    "pictures in a table": (
        "list.parquet",
        lambda path: parquet.write_table(pa.table({"image": [{"bytes": b"x", "path": "a.png"}], "label": [0]}), path),
        "has no column 'path', only image, label",
    ),
    "two of a name": ("list.csv", _text("path,path\na,a\n"), "two columns of one name"),
    "two that mean it": ("list.csv", _text("path,Path\na,a\n"), "two columns of one name"),
    "an unquoted comma": ("list.csv", _text("path,lot\nx, y.png,1\n"), "line 2 has 3 fields and the header 2"),
    "a short line": ("list.tsv", _text("path\tlot\nx.png\n"), "line 2 has 1 fields and the header 2"),
    "empty": ("list.csv", _text(""), "its first line has to name the columns"),
    "an open quote": ("list.csv", _text('path\n"a.png\n'), "not a CSV file"),
    "no parquet": ("list.parquet", _text("no parquet"), "not a Parquet file"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_list_is_refused_with_what_was_found(kind: str, root: Path) -> None:
    name, write, sentence = REFUSED[kind]
    write(root / name)
    for read in (
        lambda: Inputs.of(root / name),
        lambda: read_listing("table", root, DatasetOptions(table=Path(name))),
    ):
        with pytest.raises(DataError, match=sentence):
            read()


def test_a_list_of_many_rows_is_read_in_batches(root: Path) -> None:
    (root / "list.csv").write_text("path\n" + "".join(f"{number}.png\n" for number in range(40_000)))
    sizes = [len(table) for table in read_list(root / "list.csv")]
    assert sum(sizes) == 40_000
    assert max(sizes) < 20_000


@pytest.mark.parametrize(
    ("said", "label"), [("0", 0), ("OK", 0), ("negative", 0), ("1", 1), ("NG", 1), ("abnormal", 1)]
)
def test_labels_in_a_list_are_numbers_or_known_names(said: str, label: int, root: Path) -> None:
    (root / "t.csv").write_text(f"path,Label\n{NAMES[0]},{said}\n")
    assert read_listing("table", root, DatasetOptions(table=Path("t.csv"))).table["label"].to_pylist() == [label]


def test_a_name_with_a_backslash_of_its_own_is_that_file(root: Path) -> None:
    photo(root / "back\\x41.png", 9)
    (root / "list.csv").write_text("path\nback\\\\x41.png\n")
    assert [file.path for file in Inputs.of(root / "list.csv").read()] == ["back\\x41.png"]


def test_a_folder_of_images_beside_a_table_is_no_list(root: Path) -> None:
    with pytest.raises(DataError, match="no list of images but a folder"):
        read_listing("table", root, DatasetOptions(table=Path("imgs")))
    parquet.write_table(pa.table({"path": NAMES}), root / "imgs" / "t.parquet")
    assert not is_list(root / "imgs")
