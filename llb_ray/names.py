"""Names that somebody else chose, made safe for what they go into: a terminal, a spreadsheet, a path."""

import hashlib
import os
import re
from pathlib import Path

from llb_ray.errors import ArtifactError

# What a terminal acts on: control characters, line ends, changes of writing direction, and bytes that are no text.
_ACTIVE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # the first character of what a spreadsheet evaluates
_UNSAFE = re.compile('[\x00-\x1f\x7f-\x9f\\\\/:*?"<>|\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
_MOST_BYTES = 120  # of a component: 255 on most file systems, less what is put before and after it
_DIGITS = 8


def shown(text: str) -> str:
    r"""The text on one line, with every character that a terminal would act on as an escape.

    >>> shown("a\x1b[2Jb\nc")
    'a\\x1b[2Jb\\nc'
    """
    return _ACTIVE.sub(_escape, text)


def cell(text: str) -> str:
    """The text as a cell of a CSV file: after an apostrophe where a spreadsheet would evaluate it."""
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(text: str) -> str:
    """The text that `cell` wrote."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text


def path_cell(path: str) -> str:
    """The path as a cell of a CSV file: the same path, spelt ``./...`` where a spreadsheet would evaluate it."""
    return f"./{path}" if _FORMULA.match(path) else path


def component(text: str, reserved: tuple[str, ...] = ()) -> str:
    """The text as one component of a path, on any file system.

    Text that had to be changed, or is `reserved` in any case, gets a digest, so that different ones stay different.
    """
    safe = _UNSAFE.sub("_", text).strip(". ")
    if safe == text and safe and safe.lower() not in reserved and len(safe.encode()) <= _MOST_BYTES:
        return safe
    safe = safe.encode()[: _MOST_BYTES - _DIGITS - 1].decode(errors="ignore").rstrip(". ")
    return f"{safe or '_'}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:_DIGITS]}"


def leaves(path: str) -> bool:
    """True if a POSIX path that is to be relative leaves the folder that it is relative to, or can be no path."""
    return path.startswith("/") or ".." in path.split("/") or "\0" in path


def below(folder: Path, name: object) -> Path:
    """``folder/name``, for a name that was read from a file.

    Raises ArtifactError for what is no relative path, leaves the folder, or is a link to the outside.
    """
    if not isinstance(name, str) or name == "." or leaves(name) or name != os.path.normpath(name):
        raise ArtifactError(f"{folder}: names {str(name)[:200]!r}, which is no path below it; do not use this folder")
    path = folder / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise ArtifactError(f"{path}: is a link that leads out of {folder}; do not use this folder")
    return path


def refuse_links(folder: Path) -> None:
    """Raise ArtifactError for a link below `folder` to the outside: it would be read, or written over, there."""
    inside = os.path.realpath(folder)
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            if os.path.islink(path) and not Path(os.path.realpath(path)).is_relative_to(inside):
                raise ArtifactError(f"{path}: is a link that leads out of {folder}; replace it by what it points to")


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as Python spells it
        return f"\\x{code - 0xDC00:02x}"
    return {9: "\\t", 10: "\\n", 13: "\\r"}.get(code) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
