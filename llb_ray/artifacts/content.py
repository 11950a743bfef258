"""Files compared with their digests, each when a process uses it for the first time, and again if it changed since.

It costs one reading of what is used, at the speed of sha256 or of the disk (docs/file-formats.md has figures).  With
LLB_NO_VERIFY=1 in the environment (--no-verify) nothing is compared; `audit` compares everything whatever it says.
"""

import os
from pathlib import Path

from llb_ray.disk import file_digest

SKIP = "LLB_NO_VERIFY"
_Sight = tuple[int, int, int, int, str]  # device, inode, size, time of change, and the digest it was found to have
_compared: set[_Sight] = set()


def has_digest(path: Path, sha256: str) -> bool:
    """True if the file's content is the one of this digest; raises OSError where it cannot be read."""
    if os.environ.get(SKIP) == "1":
        return True
    sight = _sight(path, sha256)
    if sight not in _compared:
        if file_digest(path) != sha256:
            return False
        _compared.add(sight)
    return True


def compute_digest(path: Path) -> str:
    """The file's digest, which `has_digest` need not compute again."""
    sha256 = file_digest(path)
    _compared.add(_sight(path, sha256))
    return sha256


def _sight(path: Path, sha256: str) -> _Sight:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, sha256
