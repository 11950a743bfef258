"""Layouts of a folder of images: plain, or a tree of splits and types.

- A plain folder: every file below it is an unlabelled training image.
- A tree: ``train/<type>/*`` and ``test/<type>/*``, in any case.  A type whose name is known to mean normal (`good`,
  `ok`, `normal`: `data.name_conventions`) is normal, and the others beside such a one are anomalous.  Where no name
  means normal nothing is guessed: the folder is refused.
"""

import os
from collections.abc import Callable, Collection, Iterable, Sequence, Set
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar

from llb_ray.data.candidate_files import GOOD
from llb_ray.data.manifest import TEST, TRAIN, path_text
from llb_ray.data.name_conventions import NORMAL_EXAMPLES, is_clutter, means_anomalous, means_masks, means_normal
from llb_ray.errors import DataError

PathT = TypeVar("PathT", bound=PurePath)
MASKS = "ground_truth"
_SHOWN = 8


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without clutter; none for what is no folder that can be read."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [name for name in names if not is_clutter(name) and os.path.isdir(folder / name)]


def split_folders(names: Iterable[str]) -> dict[str, str]:
    """The folder of each split among these names, train first: ``Train`` is train where there is no ``train``."""
    found = {name.lower(): name for name in sorted(names)}  # capitals come first, so that others replace them
    return {split: found[split] for split in (TRAIN, TEST) if split in found}


def is_tree(folder: PathT, folders_in: Callable[[PathT], Collection[str]]) -> bool:
    """True if a folder is organised as a tree, as far as `folders_in` knows the folders in one."""
    splits = split_folders(folders_in(folder))
    if TRAIN not in splits:
        return False
    return TEST in splits or _any_normal(folders_in(folder / splits[TRAIN]))


def is_tree_on_disk(folder: Path) -> bool:
    """`is_tree`, of a folder that is there."""
    return is_tree(folder, subfolders)


def kind_of(folder: str) -> str:
    """The kind of the images in a folder of this name that is a type: ``good``, or the name itself."""
    return GOOD if means_normal(folder) else folder


def require_known_types(root: Path) -> None:
    """Raise DataError for a tree in which no name of a folder says which images are normal."""
    types = {split: _types(root / folder) for split, folder in split_folders(subfolders(root)).items()}
    train, test = types[TRAIN], types.get(TEST, [])
    if _any_normal(train):
        return
    _require_anomalous(root, TRAIN, train, test if _any_normal(test) else [])
    if not _any_normal(test):
        _require_anomalous(root, TEST, test, [])


def refuse_trees(root: Path, folders: Set[PurePosixPath]) -> None:
    """Raise DataError if a folder that is no tree, with these folders below it, holds whole trees."""
    if is_tree_on_disk(root):
        return
    children = _children(folders)
    trees = sorted(str(folder) for folder in folders if is_tree(folder, lambda place: children.get(place, ())))
    if trees:
        names = ", ".join(path_text(tree) for tree in trees[:3])
        raise DataError(f"{root}: holds {len(trees)} data sets with tests of their own; point --data at one ({names})")


def _any_normal(names: Iterable[str]) -> bool:
    return any(map(means_normal, names))


def _types(folder: Path) -> list[str]:
    return [name for name in subfolders(folder) if not means_masks(name)]


def _require_anomalous(root: Path, split: str, types: Sequence[str], known: Collection[str]) -> None:
    """Raise DataError unless every type is anomalous by its name, or because it is `known` from elsewhere."""
    if all(means_anomalous(name) or name in known for name in types):
        return
    shown = ", ".join(map(path_text, types[:_SHOWN])) + (", ..." if len(types) > _SHOWN else "")
    raise DataError(
        f"{root}: which images in {split} are normal? Its folders are {shown}, and no name there means normal "
        f"({NORMAL_EXAMPLES}); rename the one with normal images to {GOOD}, or, if that is unknown, put all images "
        f"directly into {split}"
    )


def _children(folders: Set[PurePosixPath]) -> dict[PurePosixPath, list[str]]:
    found: dict[PurePosixPath, list[str]] = {}
    for folder in folders:
        if folder.name:  # not the root itself
            found.setdefault(folder.parent, []).append(folder.name)
    return found
