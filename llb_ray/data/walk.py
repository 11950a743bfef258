"""What lies below a folder: plain images, or an MVTec-style tree of splits, types and masks.

- A plain folder: every file below it is an unlabelled training image.
- A tree: ``train/<type>/*`` and ``test/<type>/*``, where type ``good`` is normal and any other is anomalous, with masks
  in ``ground_truth/<type>/<stem>_mask.png`` (or ``<stem>.png``).  Only files under ``train`` and ``test`` are inputs;
  the tree's licence, readme or tables are not.  ``train/<type>`` other than ``good`` is how a contaminated set with
  known truth is laid out.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar

from llb_ray.data.files import GOOD, File
from llb_ray.data.manifest import TEST, TRAIN, path_text
from llb_ray.errors import DataError

PathT = TypeVar("PathT", bound=PurePath)
MASKS, VALIDATION = "ground_truth", "validation"


def listed(root: Path) -> list[File]:
    """Every input below the root, train before test, then by path; raises DataError if the layout is not usable."""
    require_folder(root)
    return tree_files(root) if is_tree(root, os.path.isdir) else plain_files(root)


def require_folder(root: Path) -> None:
    """Raise DataError unless there is a folder."""
    if not os.path.isdir(root):
        state = "not a folder" if os.path.lexists(root) else "no such folder"
        raise DataError(f"{root}: {state}; give a folder of images")


def is_tree(folder: PathT, is_folder: Callable[[PathT], bool]) -> bool:
    """Whether a folder is laid out as a tree."""
    return is_folder(folder / TRAIN) and (is_folder(folder / TRAIN / GOOD) or is_folder(folder / TEST))


def found_below(root: Path) -> Iterator[File]:
    """Every input below the root as it is come upon, by name; holds one folder's names at a time.

    Raises DataError if the root is no folder.
    """
    require_folder(root)
    return _of_tree(root) if is_tree(root, os.path.isdir) else _of_plain(root)


def tree_files(root: Path) -> list[File]:
    """Every input of a tree."""
    return _ordered(_of_tree(root))


def plain_files(root: Path) -> list[File]:
    """Every file below a plain folder; raises DataError where that holds whole trees, or masks."""
    found = _ordered(_of_plain(root))
    refuse_masks(root, {folder for file in found for folder in PurePosixPath(file.path).parents})
    return found


def masks_of(root: Path, files: Sequence[File]) -> dict[str, str]:
    """The mask of each image that has one; a mask that a training and a test image both claim is the latter's."""
    owner = {mask: file.path for file in files if (mask := _mask(root, file)) is not None}  # test comes last
    return {path: mask for mask, path in owner.items()}


def left_alone(root: Path) -> list[str]:
    """One sentence for each part of a tree that looks like input and is none; nothing for a plain folder."""
    notes = list[str]()
    if not is_tree(root, os.path.isdir):
        return notes
    if os.path.isdir(root / VALIDATION):
        notes.append(
            f"{root / VALIDATION} is no input: MVTec LOCO sets its normal images aside for choosing thresholds; "
            "move them to train/good to train on them"
        )
    stems = [path for path in (root / MASKS).glob("*/*") if path.is_dir()]
    if stems:
        notes.append(
            f"{root / MASKS} holds {len(stems)} folders of several masks each (MVTec LOCO), which are not read; "
            "merge each into <stem>_mask.png for pixel metrics"
        )
    return notes


def _of_tree(root: Path) -> Iterator[File]:
    splits = [name for name in (TRAIN, TEST) if os.path.lexists(root / name)]
    return (_in_tree(path, problem) for path, problem in _walk(root, splits))


def _of_plain(root: Path) -> Iterator[File]:
    return (File(path, TRAIN, problem=problem) for path, problem in _walk(root, ["."]))


def _ordered(files: Iterator[File]) -> list[File]:
    return sorted(files, key=lambda file: (file.split == TEST, file.path))


def _in_tree(path: str, problem: str | None) -> File:
    split, *kind = PurePosixPath(path).parts[:-1] or (path,)
    return File(path, split, kind[0] if kind else None, problem)


def refuse_masks(root: Path, folders: Set[PurePosixPath]) -> None:
    """Raise DataError if a plain folder holds whole trees, or masks, which would be trained on as images."""
    if is_tree(root, os.path.isdir):
        return
    trees = sorted(str(folder) for folder in folders if is_tree(folder, folders.__contains__))
    if trees:
        names = ", ".join(path_text(tree) for tree in trees[:3])
        raise DataError(f"{root}: holds {len(trees)} data sets with tests of their own; point --data at one ({names})")
    masks = sorted(str(folder) for folder in folders if folder.name == MASKS)
    if masks:
        raise DataError(
            f"{root}: {path_text(masks[0])} holds masks, which would be trained on as images; "
            "put the images in train/good and test/<type> beside it, or move it away"
        )


def _walk(root: Path, starts: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """The path of every file below `starts`, in name order, and the problem of each that is none or cannot be read.

    Links to folders are followed, but no folder is entered twice: that ends every loop of links.
    """
    seen = {_identity(os.stat(root)): "."}
    pending = list(reversed(starts))
    while pending:
        path = pending.pop()
        try:
            status = os.stat(root / path)
            names = os.listdir(root / path) if stat.S_ISDIR(status.st_mode) else None
        except OSError as error:
            yield path, f"cannot be opened ({error.strerror})"
            continue
        if names is None:
            yield path, None if stat.S_ISREG(status.st_mode) else "not a regular file"
        elif (first := seen.setdefault(_identity(status), path)) != path:
            yield path, f"same folder as {path_text(first)}"
        else:
            pending += [(PurePosixPath(path) / name).as_posix() for name in sorted(names, reverse=True)]


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _mask(root: Path, file: File) -> str | None:
    if file.kind is None:
        return None
    twin = PurePosixPath(MASKS, *PurePosixPath(file.path).parts[1:])
    names = f"{twin.stem}_mask.png", f"{twin.stem}.png"
    return next((str(twin.with_name(name)) for name in names if os.path.isfile(root / twin.with_name(name))), None)
