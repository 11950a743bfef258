"""Artifacts: the recipe, the files, and the completion record with their sizes and digests."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llb_ray.artifacts.content import compute_digest, has_digest
from llb_ray.disk import LOCAL, sync
from llb_ray.errors import ArtifactError, DamageError
from llb_ray.names import below
from llb_ray.remote import Remote

FORMAT_VERSION = 15  # raise it whenever a stage gives other output for the same recipe: it is part of every key
RECORD = "record.json"
_AGAIN = "run the command that made it once more, which makes it again"


def digest(value: Any) -> str:
    """The sha256 (64 hex digits) of `value` as canonical JSON; raises TypeError for what JSON cannot hold."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Recipe:
    """Everything an artifact depends on: the same key gives the same bytes on the same machine, device and number of
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
    verifies: bool = True  # whether a file's content is compared with its digest when it is first used

    @property
    def content(self) -> str:
        """One digest for all the files; what later recipes name as their input."""
        return digest(dict(self.files))

    @property
    def where(self) -> str:
        """Display name of the folder."""
        return (self.remote or LOCAL).name(self.path)

    def file(self, name: str) -> Path:
        """Path of the file, once its content was compared with the digest; fetched first, if it is
        a URI.

        Raises ArtifactError for a link that leads out of the folder, DamageError for other content.
        """
        path = below(self.path, name)
        if name not in self.files:
            raise DamageError(f"{self.path}: damaged (it has no {name}); {_AGAIN}")
        if self.remote is not None and path.exists() and self.verifies and not has_digest(path, self.files[name]):
            path.unlink()  # a copy, of which the whole one is elsewhere
        if self.remote is not None and not path.exists():
            self.remote.fetch(path, self.files[name])
        elif self.verifies:
            self._compare(path, self.files[name])
        return path

    def check(self) -> None:
        """Compare every file that is here, unless this process has done so; raises DamageError for other content."""
        for name in self.files:
            if self.remote is None or (self.path / name).exists():
                self.file(name)

    def _compare(self, path: Path, sha256: str) -> None:
        try:
            if has_digest(path, sha256):
                return
            problem = "not the file that its completion record describes"
        except FileNotFoundError:
            problem = "missing"
        raise DamageError(f"{path}: damaged ({problem}); {_AGAIN}")

    def verify(self) -> None:
        """Re-hash every file where it belongs, be that here or at a URI.

        Raises ArtifactError naming the first one that changed, is missing or is extra.
        """
        found = _hash_files(self.path) if self.remote is None else self.remote.digests(self.path)
        for name in sorted((found.keys() | self.files.keys()) - {RECORD}):
            if found.get(name) != self.files.get(name):
                raise DamageError(
                    f"{self.where}/{name}: the file is not the one that its completion record describes; {_AGAIN}"
                )


def load(path: Path, remote: Remote | None = None, verifies: bool = True) -> Artifact:
    """The artifact whose completion record is in `path`.

    Raises DamageError if the record is unreadable or not that of the folder's name, or a file is missing or cut short,
    and ArtifactError for another format version.
    """
    where = (remote or LOCAL).name(path)
    try:
        record = json.loads((path / RECORD).read_text())
        files, sizes, settings, inputs = (dict(record[name]) for name in ("files", "bytes", "settings", "inputs"))
        version, recipe = record["format_version"], Recipe(record["stage"], settings, inputs)
        its_own = recipe.key == path.name and _is_plain(files, sizes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamageError(f"{where}/{RECORD}: unreadable completion record ({error}); {_AGAIN}") from error
    if version != FORMAT_VERSION and not its_own:
        raise ArtifactError(
            f"{where}: made with artifact format {version}, this version reads {FORMAT_VERSION}; repeat the run"
        )
    if version != FORMAT_VERSION or not its_own:
        raise DamageError(f"{where}/{RECORD}: damaged (it describes another artifact); {_AGAIN}")
    for name in files:
        below(path, name)
    artifact = Artifact(path, files, sizes, settings, inputs, remote, verifies)
    _refuse_cut(artifact)
    return artifact


def _is_plain(files: Mapping[str, Any], sizes: Mapping[str, Any]) -> bool:
    """True if a record has a digest and a size for the same files."""
    digests, counts = [str, *map(type, files.values())], [int, *map(type, sizes.values())]
    return files.keys() == sizes.keys() and (set(digests), set(counts)) == ({str}, {int})


def seal(path: Path, recipe: Recipe) -> None:
    """Write the completion record of what was built in `path`: from then on it is an artifact.

    The files are on the disk before it.  The record and the rename may be lost in a power cut, and the artifact is then
    made again; a record without bytes is found to be damaged.
    """
    files = _hash_files(path)
    assert files, f"{path}: a stage wrote nothing"
    for name in files:
        sync(path / name)
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


def _refuse_cut(artifact: Artifact) -> None:
    """Cheap enough for every look; contents are compared when they are used.  What is at a URI may not be here."""
    for name, size in artifact.sizes.items():
        file = artifact.path / name
        absent = not file.is_file()
        if not absent and file.stat().st_size != size and artifact.remote is not None:
            file.unlink()
        elif artifact.remote is None and (absent or file.stat().st_size != size):
            raise DamageError(f"{file}: missing or cut short; {_AGAIN}")


def _hash_files(path: Path) -> dict[str, str]:
    files = (file for file in path.rglob("*") if file.is_file() and file.name != RECORD)
    return {file.relative_to(path).as_posix(): compute_digest(file) for file in sorted(files)}
