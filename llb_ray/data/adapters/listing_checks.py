"""Checks that need all entries at hand, or the disk."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.data.image_files import upright_size
from llb_ray.data.manifest import path_from_text
from llb_ray.data.unreadable_files import UnreadableImage

ResultT = TypeVar("ResultT")
Fault = tuple[int, str, str]  # row, path, what is wrong
_THREADS = 8  # they wait for the file system, not for a core
_AT_ONCE = 512  # rows a task: one task a row would cost more than the look


def repeated_rows(table: pa.Table, origin: pa.Table) -> list[Fault]:
    """Every row whose path an earlier row has."""
    if pc.count_distinct(table["path"]).as_py() == len(table):
        return []
    first, faults = dict[str, int](), list[Fault]()
    for row, path in enumerate(table["path"].to_pylist()):
        if first.setdefault(path, row) != row:
            source, number = (origin[name][first[path]].as_py() for name in ("source", "number"))
            where = " ".join(str(part) for part in (source, number) if part)
            faults.append((row, path, f"is listed twice (first in {where or 'the same folder'})"))
    return faults


def missing_or_unfit(root: Path, table: pa.Table) -> list[Fault]:
    """Every image or mask that is not there, and every mask of another size than its image."""
    pairs = list(zip(table["path"].to_pylist(), table["mask_path"].to_pylist(), strict=True))
    shared = {mask for mask, count in Counter(mask for _, mask in pairs if mask).items() if count > 1}

    def look(rows: Sequence[int]) -> list[Fault]:
        return [fault for row in rows for fault in _faults(root, row, *pairs[row], shared)]

    return [fault for faults in _in_threads(look, range(len(pairs))) for fault in faults]


def _in_threads(look: Callable[[Sequence[int]], ResultT], rows: Sequence[int]) -> Iterator[ResultT]:
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(look, [rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE)])


def _faults(root: Path, row: int, path: str, mask: str | None, shared: set[str]) -> Iterator[Fault]:
    image_file = root / path_from_text(path)
    if not image_file.is_file():
        yield row, path, "no such image"
    if mask is None:
        return
    mask_file = root / path_from_text(mask)
    if mask in shared:
        yield row, mask, "is the mask of more than one image"
    elif not mask_file.is_file():
        yield row, mask, "no such mask"
    elif image_file.is_file() and (what := _misfit(image_file, mask_file)):
        yield row, mask, what


def _misfit(image_file: Path, mask_file: Path) -> str:
    try:
        size = upright_size(image_file)
    except UnreadableImage:
        return ""  # it will be quarantined, and its mask with it
    try:
        mask_size = upright_size(mask_file)
    except UnreadableImage as error:
        return f"not a usable mask ({error.reason})"
    if mask_size == size:
        return ""
    return "the mask has {} x {} pixels, its image {} x {}".format(*mask_size, *size)
