"""The tables that data sets come with."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from llb_ray.data.manifest import path_text
from llb_ray.disk import file_digest
from llb_ray.errors import DataError


@dataclass(frozen=True)
class Source:
    """A file that was read whole; a listing says which it was made of."""

    path: Path
    name: str  # below the root, where it is there
    content: bytes

    @classmethod
    def read(cls, root: Path, path: Path) -> "Source":
        """The file at `path`, relative to the root or absolute; raises DataError if it cannot be read."""
        where = root / path
        try:
            content = _of_folder(where) if where.is_dir() else where.read_bytes()
        except OSError as error:
            raise DataError(f"{where}: cannot be read ({error.strerror}); is {root} the right folder?") from error
        return cls(where, where.relative_to(root).as_posix() if where.is_relative_to(root) else str(where), content)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def text(self) -> str:
        """The content as text, a byte order mark removed; raises DataError if it is not UTF-8."""
        try:
            return self.content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error


def _of_folder(folder: Path) -> bytes:
    """The names and digests of the files in a folder, which stand for them: a Parquet table may be one."""
    names = sorted(name for name in os.listdir(folder) if (folder / name).is_file())
    return "".join(f"{file_digest(folder / name)}  {path_text(name)}\n" for name in names).encode()
