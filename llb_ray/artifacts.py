"""Immutable, content-addressed stage outputs: resume, reuse and the audit trail are this one mechanism.

A `Recipe` names what makes an artifact: stage, settings, and the *contents* of its inputs.  Its key is the
folder's name, ``<root>/<stage>/<key>/``.  A folder is built under a temporary name, sealed with a completion
record (``record.json``, written last) and moved into place in one rename: it is either complete or absent.

Inputs enter a key by content, not by the key of what made them, so an artifact that comes out the same (a
manifest read again from a copied folder, say) leaves everything after it finished.  Nothing that differs between
two undisturbed runs (a time, a host, a path) may be written inside an artifact; such facts go to the event log.

A store may be the working copy of one that lies at a URI, in the same layout.  What counts is then the record there:
it is uploaded last, asked for at every look, and where two machines made one artifact the first one's stays.  Files
are brought here by name, when somebody reads them.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from llb_ray.disk import LOCAL, file_digest, naming, write_atomic
from llb_ray.errors import ArtifactError
from llb_ray.remote import Remote

FORMAT_VERSION = 4  # raise it whenever a stage gives other output for the same recipe: it is part of every key
RECORD = "record.json"
_BUILDING = ".building"


def digest(value: Any) -> str:
    """The sha256 (64 hex digits) of `value` as canonical JSON; raises TypeError for what JSON cannot say."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Recipe:
    """What makes an artifact: the same key gives the same bytes on the same machine, device and number of threads, and
    of workers that fit together.

    Those are left out of keys on purpose.  They move results within float noise only, and a run that is resumed
    with a smaller batch, or on another machine, must not lose what it has finished.
    """

    stage: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """16 hex digits; the name of the artifact's folder."""
        made_of = [FORMAT_VERSION, self.stage, dict(self.settings), dict(self.inputs)]
        return digest(made_of)[:16]


@dataclass(frozen=True)
class Artifact:
    """A finished stage output: the folder, the sha256 of each file in it, and the recipe it was made by."""

    path: Path
    files: Mapping[str, str]
    sizes: Mapping[str, int]  # in bytes
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    remote: Remote | None = None  # where the files are that are not here yet

    @property
    def content(self) -> str:
        """One digest for all the files; what later recipes name as their input."""
        return digest(dict(self.files))

    @property
    def where(self) -> str:
        """The folder, as people call it."""
        return (self.remote or LOCAL).name(self.path)

    def file(self, name: str) -> Path:
        """Where the file can be read; brought here first, and its digest compared, if it lies at a URI."""
        path = self.path / name
        if self.remote is not None and not path.exists():
            self.remote.fetch(path, self.files[name])
        return path

    def verify(self) -> None:
        """Re-hash every file where it belongs, be that here or at a URI.

        Raises ArtifactError naming the first one that changed, is missing or is extra.
        """
        found = _hash_files(self.path) if self.remote is None else self.remote.digests(self.path)
        for name in sorted((found.keys() | self.files.keys()) - {RECORD}):
            if found.get(name) != self.files.get(name):
                raise ArtifactError(
                    f"{self.where}/{name}: the file is not the one its completion record describes; "
                    "delete the folder and run the same command again to rebuild it"
                )


@dataclass(frozen=True)
class Store:
    """A folder of artifacts; any number of workers may read and build in it at once.

    With a `remote`, the folder is one machine's copy of it, and workers on other machines have copies of their own.
    """

    root: Path
    remote: Remote | None = None

    def clear_unfinished(self) -> None:
        """Make the folder, and remove what killed workers left half built; only for who holds the run's lock."""
        self.root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.root / _BUILDING, ignore_errors=True)

    def path(self, recipe: Recipe) -> Path:
        return self.root / recipe.stage / recipe.key

    def find(self, recipe: Recipe) -> Artifact | None:
        """The finished artifact, or None; raises ArtifactError for a record that cannot be read."""
        return self._at(self.path(recipe))

    def get(self, recipe: Recipe) -> Artifact:
        """The finished artifact; raises ArtifactError where there is none."""
        return self._there(self.path(recipe))

    def load(self, name: str) -> Artifact:
        """The finished artifact in ``<stage>/<key>``; raises ArtifactError where there is none."""
        return self._there(self.root / name)

    def _there(self, path: Path) -> Artifact:
        found = self._at(path)
        if found is None:
            where = (self.remote or LOCAL).name(path)
            raise ArtifactError(f"{where}: no finished artifact; run the same command again to make it")
        return found

    def _at(self, path: Path) -> Artifact | None:
        if self.remote is not None:
            self._agree(path, self.remote)
        return load(path, self.remote) if (path / RECORD).exists() else None

    def _agree(self, path: Path, remote: Remote) -> None:
        """Have the record here that lies at the URI, or none; what another record described goes."""
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
        """The finished artifact; `build(folder)` fills a temporary folder only where there is none yet."""
        found = self.find(recipe)
        if found is not None:
            return found
        name = f"{recipe.stage}-{recipe.key}"
        (self.root / _BUILDING).mkdir(parents=True, exist_ok=True)
        # One builder at a time: what two runs or two search trials both need is made once, the other waits for it.
        # The operating system drops the lock of a builder that dies.
        with FileLock(self.root / _BUILDING / f"{name}.lock"):
            return self.find(recipe) or self._built(recipe, build)

    def adopt(self, artifact: Artifact) -> Artifact:
        """The same artifact in this store: its files are linked, or copied from another disk or URI."""
        path = self.root / artifact.path.parent.name / artifact.path.name
        found = self._at(path)
        if found is not None:
            return found
        (self.root / _BUILDING).mkdir(parents=True, exist_ok=True)

        def fill(folder: Path) -> None:
            for name in artifact.files:
                _link(artifact.file(name), folder / name)
            shutil.copy(artifact.path / RECORD, folder / RECORD)

        return self._filled(path, fill)

    def _built(self, recipe: Recipe, build: Callable[[Path], None]) -> Artifact:
        def fill(folder: Path) -> None:
            build(folder)
            _seal(folder, recipe)

        return self._filled(self.path(recipe), fill)

    def _filled(self, path: Path, fill: Callable[[Path], None]) -> Artifact:
        """The artifact at `path`; `fill(folder)` puts its files into a temporary folder, the completion record too."""
        temporary = self.root / _BUILDING / f"{path.parent.name}-{path.name}-{uuid.uuid4().hex}"
        temporary.mkdir()
        try:
            with naming(temporary):
                fill(temporary)
            if self.remote is not None:
                _upload(temporary, path, self.remote)
            self._move_into_place(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return self._there(path)

    @staticmethod
    def _move_into_place(temporary: Path, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not (path / RECORD).exists():
            shutil.rmtree(path)  # somebody deleted the record to have the artifact made anew
        try:
            os.rename(temporary, path)
        except OSError:
            # A worker on another machine, where locks may not reach, was first: its bytes are as good as ours.
            if not (path / RECORD).exists():
                raise


def load(path: Path, remote: Remote | None = None) -> Artifact:
    """The artifact whose completion record lies in `path`; raises ArtifactError if the record is unreadable."""
    where = (remote or LOCAL).name(path)
    try:
        record = json.loads((path / RECORD).read_text())
        files, sizes, settings, inputs = (dict(record[name]) for name in ("files", "bytes", "settings", "inputs"))
        version = record["format_version"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{where}/{RECORD}: unreadable completion record ({error}); delete {where}") from error
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"{where}: made with artifact format {version}, this version reads {FORMAT_VERSION}; choose another --out"
        )
    artifact = Artifact(path, files, sizes, settings, inputs, remote)
    _refuse_cut(artifact)
    return artifact


def _refuse_cut(artifact: Artifact) -> None:
    """Cheap enough for every reuse; `Artifact.verify` hashes as well.  What lies at a URI may not be here yet."""
    for name, size in artifact.sizes.items():
        file = artifact.path / name
        absent = not file.is_file()
        if absent and artifact.remote is not None:
            continue
        if absent or file.stat().st_size != size:
            raise ArtifactError(f"{file}: missing or cut short; delete {artifact.path} and run the same command again")


def _link(source: Path, target: Path) -> None:
    """A second name for the file, which nobody ever changes in place; a copy where a disk cannot give it one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def _upload(folder: Path, path: Path, remote: Remote) -> None:
    """Put what was built in `folder` to the URI as `path`, the record last; nothing if there is one already."""
    if remote.read(path / RECORD) is None:
        for file in sorted(folder.rglob("*"), key=lambda file: file.name == RECORD):
            if file.is_file():
                remote.put(path / file.relative_to(folder), file)


def _seal(path: Path, recipe: Recipe) -> None:
    files = _hash_files(path)
    assert files, f"{path}: a stage wrote nothing"
    record = {
        "format_version": FORMAT_VERSION,
        "stage": recipe.stage,
        "key": recipe.key,
        "settings": dict(recipe.settings),
        "inputs": dict(recipe.inputs),
        "files": files,
        "bytes": {name: (path / name).stat().st_size for name in files},
    }
    # Not `write_json`, which would make the folder: it must still be there, with what was built in it.
    (path / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


def _hash_files(path: Path) -> dict[str, str]:
    files = (file for file in path.rglob("*") if file.is_file() and file.name != RECORD)
    return {file.relative_to(path).as_posix(): file_digest(file) for file in sorted(files)}
