"""The working copy of a folder elsewhere, and the files there."""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from llb_ray.errors import ArtifactError, ConfigError
from llb_ray.remote.uri import is_uri, make_folder, open_uri, redact, without_secrets

_CHUNK_BYTES = 16 * 2**20


@dataclass(frozen=True, repr=False)
class Remote:
    """A URI and its working copy; picklable, and opened in every process that uses it.

    Whatever goes wrong there is an OSError of one sentence, like that of a disk or a mount.
    """

    uri: str  # as it was given: not for people
    copy: Path  # the same on every machine, so that a path says the same on all of them

    @classmethod
    def of(cls, uri: str) -> "Remote":
        """The URI with its working copy, a folder in $LLB_CACHE or else in the user's cache folder."""
        from platformdirs import user_cache_path

        cache = Path(os.environ.get("LLB_CACHE") or user_cache_path("llb_ray") / "runs").absolute()
        name = redact(uri)
        title = re.sub(r"[^\w.-]", "_", name.rpartition("/")[2])[:40]
        return cls(uri, cache / f"{title}-{hashlib.sha256(name.encode()).hexdigest()[:16]}")

    def __str__(self) -> str:
        return redact(self.uri)

    def __repr__(self) -> str:
        return f"Remote({self})"

    def name(self, path: Path) -> str:
        """Display name of the file."""
        return "/".join([str(self), *path.relative_to(self.copy).parts])

    def opened(self, path: Path) -> tuple[Any, str]:
        """The `pyarrow.fs.FileSystem`, and what the file is called in it."""
        filesystem, root = open_uri(self.uri)
        return filesystem, "/".join([root.rstrip("/"), *path.relative_to(self.copy).parts])

    def names(self) -> set[str]:
        """Names directly below the URI; nothing where there is nothing yet."""
        return set(self._listed(self.copy, recursive=False))

    def files(self) -> list[str]:
        """Every file below the URI, by its name in it."""
        return self._listed(self.copy, recursive=True)

    def read(self, path: Path) -> bytes | None:
        """The file's bytes, or None where there is no such file."""
        with self._naming(path), contextlib.suppress(FileNotFoundError):
            filesystem, name = self.opened(path)
            with filesystem.open_input_stream(name, compression=None) as stream:
                content: bytes = stream.read()
                return content
        return None

    def fetch(self, path: Path, sha256: str) -> None:
        """Bring the file of this digest to its place in the working copy, unless it is there.

        Raises ArtifactError for a file of another digest, which stays away.
        """
        part = self._lock_path(path).with_suffix(".part")
        with self.locked(path):
            if path.exists():
                return  # brought by another process while this one waited
            try:
                with self._naming(path, f" to {path}"):
                    found = self._digest(path, part)
                if found != sha256:
                    raise ArtifactError(
                        f"{self.name(path)}: not the file that its completion record describes; "
                        f"delete {self.name(path.parent)} and run the same command again to rebuild it"
                    )
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)

    def digests(self, folder: Path) -> dict[str, str]:
        """The sha256 of every file below `folder`, by its name in it: as they are at the URI, not in the copy."""
        found = {}
        for name in self._listed(folder, recursive=True):
            with self._naming(folder / name):
                found[name] = self._digest(folder / name, Path(os.devnull))
        return found

    def put(self, path: Path, source: Path) -> None:
        """Replace the file by a local one."""
        with source.open("rb") as content:
            self._write(path, iter(lambda: content.read(_CHUNK_BYTES), b""))

    def write(self, path: Path, content: bytes) -> None:
        """Replace the file by these bytes."""
        self._write(path, iter([content]))

    def delete(self, path: Path) -> None:
        """Remove the file, if there is one."""
        with self._naming(path), contextlib.suppress(FileNotFoundError):
            filesystem, name = self.opened(path)
            filesystem.delete_file(name)

    def delete_folder(self, folder: Path) -> None:
        """Remove everything below `folder`, if there is anything."""
        with self._naming(folder), contextlib.suppress(FileNotFoundError):
            filesystem, name = self.opened(folder)
            filesystem.delete_dir(name)

    @contextlib.contextmanager
    def locked(self, path: Path) -> Iterator[None]:
        """Inside, this is the only process of this machine that changes the working copy of the file or folder."""
        lock = self._lock_path(path)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            yield

    def _lock_path(self, path: Path) -> Path:
        name = path.relative_to(self.copy).as_posix()
        return self.copy / ".bringing" / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock"

    def _write(self, path: Path, chunks: Iterator[bytes]) -> None:
        with self._naming(path):
            filesystem, name = self.opened(path)
            make_folder(filesystem, name.rpartition("/")[0])
            with filesystem.open_output_stream(name, compression=None) as stream:
                for chunk in chunks:
                    stream.write(chunk)

    def _digest(self, path: Path, target: Path) -> str:
        """The sha256 of the file's bytes, which are written to the local file `target` on the way."""
        filesystem, name = self.opened(path)
        hasher = hashlib.sha256()
        with filesystem.open_input_stream(name, compression=None) as stream, target.open("wb") as file:
            while chunk := stream.read(_CHUNK_BYTES):
                hasher.update(chunk)
                file.write(chunk)
        return hasher.hexdigest()

    def _listed(self, folder: Path, recursive: bool) -> list[str]:
        """The names in `folder` of the files below it, and of folders if not `recursive`."""
        from pyarrow.fs import FileSelector, FileType

        with self._naming(folder):
            filesystem, name = self.opened(folder)
            infos = filesystem.get_file_info(FileSelector(name, allow_not_found=True, recursive=recursive))
            base = len(name.strip("/")) + 1
            return [i.path.strip("/")[base:] for i in infos if not recursive or i.type == FileType.File]

    @contextlib.contextmanager
    def _naming(self, path: Path, doing: str = "") -> Iterator[None]:
        """Inside, what any file system may raise becomes an OSError that names the file at the URI."""
        try:
            yield
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001  # fsspec's file systems raise what they like
            # From None: a traceback must not print what was taken out here.
            raise OSError(f"{self.name(path)}{doing}: {without_secrets(self.uri, error)}") from None


def locate(where: str | Path) -> Path | Remote:
    """A local folder, or the place that a URI points to; raises ConfigError for a URI that names none.

    Raises OSError if opening it needs a network that is not there.
    """
    if isinstance(where, Path) or not is_uri(where):
        return Path(where)
    from pyarrow.fs import LocalFileSystem

    remote = Remote.of(where)
    with remote._naming(remote.copy):
        filesystem, path = open_uri(where)
    return Path(path) if isinstance(filesystem, LocalFileSystem) else remote


def local_folder(what: str, where: str | Path) -> Path:
    """`where` as a path; raises ConfigError, naming the option `what`, for a URI."""
    if isinstance(where, str) and is_uri(where):
        raise ConfigError(
            f"{what} {redact(where)}: has to be on a disk of this machine; only the --out of a run may be a URI"
        )
    return Path(where)
