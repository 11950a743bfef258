"""What an artifact is: the recipe it is made by, its files, and the completion record that says what they are."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llb_ray.disk import LOCAL, file_digest
from llb_ray.errors import ArtifactError
from llb_ray.names import below
from llb_ray.remote import Remote

FORMAT_VERSION = 7  # raise it whenever a stage gives other output for the same recipe: it is part of every key
RECORD = "record.json"


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
        """Where the file can be read; brought here first, and its digest compared, if it lies at a URI.

        Raises ArtifactError for a link that leads out of the folder.
        """
        path = below(self.path, name)
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
    for name in {**files, **sizes}:
        below(path, name)
    artifact = Artifact(path, files, sizes, settings, inputs, remote)
    _refuse_cut(artifact)
    return artifact


def seal(path: Path, recipe: Recipe) -> None:
    """Write the completion record of what was built in `path`: from then on it is an artifact."""
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


def _refuse_cut(artifact: Artifact) -> None:
    """Cheap enough for every reuse; `Artifact.verify` hashes as well.  What lies at a URI may not be here yet."""
    for name, size in artifact.sizes.items():
        file = artifact.path / name
        absent = not file.is_file()
        if absent and artifact.remote is not None:
            continue
        if absent or file.stat().st_size != size:
            raise ArtifactError(f"{file}: missing or cut short; delete {artifact.path} and run the same command again")


def _hash_files(path: Path) -> dict[str, str]:
    files = (file for file in path.rglob("*") if file.is_file() and file.name != RECORD)
    return {file.relative_to(path).as_posix(): file_digest(file) for file in sorted(files)}
