"""Lists of images, as written by hand or by programs: read here alone, for `manifest table` and for `predict`.

A list is a text file of a path per line, a CSV or TSV, or a Parquet file or folder of such, with a column `path` (or
`image_path`); suffixes may be capitals.  Of text, a byte order mark, UTF-16, blank lines, lines of comment and blanks
round the values are understood, and of a CSV also semicolons.  Its values are kept as text: `007` is a lot, no number.
"""

import csv
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TextIO

import pyarrow as pa

from llb_ray.data.listing import LISTING
from llb_ray.data.manifest import path_from_text, path_text
from llb_ray.data.name_conventions import is_clutter
from llb_ray.data.tables import DAMAGED, validate
from llb_ray.errors import DataError

FORMS = ".txt, .csv, .tsv or .parquet"
_TABLES = {".csv": ",;\t", ".tsv": "\t"}  # what may separate their columns
_PARQUET = ".parquet", ".pq"
_PATH, _ALIAS, _CATEGORY = "path", "image_path", "category"
_ROWS = 16_384  # at once, of text
_UTF_16 = b"\xff\xfe", b"\xfe\xff"


def is_list(path: Path) -> bool:
    """True if a path is a list, by its suffix; a folder is one if it holds Parquet files and no others."""
    if os.path.isdir(path):
        parts = [name for name in os.listdir(path) if not is_clutter(name) and not name.startswith("_")]
        return bool(parts) and all(name.lower().endswith(_PARQUET) for name in parts)
    return os.path.isfile(path) and path.suffix.lower() in (".txt", *_TABLES, *_PARQUET)


def read_list(path: Path, path_alone: bool = False) -> Iterator[pa.Table]:
    """The rows of a list in batches: `path` as `path_text` writes it, and the other columns unless `path_alone`.

    Raises DataError, with what was found, for a file that is no list.
    """
    if os.path.isdir(path) and not is_list(path):
        raise DataError(f"{path}: no list of images but a folder, and not of Parquet files alone; give {FORMS}")
    try:
        if os.path.isdir(path) or path.suffix.lower() in _PARQUET:
            yield from _of_parquet(path, path_alone)
        elif path.suffix.lower() == ".txt":
            yield from _of_lines(path)
        else:
            yield from _of_csv(path, path_alone)
    except (*DAMAGED, csv.Error, UnicodeError, OSError) as error:
        form = {".csv": "CSV", ".tsv": "TSV", ".txt": "text"}.get(path.suffix.lower(), "Parquet")
        raise DataError(f"{path}: not a {form} file ({str(error).splitlines()[0]})") from error


def listed_paths(path: Path, folder: Path | None = None) -> Iterator[str]:
    """The paths in a list, one by one, as they are spelt on this machine, relative to `folder`, or else to that of the
    list."""
    folder = folder or Path(os.path.abspath(path)).parent
    for table in read_list(path, path_alone=True):
        yield from (resolve_spelling(folder, text) for text in table[_PATH].to_pylist() if text)


def listed_images(path: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """The paths in a list, as `listed_paths` gives them, each with its value in the column `category`; empty where
    there is none."""
    for table in read_list(path):
        columns = [
            table[name].cast(pa.string()).to_pylist() for name in (_PATH, _CATEGORY) if name in table.column_names
        ]
        categories = columns[1] if len(columns) > 1 else [None] * len(table)
        for text, category in zip(columns[0], categories, strict=True):
            if text:
                yield resolve_spelling(folder, text), category or ""


def resolve_spelling(root: Path, text: str) -> str:
    r"""The path below `root` that a list means by `text`; where there is no such file, one that is spelt otherwise.

    Lists come from other systems: ``a\b.png`` may mean ``a/b.png``, and letters may be in another encoding or form.
    """
    path = path_from_text(text)
    if (text.isascii() and "\\" not in text) or os.path.lexists(root / path):
        return path
    return next((other for other in _spellings(path, text) if os.path.lexists(root / other)), path)


def _spellings(path: str, text: str) -> Iterator[str]:
    slashed = text.replace("\\\\", "\\").replace("\\", "/")
    yield slashed
    with suppress(UnicodeError):
        yield os.fsencode(path).decode("cp1252")
    for spelling in (path, slashed):
        yield from (unicodedata.normalize(form, spelling) for form in ("NFC", "NFD"))


def _of_parquet(path: Path, path_alone: bool) -> Iterator[pa.Table]:
    import pyarrow.dataset as ds  # half a second, with the pandas that it looks for

    dataset = ds.dataset(path, format="parquet")
    names = dataset.schema.names
    known = _known_names(path, names)
    column = names[known.index(_PATH)]
    for batch in dataset.to_batches(columns=[column] if path_alone else names):
        table = pa.Table.from_batches([validate(batch)]).rename_columns([_PATH] if path_alone else known)
        yield table.set_column(table.column_names.index(_PATH), _PATH, _texts(table[_PATH]))


def _texts(paths: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_binary(paths.type) or pa.types.is_large_binary(paths.type):
        return pa.array([None if path is None else path_text(os.fsdecode(path)) for path in paths.to_pylist()])
    return paths.cast(pa.string()).combine_chunks()


def _of_lines(path: Path) -> Iterator[pa.Table]:
    with _opened(path) as lines:
        stripped = (line.rstrip("\r\n") for line in lines)
        named = (line for line in stripped if line.strip() and not _is_comment(path.parent, line))
        while chunk := list(islice(named, _ROWS)):
            yield pa.table({_PATH: pa.array([path_text(line) for line in chunk], pa.string())})


def _is_comment(folder: Path, line: str) -> bool:
    return line.startswith("#") and not os.path.lexists(folder / line)


def _of_csv(path: Path, path_alone: bool) -> Iterator[pa.Table]:
    with _opened(path) as lines:
        reader = csv.reader(lines, delimiter=_separator(lines, _TABLES[path.suffix.lower()]), strict=True)
        head = next(reader, [])
        if not head:
            raise DataError(f"{path}: not a CSV file (its first line has to name the columns, and is empty)")
        names = _known_names(path, [_clean(name) or "" for name in head])
        at = [names.index(_PATH)] if path_alone else range(len(names))
        rows = (row for row in reader if any(map(str.strip, row)))
        while chunk := [_row(path, reader.line_num, row, len(names)) for row in islice(rows, _ROWS)]:
            columns = {names[place]: pa.array([row[place] for row in chunk], pa.string()) for place in at}
            yield pa.table(columns)


def _opened(path: Path) -> TextIO:
    """The file as text, in the encoding that its first bytes say; bytes that are not UTF-8 are kept as surrogates."""
    with path.open("rb") as file:
        is_utf_16 = file.read(2) in _UTF_16
    return path.open(newline="", encoding="utf-16" if is_utf_16 else "utf-8-sig", errors="surrogateescape")


def read_records(lines: TextIO) -> "csv.DictReader[str]":
    """The rows of a table with a header, whatever a spreadsheet separated its columns by."""
    return csv.DictReader(lines, delimiter=_separator(lines, ",;\t"))


def _separator(lines: TextIO, among: str) -> str:
    """The character that separates the columns of a table, by its first line; nothing is read."""
    start = lines.tell()
    head = lines.readline()
    lines.seek(start)
    return max(among, key=head.count)  # the first of those that are as frequent


def _row(path: Path, line: int, row: Sequence[str], length: int) -> list[str | None]:
    if len(row) != length:
        raise DataError(
            f"{path}: not a CSV file (line {line} has {len(row)} fields and the header {length}); put quotes round "
            "values with separators in them"
        )
    return [_clean(value) for value in row]


def _clean(value: str) -> str | None:
    """The value without blanks round it, as UTF-8; None for an empty one."""
    plain = value.strip()
    return (plain if plain.isascii() else os.fsencode(plain).decode("utf-8", "backslashreplace")) or None


def _known_names(path: Path, names: Sequence[str]) -> list[str]:
    """The names of the columns, those of a listing as it spells them; raises DataError without one of the paths."""
    lower = [name.strip().lower() for name in names]
    known = [ours if ours in LISTING.names else name for name, ours in zip(names, lower, strict=True)]
    if _PATH not in known and _ALIAS in lower:
        known[lower.index(_ALIAS)] = _PATH
    if _PATH not in known:
        found = ", ".join(map(path_text, names))
        raise DataError(f"{path}: no list of images (has no column 'path', only {found}); it needs a column named path")
    twice = [name for name, count in Counter(known).items() if count > 1]
    if twice:
        raise DataError(f"{path}: has two columns of one name ({path_text(twice[0])}); rename one")
    return known
