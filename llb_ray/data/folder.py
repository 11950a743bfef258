"""A folder of images becomes a manifest: every file found is a row of it or a row of the quarantine.

Two layouts are known:

- a plain folder: every file below it is an unlabelled training image;
- an MVTec-style tree: ``train/<type>/*`` and ``test/<type>/*``, where type ``good`` is normal and any other is
  anomalous, with masks in ``ground_truth/<type>/<stem>_mask.png`` (or ``<stem>.png``).  Only files under ``train``
  and ``test`` are inputs; the tree's licence, readme or tables are neither rows nor quarantine.  ``train/<type>`` other
  than ``good`` is how a contaminated set with known truth is laid out.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, TypeVar

import pyarrow as pa

from llb_ray.config import DataConfig
from llb_ray.data.images import UnreadableImage, content_id, read_rgb
from llb_ray.data.manifest import MANIFEST, QUARANTINE, TEST, TRAIN, Manifest, path_text
from llb_ray.errors import ConfigError, DataError

PathT = TypeVar("PathT", bound=PurePath)
GOOD, MASKS = "good", "ground_truth"
_THREADS = min(8, os.cpu_count() or 1)  # each may hold one image of data.max_pixels


@dataclass(frozen=True)
class File:
    """One file found below a root, before anybody asks whether it is a copy of another."""

    path: str  # relative to the root, POSIX, as the file system spells it; a folder only where it has a problem
    split: str
    kind: str | None = None  # in a tree, the folder below the split: "good" or the defect's type
    problem: str | None = None  # why it goes to the quarantine
    image_id: str = ""


def read_folder(root: Path, config: DataConfig, progress: Callable[[int, int], None] | None = None) -> Manifest:
    """The manifest of the images under `root`, plain or MVTec-style, each of them decoded once as a proof.

    A file that is not exactly one readable image, or repeats the bytes of another, is quarantined with the reason; of
    equal files the first by split (train before test), name and path stays.  `progress` is called with (done, total).
    Raises DataError if the root is unusable or holds no readable training image, ConfigError for a bad
    `data.group_pattern`.
    """
    root = Path(os.path.abspath(root))
    pattern = _compiled(config.group_pattern)
    found = examine(root, config.max_pixels, progress)
    files = _without_copies(found)
    _require_training_images(root, files)
    category = path_text(config.category or root.name or "images")
    _require_matches(root, files, pattern)
    manifest = Manifest.of(root, _table(root, files, category, pattern), _quarantine(files))
    assert len(manifest.table) + len(manifest.quarantine) == len(found)
    return manifest


def examine(root: Path, max_pixels: int, progress: Callable[[int, int], None] | None = None) -> list[File]:
    """Every input below `root`, train before test, then by path, each with its image_id or its problem.

    Raises DataError if the layout is not usable.
    """
    found, examined = _listing(root), list[File]()
    with ThreadPoolExecutor(_THREADS) as pool:
        for file in pool.map(partial(_examine, root, max_pixels), found):
            examined.append(file)
            if progress is not None:
                progress(len(examined), len(found))
    return examined


def _compiled(group_pattern: str | None) -> re.Pattern[str] | None:
    if group_pattern is None:
        return None
    try:
        pattern = re.compile(group_pattern)
    except re.error as error:
        raise ConfigError(f"data.group_pattern = {group_pattern!r}: not a regular expression ({error})") from error
    if not pattern.groups:
        raise ConfigError(
            f"data.group_pattern = {group_pattern!r}: has no group; put ( ) round the part that names the object"
        )
    return pattern


def _listing(root: Path) -> list[File]:
    """Every input below the root, train before test, then by path; raises DataError if the layout is not usable."""
    found = list(scan(root))
    refuse_masks(root, {folder for file in found for folder in PurePosixPath(file.path).parents})
    return sorted(found, key=lambda file: (file.split == TEST, file.path))


def scan(root: Path) -> Iterator[File]:
    """Every input below the root as it is come upon, by name, not yet opened; holds one folder's names at a time.

    Raises DataError if the root is no folder.
    """
    if not os.path.isdir(root):
        state = "not a folder" if os.path.lexists(root) else "no such folder"
        raise DataError(f"{root}: {state}; give a folder of images")
    if _is_tree(root, os.path.isdir):
        splits = [name for name in (TRAIN, TEST) if os.path.lexists(root / name)]
        yield from (_in_tree(path, problem) for path, problem in _walk(root, splits))
    else:
        yield from (File(path, TRAIN, problem=problem) for path, problem in _walk(root, ["."]))


def _is_tree(folder: PathT, is_folder: Callable[[PathT], bool]) -> bool:
    return is_folder(folder / TRAIN) and (is_folder(folder / TRAIN / GOOD) or is_folder(folder / TEST))


def _in_tree(path: str, problem: str | None) -> File:
    split, *kind = PurePosixPath(path).parts[:-1] or (path,)
    return File(path, split, kind[0] if kind else None, problem)


def refuse_masks(root: Path, folders: Set[PurePosixPath]) -> None:
    """Raise DataError if a plain folder holds whole trees, or masks, which would be trained on as images."""
    if _is_tree(root, os.path.isdir):
        return
    trees = sorted(str(folder) for folder in folders if _is_tree(folder, folders.__contains__))
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


def _examine(root: Path, max_pixels: int, file: File) -> File:
    if file.problem is not None:
        return file
    try:
        read_rgb(root / file.path, None, max_pixels)
        return replace(file, image_id=content_id(root / file.path))
    except UnreadableImage as error:
        return replace(file, problem=error.reason)


def _without_copies(files: Sequence[File]) -> list[File]:
    """The same files; of equal content all but the first by split, name and path have a problem.

    By name before path, because a tree's folders are labels and must not decide.  A content that is filed under two
    types has an unknown label: the folders cannot both be right.
    """
    first: dict[str, File] = {}
    kinds: dict[str, set[str | None]] = {}
    for file in sorted(files, key=lambda file: (file.split == TEST, PurePosixPath(file.path).name, file.path)):
        if file.problem is None:
            first.setdefault(file.image_id, file)
            kinds.setdefault(file.image_id, set()).add(file.kind)
    return [file if file.problem else _one_of(file, first[file.image_id], kinds[file.image_id]) for file in files]


def _one_of(file: File, kept: File, kinds: Set[str | None]) -> File:
    if file.path != kept.path:
        return replace(file, problem=f"same content as {path_text(kept.path)}")
    return file if len(kinds) == 1 else replace(file, kind=None)


def _require_matches(root: Path, files: Sequence[File], pattern: re.Pattern[str] | None) -> None:
    """Raise ConfigError for a pattern that matches no image: grouping would be off and nobody would know."""
    if pattern is not None and not any(pattern.search(file.path) for file in files):
        example = path_text(files[0].path)
        raise ConfigError(f"data.group_pattern = {pattern.pattern!r}: matches no file in {root} (such as {example})")


def _require_training_images(root: Path, files: Sequence[File]) -> None:
    if not files:
        raise DataError(f"{root}: holds no files; give a folder with images in it")
    if any(file.problem is None and file.split == TRAIN for file in files):
        return
    problems = (f" (first, {path_text(file.path)}: {file.problem})" for file in files if file.problem is not None)
    raise DataError(
        f"{root}: none of the {len(files)} files found is a readable training image{next(problems, '')}; "
        "give a folder of images, or put them in its train/good"
    )


def _table(root: Path, files: Sequence[File], category: str, pattern: re.Pattern[str] | None) -> pa.Table:
    kept = [file for file in files if file.problem is None]
    masks = _masks(root, kept)
    rows = [_row(file, category, pattern, masks.get(file.path)) for file in kept]
    return pa.Table.from_pylist(rows, MANIFEST)


def _row(file: File, category: str, pattern: re.Pattern[str] | None, mask: str | None) -> dict[str, Any]:
    match = pattern.search(file.path) if pattern is not None else None
    defect = None if file.kind in (None, GOOD) else file.kind
    return {
        "image_id": file.image_id,
        "path": path_text(file.path),
        "category": category,
        # an empty group would throw every such image together, so it counts as no match
        "group": f"{category}/{path_text(match[1])}" if match and match[1] else file.image_id,
        "split": file.split,
        "label": None if file.kind is None else int(file.kind != GOOD),
        "defect_type": None if defect is None else path_text(defect),
        "mask_path": None if mask is None else path_text(mask),
    }


def _masks(root: Path, files: Sequence[File]) -> dict[str, str]:
    """The mask of each image that has one; a mask that a training and a test image both claim is the latter's."""
    owner = {mask: file.path for file in files if (mask := _mask(root, file)) is not None}  # test comes last
    return {path: mask for mask, path in owner.items()}


def _mask(root: Path, file: File) -> str | None:
    if file.kind is None:
        return None
    twin = PurePosixPath(MASKS, *PurePosixPath(file.path).parts[1:])
    names = f"{twin.stem}_mask.png", f"{twin.stem}.png"
    return next((str(twin.with_name(name)) for name in names if os.path.isfile(root / twin.with_name(name))), None)


def _quarantine(files: Sequence[File]) -> pa.Table:
    rows = [
        {"path": path_text(file.path), "split": file.split, "reason": file.problem}
        for file in files
        if file.problem is not None
    ]
    return pa.Table.from_pylist(rows, QUARANTINE)
