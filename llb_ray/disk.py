"""Files on a local disk: written whole or not at all, and an error that names them."""

import contextlib
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TEMPORARY = ".tmp"
_HASH_CHUNK_BYTES = 1 << 20


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


def sync(path: Path) -> None:
    """Have a file's bytes on the disk before anything that is written later."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file that is never changed in place; a copy where a disk cannot give it one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def write_atomic(path: Path, data: bytes, durable: bool = False) -> None:
    """Replace `path` by `data` so that a reader sees the old file or the new one, never a part.

    If `durable`, nor after a power cut, which may else leave the new name without bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_TEMPORARY}")
    try:
        with naming(path):
            temporary.write_bytes(data)
            if durable:
                sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


_DIGITS = 64


def seal_content(content: bytes) -> bytes:
    """The content after its sha256, for a file whose name and length outlive its bytes in a power cut."""
    return hashlib.sha256(content).hexdigest().encode() + content


def unseal_content(content: bytes) -> bytes | None:
    """Content that `seal_content` sealed; None for anything else."""
    sha256, inside = content[:_DIGITS], content[_DIGITS:]
    return inside if hashlib.sha256(inside).hexdigest().encode() == sha256 else None


class Disk:
    """The files of this machine, with the methods of a `llb_ray.remote.Remote` that a single file needs."""

    def name(self, path: Path) -> str:
        """Display name of the file."""
        return str(path)

    def read(self, path: Path) -> bytes | None:
        """The file's bytes, or None where there is no such file."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return path.read_bytes()
        return None

    def write(self, path: Path, content: bytes) -> None:
        """Replace the file by these bytes; a reader sees the old file or the new one."""
        write_atomic(path, content)

    def delete(self, path: Path) -> None:
        """Remove the file, if there is one, and what a killed `write` of it left."""
        path.unlink(missing_ok=True)
        clear_temporary(path.parent, path.name)


LOCAL = Disk()


def clear_temporary(folder: Path, name: str = "") -> None:
    """Remove what `write_atomic` left in `folder`, of all files or of one, when its process was killed."""
    for path in folder.glob(f".{glob.escape(name)}*{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def json_bytes(value: Any) -> bytes:
    """`value` as indented JSON: always the same bytes for the same value."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, json_bytes(value))
