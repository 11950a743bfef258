"""Candidate image files: the content id, or the reason for rejection."""

import os
from collections.abc import Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

import pyarrow as pa

from llb_ray.config import DataConfig
from llb_ray.data.bands import may_hold_bands, read_bands
from llb_ray.data.decode_cache import Known, Remembered, Sight
from llb_ray.data.decoding import content_id, read_rgb
from llb_ray.data.manifest import QUARANTINE, TEST, path_text
from llb_ray.data.near_duplicates import near_duplicates, signature
from llb_ray.data.unreadable_files import UnreadableImage

GOOD = "good"
Progress = Callable[[int, int], None]  # receives (done, total) files
_AHEAD = 4096  # files that wait for their turn
THREADS = min(8, os.cpu_count() or 1)  # each may hold one image of data.max_pixels


@dataclass(frozen=True)
class File:
    """One file below a root, before anybody asks whether it is a copy of another."""

    path: str  # relative to the root, POSIX, as the file system spells it; a folder only where it has a problem
    split: str
    kind: str | None = None  # "good", or the defect's type; None where unknown
    problem: str | None = None  # why it goes to the quarantine
    image_id: str = ""
    category: str = ""  # as `path_text` writes it; where it is known and asked for
    signature: bytes = b""  # `llb_ray.data.near_duplicates`; none of an image of bands

    @property
    def label(self) -> int | None:
        """0 normal, 1 anomalous, None unknown."""
        return None if self.kind is None else int(self.kind != GOOD)

    @property
    def defect_type(self) -> str | None:
        """Type of the defect of an anomalous image."""
        return None if self.kind == GOOD else self.kind


def examine(root: Path, files: Sequence[File], config: DataConfig, progress: Progress | None = None) -> list[File]:
    """The same files, each with its image_id or its problem: decoded once as a proof, unless remembered as good."""
    done = list[File]()
    with Remembered.opened() as memory, ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(files), _AHEAD):  # a million tasks at once would take minutes and gigabytes
            for file in pool.map(partial(_examined, root, config, memory), files[start : start + _AHEAD]):
                done.append(file)
                if progress is not None:
                    progress(len(done), len(files))
    return done


def without_copies(files: Sequence[File]) -> list[File]:
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


def quarantine_table(files: Sequence[File]) -> pa.Table:
    """The files that have a problem, as a manifest's quarantine."""
    rows = [
        {"path": path_text(file.path), "split": file.split, "reason": file.problem}
        for file in files
        if file.problem is not None
    ]
    return pa.Table.from_pylist(rows, QUARANTINE)


def near_of(table: pa.Table, files: Sequence[File]) -> pa.Table:
    """The near duplicates among the images of a manifest's table, which these files are."""
    return near_duplicates(table, {file.image_id: file.signature for file in files if file.problem is None})


def first_problem(files: Sequence[File]) -> str:
    """The first problem in brackets, for the end of a sentence; nothing where there is none."""
    problems = (f" (first, {path_text(file.path)}: {file.problem})" for file in files if file.problem is not None)
    return next(problems, "")


def _examined(root: Path, config: DataConfig, memory: Remembered, file: File) -> File:
    if file.problem is not None:
        return file
    path = root / file.path
    try:
        if config.bands is not None:
            return replace(file, image_id=_proved_bands(path, config))
        known = _proved(path, config.max_pixels, memory)
        return replace(file, image_id=known.image_id, signature=known.signature)
    except UnreadableImage as error:
        return replace(file, problem=error.reason + (_hint(path) if config.bands is None else ""))


def _proved(path: Path, max_pixels: int, memory: Remembered) -> Known:
    """Facts about a readable photograph; raises UnreadableImage for anything else."""
    sight = Sight.of(path)
    known = None if sight is None else memory.find(sight)
    if known is not None and known.num_pixels <= max_pixels:
        return known
    image_HW3 = read_rgb(path, None, max_pixels)
    known = Known(content_id(path), image_HW3.shape[0] * image_HW3.shape[1], signature(image_HW3))
    if sight is not None:
        memory.learn(sight, known)
    return known


def _proved_bands(path: Path, config: DataConfig) -> str:
    """The same of an image of bands, which is not cached: what it is depends on their number."""
    assert config.bands is not None, "asked for only where there are bands"
    read_bands(path, config.bands, config.max_pixels)
    return content_id(path)


def _hint(path: Path) -> str:
    """Remedy for a file that is no photograph: what would make an image of it."""
    with suppress(UnreadableImage):
        if may_hold_bands(path):
            return "; if it is an image of several bands, set data.bands to their number"
    return ""


def _one_of(file: File, kept: File, kinds: Set[str | None]) -> File:
    if file.path != kept.path:
        return replace(file, problem=f"same content as {path_text(kept.path)}")
    return file if len(kinds) == 1 else replace(file, kind=None)
