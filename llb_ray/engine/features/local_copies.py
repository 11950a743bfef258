"""Copies of the feature cache on the own disk of each machine that reads it, for runs on shared storage.

A detector that trains by gradients reads the layers of a batch at every step, more than shared storage delivers to many
GPUs (benchmarks/cluster.md).  A shard's file is fetched once for each machine, and found by all workers, jobs and runs
on it under the sha256 of its content.
"""

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from llb_ray.artifacts import Artifact
from llb_ray.config import FeaturesConfig
from llb_ray.data.tables import MappedBatches
from llb_ray.disk import file_digest
from llb_ray.engine import filenames
from llb_ray.errors import DamageError, ResourceError

_GIB = 2**30
_FREE_SHARE = 0.1  # of the disk, left to everybody else
_FULL = (errno.ENOSPC, errno.EDQUOT)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalCopies:
    """A folder on the machine's own disk; what was read longest ago is removed to make room."""

    folder: Path
    max_gib: float | None = None  # for all files together; None: what is free beyond a tenth of the disk

    @classmethod
    def of(cls, config: FeaturesConfig) -> "LocalCopies | None":
        """The copies that the settings ask for; None where features are read where the run is."""
        return None if config.local is None else cls(Path(config.local), config.local_gib)

    def mapped(self, shard: Artifact) -> MappedBatches:
        """The layers in the shard's copy, fetched if it is not here; those of the shard itself if it has no room.

        Raises DamageError for a shard that is not what its record describes, ResourceError for a folder that cannot be
        written.
        """
        copy = self._copy(shard)
        with suppress(FileNotFoundError):  # removed by another process that makes room
            if copy is not None:
                os.utime(copy)
                return MappedBatches(copy)
        return MappedBatches(shard.file(filenames.LAYERS))

    def _copy(self, shard: Artifact) -> Path | None:
        """The place of the copy; None if it has no room."""
        sha256, size = shard.files[filenames.LAYERS], shard.sizes[filenames.LAYERS]
        copy = self.folder / f"{sha256}.arrow"
        try:
            self._make_folder()
            with FileLock(self.folder / f"{sha256}.lock"):  # one worker of a machine fetches, the others wait for it
                is_there = _has_size(copy, size) or self._fetch(shard.file(filenames.LAYERS), sha256, copy)
                return copy if is_there else None
        except OSError as error:
            raise ResourceError(
                f"features.local={self.folder}: {error}; name a folder of your own on each machine's disk, or drop it"
            ) from error

    def _make_folder(self) -> None:
        """For this user alone: what is in it is not compared with its digest again."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.folder.stat().st_uid != os.getuid() or self.folder.stat().st_mode & 0o022:
            raise PermissionError("others may write to it")

    def _fetch(self, source: Path, sha256: str, copy: Path) -> bool:
        """True if the file is at `copy` now; raises DamageError if it is not the one of this digest."""
        part = copy.with_suffix(".part")
        self._clear_unfinished(part)
        if not (self._make_room(source.stat().st_size) and _copied(source, part)):
            _log.warning("features.local=%s has no room for %s, which is read where it is", self.folder, source)
            return False
        try:
            if file_digest(part) != sha256:
                raise DamageError(f"{source}: damaged (not the file that its completion record describes); run again")
            part.replace(copy)
        finally:
            part.unlink(missing_ok=True)
        return True

    def _clear_unfinished(self, own: Path) -> None:
        """Remove what a process that was killed had copied of its shard."""
        own.unlink(missing_ok=True)
        for part in self.folder.glob("*.part"):
            with suppress(Timeout), FileLock(part.with_suffix(".lock"), timeout=0):
                part.unlink(missing_ok=True)

    def _make_room(self, num_bytes: int) -> bool:
        """True if a file of this size fits, once as many others as needed are gone."""
        for _, _, oldest in sorted(self._held()):
            if num_bytes <= self._room():
                break
            oldest.unlink(missing_ok=True)  # who has it mapped keeps it
        return num_bytes <= self._room()

    def _held(self) -> Iterator[tuple[float, int, Path]]:
        """The time of the last use, the size, and the place of each copy."""
        for path in self.folder.glob("*.arrow"):
            with suppress(FileNotFoundError):  # removed by another process that makes room
                found = path.stat()
                yield found.st_mtime, found.st_size, path

    def _room(self) -> float:
        """Bytes that may still be written."""
        disk = shutil.disk_usage(self.folder)
        room = disk.free - _FREE_SHARE * disk.total
        if self.max_gib is None:
            return room
        return min(room, self.max_gib * _GIB - sum(size for _, size, _ in self._held()))


def _has_size(copy: Path, size: int) -> bool:
    """True if the copy is there, and was not cut off when the machine crashed."""
    with suppress(FileNotFoundError):  # another process may remove it at any time
        return copy.stat().st_size == size
    return False


def _copied(source: Path, part: Path) -> bool:
    """True if the file is at `part` now; False if the disk has become full, with nothing left there."""
    try:
        shutil.copyfile(source, part)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno in _FULL:
            return False
        raise
    return True
