"""A folder of artifacts: found, made by one builder at a time, adopted from other stores, kept at a URI."""

import contextlib
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from llb_ray.artifacts.artifact import RECORD, Artifact, Recipe, load, seal
from llb_ray.disk import LOCAL, link_or_copy, naming, write_atomic
from llb_ray.errors import ArtifactError, DamageError
from llb_ray.names import below
from llb_ray.remote import Remote

_BUILDING = ".building"
_log = logging.getLogger(__name__)
_NAME = re.compile(r"[a-z][a-z-]*/[0-9a-f]{16}")


@dataclass(frozen=True)
class Store:
    """A folder of artifacts; any number of workers may read and build in it at once.

    With a `remote`, the folder is one machine's copy of it, and workers on other machines have copies of their own.
    """

    root: Path
    remote: Remote | None = None
    verifies: bool = True  # whether contents are compared; a worker's driver has done it

    def clear_unfinished(self) -> None:
        """Make the folder, and remove what killed workers left half built; only for who holds the run's lock."""
        self.root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.root / _BUILDING, ignore_errors=True)

    def path(self, recipe: Recipe) -> Path:
        return self.root / recipe.stage / recipe.key

    def find(self, recipe: Recipe) -> Artifact | None:
        """The finished artifact, or None; raises DamageError for a record that cannot be read, or a file cut short."""
        return self._at(self.path(recipe))

    def sound(self, recipe: Recipe, tell: Callable[[str], None] = _log.warning) -> Artifact | None:
        """The finished artifact, its contents compared; a damaged one is logged, removed, and counts as missing.

        Raises ArtifactError for an artifact of another format version.
        """
        try:
            return self._checked(recipe)
        except DamageError:
            with self._locked(recipe):
                return self._checked_or_dropped(recipe, tell)

    def _checked(self, recipe: Recipe) -> Artifact | None:
        found = self.find(recipe)
        if found is not None and self.verifies:
            found.check()
        return found

    def _checked_or_dropped(self, recipe: Recipe, tell: Callable[[str], None]) -> Artifact | None:
        """With the builder's lock held: another process may have removed it, and made it again, meanwhile."""
        try:
            return self._checked(recipe)
        except DamageError as error:
            tell(f"note: {str(error).rpartition(';')[0]}; it is removed and made again")
            path = self.path(recipe)
            if self.remote is not None:
                self.remote.delete(path / RECORD)
            self._put_away(path)
            return None

    def get(self, recipe: Recipe) -> Artifact:
        """The finished artifact; raises ArtifactError where there is none."""
        return self._there(self.path(recipe))

    def load(self, name: str) -> Artifact:
        """The finished artifact in ``<stage>/<key>``; raises ArtifactError where there is none, or for another name."""
        if not _NAME.fullmatch(name):
            raise ArtifactError(f"{self.root}: {name[:200]!r} is no artifact's name; do not use this folder")
        return self._there(below(self.root, name))

    def _there(self, path: Path) -> Artifact:
        found = self._at(path)
        if found is None:
            where = (self.remote or LOCAL).name(path)
            raise ArtifactError(f"{where}: no finished artifact; run the same command again to make it")
        return found

    def _at(self, path: Path) -> Artifact | None:
        if self.remote is not None:
            self._agree(path, self.remote)
        return load(path, self.remote, self.verifies) if (path / RECORD).exists() else None

    def _agree(self, path: Path, remote: Remote) -> None:
        """Have the record here that is at the URI, or none; what another record described goes."""
        said = remote.read(path / RECORD)
        if said == LOCAL.read(path / RECORD):
            return
        with remote.locked(path):
            if said != LOCAL.read(path / RECORD):
                self._put_away(path)
                if said is not None:
                    write_atomic(path / RECORD, said)

    def _put_away(self, path: Path) -> None:
        """Remove a folder in one rename: a part of it must not look like the whole."""
        if path.exists():
            (self.root / _BUILDING).mkdir(parents=True, exist_ok=True)
            away = self.root / _BUILDING / uuid.uuid4().hex
            path.rename(away)
            shutil.rmtree(away, ignore_errors=True)

    def make(self, recipe: Recipe, build: Callable[[Path], None]) -> Artifact:
        """The finished artifact; `build(folder)` fills a temporary folder only where there is no sound one yet."""
        with self.building(recipe) as folder:
            if folder is not None:
                build(folder)
        return self.get(recipe)

    @contextlib.contextmanager
    def building(self, recipe: Recipe) -> Iterator[Path | None]:
        """A temporary folder that is the finished artifact when the block ends; None where there is a sound one.

        Nothing is left of it after an error.
        """
        if self.sound(recipe) is not None:
            yield None
            return
        with self._locked(recipe):
            if self.find(recipe) is not None:  # of another builder, who was first
                yield None
                return
            with self._temporary(self.path(recipe)) as folder:
                yield folder
                seal(folder, recipe)

    @contextlib.contextmanager
    def _locked(self, recipe: Recipe) -> Iterator[None]:
        """One builder at a time: what two runs or two search trials both need is made once, the other waits for it.

        The operating system drops the lock of a builder that dies.
        """
        (self.root / _BUILDING).mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / _BUILDING / f"{recipe.stage}-{recipe.key}.lock"):
            yield

    def adopt(self, artifact: Artifact) -> Artifact:
        """The same artifact in this store: its files are linked, or copied from another disk or URI."""
        path = self.root / artifact.path.parent.name / artifact.path.name
        found = self._at(path)
        if found is not None:
            return found
        with self._temporary(path) as folder:
            for name in artifact.files:
                link_or_copy(artifact.file(name), folder / name)
            shutil.copy(artifact.path / RECORD, folder / RECORD)
        return self._there(path)

    @contextlib.contextmanager
    def _temporary(self, path: Path) -> Iterator[Path]:
        """A temporary folder for all files of the artifact at `path`, where it is moved when the block ends."""
        temporary = self.root / _BUILDING / f"{path.parent.name}-{path.name}-{uuid.uuid4().hex}"
        temporary.mkdir(parents=True)
        try:
            with naming(temporary):
                yield temporary
            if self.remote is not None:
                _upload(temporary, path, self.remote)
            self._move_into_place(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @staticmethod
    def _move_into_place(temporary: Path, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not (path / RECORD).exists():
            shutil.rmtree(path)  # somebody deleted the record to have the artifact made again
        try:
            os.rename(temporary, path)
        except OSError:
            # A worker on another machine, where locks may not reach, was first: its bytes are as good as ours.
            if not (path / RECORD).exists():
                raise


def _upload(folder: Path, path: Path, remote: Remote) -> None:
    """Put what was built in `folder` to the URI as `path`, the record last; nothing if there is one already."""
    if remote.read(path / RECORD) is None:
        for file in sorted(folder.rglob("*"), key=lambda file: file.name == RECORD):
            if file.is_file():
                remote.put(path / file.relative_to(folder), file)
