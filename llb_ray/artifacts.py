"""Immutable, content-addressed stage outputs: resume, reuse and the audit trail are this one mechanism.

A `Recipe` names what makes an artifact: stage, settings, and the *contents* of its inputs.  Its key is the
folder's name, ``<root>/<stage>/<key>/``.  A folder is built under a temporary name, sealed with a completion
record (``record.json``, written last) and moved into place in one rename: it is either complete or absent.

Inputs enter a key by content, not by the key of what made them, so an artifact that comes out the same (a
manifest read again from a copied folder, say) leaves everything after it finished.  Nothing that differs between
two undisturbed runs (a time, a host, a path) may be written inside an artifact; such facts go to the event log.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from llb_ray.errors import ArtifactError

FORMAT_VERSION = 3  # raise it whenever a stage gives other output for the same recipe: it is part of every key
RECORD = "record.json"
_BUILDING = ".building"
_TEMPORARY = ".tmp"
_HASH_CHUNK_BYTES = 1 << 20


def digest(value: Any) -> str:
    """The sha256 (64 hex digits) of `value` as canonical JSON; raises TypeError for what JSON cannot say."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """The sha256 (64 hex digits) of a file's bytes, read in bounded memory."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Inside, an OSError that names no file, as that of a failed write does not, names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_TEMPORARY}")
    try:
        with naming(path):
            temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def clear_temporary(folder: Path) -> None:
    """Remove what `write_atomic` left in `folder` when its process was killed."""
    for path in folder.glob(f".*{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically and always with the same bytes for the same value."""
    write_atomic(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


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
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def content(self) -> str:
        """One digest for all the files; what later recipes name as their input."""
        return digest(dict(self.files))

    def verify(self) -> None:
        """Re-hash every file; raises ArtifactError naming the first one that changed, is missing or is extra."""
        found = _hash_files(self.path)
        for name in sorted(found.keys() | self.files.keys()):
            if found.get(name) != self.files.get(name):
                raise ArtifactError(
                    f"{self.path / name}: the file is not the one its completion record describes; "
                    "delete the folder and run the same command again to rebuild it"
                )


class Store:
    """A folder of artifacts; any number of workers may read and build in it at once."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def clear_unfinished(self) -> None:
        """Make the folder, and remove what killed workers left half built; only for who holds the run's lock."""
        self.root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.root / _BUILDING, ignore_errors=True)

    def path(self, recipe: Recipe) -> Path:
        return self.root / recipe.stage / recipe.key

    def find(self, recipe: Recipe) -> Artifact | None:
        """The finished artifact, or None; raises ArtifactError for a record that cannot be read."""
        path = self.path(recipe)
        return load(path) if (path / RECORD).exists() else None

    def get(self, recipe: Recipe) -> Artifact:
        """The finished artifact; raises ArtifactError where there is none."""
        found = self.find(recipe)
        if found is None:
            raise ArtifactError(f"{self.path(recipe)}: no finished artifact; run the same command again to make it")
        return found

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
            return self.find(recipe) or self._built(recipe, build, name)

    def _built(self, recipe: Recipe, build: Callable[[Path], None], name: str) -> Artifact:
        temporary = self.root / _BUILDING / f"{name}-{uuid.uuid4().hex}"
        temporary.mkdir()
        try:
            with naming(temporary):
                build(temporary)
                _seal(temporary, recipe)
            self._move_into_place(temporary, self.path(recipe))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return self.get(recipe)

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


def load(path: Path) -> Artifact:
    """The artifact whose completion record lies in `path`; raises ArtifactError if the record is unreadable."""
    try:
        record = json.loads((path / RECORD).read_text())
        version, sizes = record["format_version"], record["bytes"]
        artifact = Artifact(path, dict(record["files"]), dict(record["settings"]), dict(record["inputs"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path / RECORD}: unreadable completion record ({error}); delete {path}") from error
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"{path}: made with artifact format {version}, this version reads {FORMAT_VERSION}; choose another --out"
        )
    _refuse_cut(path, sizes)
    return artifact


def _refuse_cut(path: Path, sizes: Mapping[str, int]) -> None:
    """Cheap enough for every reuse; `Artifact.verify` hashes as well."""
    for name, size in sizes.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            raise ArtifactError(f"{file}: missing or cut short; delete {path} and run the same command again")


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
