"""Cache of what earlier commands found out about files, so that a large folder is decoded and hashed only once.

A file is known again by its path, size, and the times of its last change: that of its content, which tools can set, and
that of its inode, which they cannot.  Only good images are remembered.  The cache is under $LLB_CACHE, or else in the
user's cache folder, and may be deleted.
"""

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_NAME = "images-3.sqlite"  # another number whenever `llb_ray.data.decoding` would judge a file otherwise
_TABLE = """CREATE TABLE IF NOT EXISTS image (
    path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, image_id TEXT, num_pixels INTEGER,
    signature BLOB
) WITHOUT ROWID"""
_FIND = "SELECT image_id, num_pixels, signature FROM image WHERE path=? AND size=? AND mtime_ns=? AND ctime_ns=?"
_SETTLED_S = 2.0  # a younger file may change again and show the same times: some file systems count in 2 s
_AT_ONCE = 256  # rows a transaction: a killed command loses no more, and others wait no longer
_log = logging.getLogger(__name__)


class Sight(NamedTuple):
    """A file as its file system shows it."""

    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> "Sight | None":
        """Present state of the file; None where there is nothing to see."""
        try:
            status = os.stat(path)
        except (OSError, ValueError):  # ValueError: a name that no file can have
            return None
        return cls(os.fsencode(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Known(NamedTuple):
    """A good image: its id, the pixels that data.max_pixels must allow, and what it looks like."""

    image_id: str
    num_pixels: int
    signature: bytes


class Remembered:
    """The cache, opened; safe to call from several threads, and open in several processes at once."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._learnt: list[tuple[bytes | int | str, ...]] = []

    @classmethod
    @contextlib.contextmanager
    def opened(cls) -> Iterator["Remembered"]:
        """The user's cache; where that cannot be used a warning, and one that is forgotten afterwards."""
        memory = cls(_connected())
        try:
            yield memory
        finally:
            with memory._lock:
                memory._store()
            memory._connection.close()

    def find(self, sight: Sight) -> Known | None:
        """The cached facts about the file that looks like this."""
        with self._lock:
            try:
                row = self._connection.execute(_FIND, sight).fetchone()
            except sqlite3.Error as error:
                self._connection = _without(error)
                return None
        return None if row is None else Known(*row)

    def learn(self, sight: Sight, known: Known) -> None:
        """Remember what was read of a file that looked like this before it was read, unless it is too young."""
        if time.time() - max(sight.mtime_ns, sight.ctime_ns) / 1e9 < _SETTLED_S:
            return
        with self._lock:
            self._learnt.append((*sight, *known))
            if len(self._learnt) >= _AT_ONCE:
                self._store()

    def _store(self) -> None:
        rows, self._learnt = self._learnt, []
        try:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO image VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            self._connection = _without(error)


def _file() -> Path:
    from platformdirs import user_cache_path

    return Path(os.environ.get("LLB_CACHE") or user_cache_path("llb_ray")).absolute() / _NAME


def _connected() -> sqlite3.Connection:
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        return _open(str(_file()))
    except (OSError, sqlite3.Error) as error:
        return _without(error)


def _without(error: Exception) -> sqlite3.Connection:
    _log.warning("%s: cannot be used, so images are read again (%s); delete it, or set LLB_CACHE", _file(), error)
    return _open(":memory:")


def _open(name: str) -> sqlite3.Connection:
    connection = sqlite3.connect(name, timeout=30, check_same_thread=False)
    try:
        connection.execute(_TABLE)
    except sqlite3.Error:
        connection.close()
        raise
    return connection
