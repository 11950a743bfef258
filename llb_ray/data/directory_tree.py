"""The files below a folder, plain or a tree (`llb_ray.data.layout`): inputs, and others, which are counted.

Of a tree, only files under ``train`` and ``test`` are inputs; its licence, readme or tables are not.  Masks are in
``ground_truth/<type>/<stem>_mask.png`` or where else `llb_ray.data.masks` looks for them.  Neither clutter
(`llb_ray.data.name_conventions`) nor files that describe others (`llb_ray.data.companions`) are inputs anywhere.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath

from llb_ray.data.candidate_files import File
from llb_ray.data.companions import MASKS as OF_MASKS
from llb_ray.data.companions import describing
from llb_ray.data.formats import is_image
from llb_ray.data.layout import (
    MASKS,
    is_tree_on_disk,
    kind_of,
    refuse_trees,
    require_known_types,
    split_folders,
    subfolders,
)
from llb_ray.data.manifest import TEST, TRAIN, path_text
from llb_ray.data.masks import Masks
from llb_ray.data.name_conventions import is_clutter, means_masks
from llb_ray.errors import DataError

_NAMED = 3
_LOOKED_INTO = 8  # files of a folder beside the splits, to know whether it holds images


@dataclass
class LeftOut:
    """Files and folders that are no inputs, counted while a folder is walked through; the first of each are named."""

    clutter: Counter[str] = field(default_factory=Counter)  # by name
    described: dict[str, int] = field(default_factory=dict)  # by what they are
    examples: dict[str, list[str]] = field(default_factory=dict)

    def notes(self, root: Path) -> Iterator[str]:
        """A sentence for each kind of thing that was left out."""
        if self.clutter:
            named = ", ".join(path_text(name) for name, _ in self.clutter.most_common(_NAMED))
            count = self.clutter.total()
            files = "files or folders" if count > 1 else "file or folder"
            yield f"{root}: {count} hidden or system {files} skipped ({named})"
        for what, count in self.described.items():
            named = ", ".join(path_text(path) for path in self.examples[what])
            number = f"{count} files or folders: " if count > 1 else ""
            yield (
                f"{root}: {what} left out ({number}{named}), for they describe other images; llb-ray manifest table "
                "can list them as images"
            )

    def add(self, path: str, what: str) -> None:
        """Count a file or folder that describes others."""
        self.described[what] = self.described.get(what, 0) + 1
        examples = self.examples.setdefault(what, [])
        if len(examples) < _NAMED:
            examples.append(path)


@dataclass(frozen=True)
class Found:
    """The inputs below a root, train before test, then by path."""

    root: Path
    files: list[File]
    left_out: LeftOut
    is_tree: bool

    def masks(self, files: Sequence[File]) -> dict[str, str]:
        """The mask of each of these files that has one."""
        return self._masks.of(files) if self.is_tree else {}

    def notes(self) -> list[str]:
        """A sentence for all that looks like input and is none."""
        return [*self.left_out.notes(self.root), *(self._of_a_tree() if self.is_tree else ())]

    def _of_a_tree(self) -> Iterator[str]:
        yield from _beside(self.root)
        several = len(self._masks.of_several())
        if several:
            yield (
                f"{self.root / MASKS} holds {several} folders of several masks each (MVTec LOCO), which are not read; "
                "merge each into <stem>_mask.png for pixel metrics"
            )
        yield from self._masks.notes(self.files)

    @cached_property
    def _masks(self) -> Masks:
        return Masks(self.root)


def list_inputs(root: Path) -> Found:
    """Every input below the root; raises DataError if the layout is not usable."""
    require_folder(root)
    return tree_files(root) if is_tree_on_disk(root) else plain_files(root)


def require_folder(root: Path) -> None:
    """Raise DataError unless there is a folder."""
    if not os.path.isdir(root):
        state = "not a folder" if os.path.lexists(root) else "no such folder"
        raise DataError(f"{root}: {state}; give a folder of images")


def tree_files(root: Path) -> Found:
    """Every input of a tree; raises DataError where the names of its folders do not say which images are normal."""
    require_known_types(root)
    left_out = LeftOut()
    return Found(root, _ordered(_of_tree(root, left_out)), left_out, is_tree=True)


def plain_files(root: Path) -> Found:
    """Every file below a plain folder; raises DataError where that holds whole trees, or masks."""
    left_out = LeftOut()
    found = _ordered(_of_plain(root, left_out))
    refuse_trees(root, {folder for file in found for folder in PurePosixPath(file.path).parents})
    _refuse_masks(root, left_out)
    return Found(root, found, left_out, is_tree=False)


def found_below(root: Path, left_out: LeftOut) -> Iterator[File]:
    """Every input below the root as it is come upon, by name; holds one folder's names at a time.

    Raises DataError if the root is no folder.
    """
    require_folder(root)
    return _of_tree(root, left_out) if is_tree_on_disk(root) else _of_plain(root, left_out)


def _refuse_masks(root: Path, left_out: LeftOut) -> None:
    """Raise DataError for the masks of a tree whose images would all be trained on, the known anomalies among them."""
    masks = [path for path in left_out.examples.get(OF_MASKS, ()) if PurePosixPath(path).name == MASKS]
    if masks:
        raise DataError(
            f"{root}: {path_text(masks[0])} holds masks, so images whose defects are known would be trained on; "
            "put the images in train/good and test/<type> beside it, or move it away"
        )


def _beside(root: Path) -> Iterator[str]:
    """A sentence that names the folders of images beside the splits."""
    names = subfolders(root)
    splits = split_folders(names)
    others = [name for name in names if name not in splits.values() and not means_masks(name)]
    images = [name for name in others if _holds_images(root / name)]
    if images:
        where = ", ".join(path_text(name) for name in images)
        yield (
            f"{root}: the images in {where} are no input, only those in {' and '.join(splits.values())}; move images "
            "to train/good or test/<type> to use them, such as MVTec LOCO's validation or MVTec AD 2's test_public"
        )


def _holds_images(folder: Path) -> bool:
    files = (Path(where) / name for where, _, names in os.walk(folder) for name in sorted(names))
    return any(is_image(file) for file in islice(files, _LOOKED_INTO))


def _of_tree(root: Path, left_out: LeftOut) -> Iterator[File]:
    splits = list(split_folders(subfolders(root)).values())
    return (_in_tree(path, problem) for path, problem in _walk(root, splits, left_out))


def _of_plain(root: Path, left_out: LeftOut) -> Iterator[File]:
    return (File(path, TRAIN, problem=problem) for path, problem in _walk(root, ["."], left_out))


def _ordered(files: Iterator[File]) -> list[File]:
    return sorted(files, key=lambda file: (file.split == TEST, file.path))


def _in_tree(path: str, problem: str | None) -> File:
    split, *kind = PurePosixPath(path).parts[:-1] or (path,)
    return File(path, split.lower(), kind_of(kind[0]) if kind else None, problem)


def _walk(root: Path, starts: Sequence[str], left_out: LeftOut) -> Iterator[tuple[str, str | None]]:
    """The path of every file below `starts`, in name order, and the problem of each that is none or cannot be read.

    Links to folders are followed, but no folder is entered twice: that ends every loop of links.
    """
    seen = {_identity(os.stat(root)): "."}
    pending = list(reversed(starts))
    while pending:
        path = pending.pop()
        try:
            status = os.stat(root / path)
            if not stat.S_ISDIR(status.st_mode):
                yield path, None if stat.S_ISREG(status.st_mode) else "not a regular file"
            elif (first := seen.setdefault(_identity(status), path)) != path:
                yield path, f"same folder as {path_text(first)}"
            else:
                names = _inputs(root, path, left_out)
                pending += [(PurePosixPath(path) / name).as_posix() for name in reversed(names)]
        except OSError as error:
            yield path, f"cannot be opened ({error.strerror})"


def _inputs(root: Path, path: str, left_out: LeftOut) -> list[str]:
    """The names in a folder that may be inputs, sorted; the others are counted."""
    names = sorted(os.listdir(root / path))
    clutter = [name for name in names if is_clutter(name)]
    left_out.clutter.update(clutter)
    names = [name for name in names if not is_clutter(name)]
    described = describing(root / path, names)
    for name, what in described.items():
        left_out.add((PurePosixPath(path) / name).as_posix(), what)
    return [name for name in names if name not in described]


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
