"""Files to be judged, a path at a time: however many there are, no list of them is held but that of a pattern.

A list (`llb_ray.data.lists`) may have other columns than `path`, which are ignored; so what `predict` wrote is a list
again.  Relative paths are relative to the folder of the list, or on standard input to the working directory.
"""

import glob
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path, PurePosixPath

from llb_ray.data.candidate_files import File
from llb_ray.data.directory_tree import LeftOut, found_below
from llb_ray.data.layout import refuse_trees
from llb_ray.data.lists import FORMS, is_list, listed_images, listed_paths
from llb_ray.data.manifest import TEST
from llb_ray.errors import DataError

TAKEN = (
    f"a folder of images, a list of them ({FORMS}), an image, a pattern (new/*.jpg), or - for paths on standard input"
)
STANDARD_INPUT = "-"
Named = str | PathLike[str]
Data = Named | Iterable[Named]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """Files below `root`, in the same order at every reading; none of them has been opened."""

    root: Path
    num_files: int
    read: Callable[[], Iterator[File]]

    @classmethod
    def of(cls, data: Data, with_categories: bool = False) -> "Inputs":
        """The files that are named in one of the ways of `TAKEN`, or in several, one after the other.

        `with_categories` reads those that a list has in its column `category`.

        They are read once to be counted.  Paths of several are relative to the working directory, or absolute where
        they are not below it.  Raises DataError for what is none of these, and for a folder of several data sets.
        """
        parts = [_named(os.fspath(name), with_categories) for name in names(data)]
        return parts[0] if len(parts) == 1 else _joined(parts)


def names(data: Data) -> list[Named]:
    """The names one by one; raises DataError where there is none."""
    found = [data] if isinstance(data, str | PathLike) else list(data)
    if not found:
        raise DataError(f"no image to predict; give {TAKEN}")
    return found


def _named(name: str, with_categories: bool) -> Inputs:
    path = Path(name)
    if name == STANDARD_INPUT:
        return _piped()
    if is_list(path) and with_categories:
        return _categorised(path)
    if is_list(path):
        return _counted(Path(os.path.abspath(path)).parent, lambda: listed_paths(path))
    if path.is_dir():
        return _below(path)
    if os.path.lexists(path):  # whether it is an image is found out when it is read
        return Inputs(Path(os.path.abspath(path.parent)), 1, lambda: iter([File(path.name, TEST)]))
    if glob.has_magic(name):
        return _matching(name)
    raise DataError(f"{name}: no such file or folder; give {TAKEN}")


def _categorised(path: Path) -> Inputs:
    root = Path(os.path.abspath(path)).parent

    def read() -> Iterator[File]:
        return (File(image, TEST, category=category) for image, category in listed_images(path, root))

    return Inputs(root, sum(1 for _ in read()), read)


def _counted(root: Path, paths: Callable[[], Iterator[str]]) -> Inputs:
    return Inputs(root, sum(1 for _ in paths()), lambda: (File(path, TEST) for path in paths()))


def _piped() -> Inputs:
    """The paths on standard input, a line each; kept in a temporary file, for they are read twice."""
    spool = tempfile.NamedTemporaryFile(suffix=".txt")  # noqa: SIM115 - removed with the last reference
    shutil.copyfileobj(sys.stdin.buffer, spool)
    spool.flush()
    return _counted(Path.cwd(), lambda: listed_paths(Path(spool.name), Path.cwd()))


def _below(folder: Path) -> Inputs:
    root, count, folders = Path(os.path.abspath(folder)), 0, set[PurePosixPath]()
    left_out = LeftOut()
    for file in found_below(root, left_out):
        count += 1
        folders.update(PurePosixPath(file.path).parents)
    refuse_trees(root, folders)
    for note in left_out.notes(root):
        _log.warning(note)
    return Inputs(root, count, lambda: found_below(root, LeftOut()))


def _matching(pattern: str) -> Inputs:
    """The files that a pattern matches, by name; ``**`` is any number of folders."""
    found = sorted(os.path.normpath(path) for path in glob.iglob(pattern, recursive=True) if os.path.isfile(path))
    if not found:
        raise DataError(f"{pattern}: matches no file; give {TAKEN}")
    return Inputs(Path.cwd(), len(found), lambda: (File(path, TEST) for path in found))


def _joined(parts: Sequence[Inputs]) -> Inputs:
    here = Path.cwd()

    def read() -> Iterator[File]:
        for part in parts:
            yield from (replace(file, path=_from_here(here, part.root / file.path)) for file in part.read())

    return Inputs(here, sum(part.num_files for part in parts), read)


def _from_here(here: Path, path: Path) -> str:
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()
