"""TIFF files of any pages and pages below pages, written byte by byte: no library writes all that cameras write."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

SUBFILE, OLD_SUBFILE, COMPRESSION, PHOTOMETRIC, ORIENTATION, SUB_IFDS = 254, 255, 259, 262, 274, 330
_FORMATS = {"u": 1, "i": 2, "f": 3}


@dataclass
class Page:
    """One picture [H, W] or [H, W, C], tags beside the usual ones, and the pages below it."""

    pixels: NDArray[Any]
    tags: dict[int, int] = field(default_factory=dict)
    below: Sequence["Page"] = ()


def write_tiff(path: Path, pages: Sequence[Page], endian: str = "<", big: bool = False, mark: bytes = b"") -> Path:
    """Write an uncompressed TIFF; `mark` follows its header, as Canon's does."""
    writer = _Writer(endian, big, mark)
    places = [writer.page(page) for page in pages]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(writer.linked(places))
    return path


class _Writer:
    def __init__(self, endian: str, big: bool, mark: bytes) -> None:
        self._endian, self._big = endian, big
        self._count, self._place = ("Q", "Q") if big else ("H", "L")
        head = (b"II" if endian == "<" else b"MM") + struct.pack(f"{endian}H", 43 if big else 42)
        head += struct.pack(f"{endian}HH", 8, 0) if big else b""
        self._head = len(head)
        self._bytes = bytearray(head + struct.pack(f"{endian}{self._place}", 0) + mark)
        self._nexts = dict[int, int]()

    def page(self, page: Page) -> int:
        """The place of the page's directory, which is written with all below it."""
        below = [self.page(one) for one in page.below]
        pixels, channels = page.pixels, page.pixels.shape[2] if page.pixels.ndim == 3 else 1
        data = self._add(pixels.astype(pixels.dtype.newbyteorder(self._endian)).tobytes())
        bits = [8 * pixels.itemsize] * channels
        tags: dict[int, Sequence[int]] = {
            256: [pixels.shape[1]],
            257: [pixels.shape[0]],
            258: bits,
            259: [1],
            262: [2 if channels >= 3 else 1],
            273: [data],
            277: [channels],
            278: [pixels.shape[0]],
            279: [pixels.nbytes],
            339: [_FORMATS[pixels.dtype.kind]] * channels,
            **({SUB_IFDS: below} if below else {}),
            **{tag: [value] for tag, value in page.tags.items()},
        }
        entries = [self._entry(tag, tags[tag]) for tag in sorted(tags)]
        directory = struct.pack(f"{self._endian}{self._count}", len(entries)) + b"".join(entries)
        place = self._add(directory)
        self._nexts[place] = self._add(struct.pack(f"{self._endian}{self._place}", 0), aligned=False)
        return place

    def linked(self, places: Sequence[int]) -> bytes:
        """The whole file, its chain of pages closed."""
        for at, place in zip([self._head, *(self._nexts[place] for place in places)], places, strict=False):
            struct.pack_into(f"{self._endian}{self._place}", self._bytes, at, place)
        return bytes(self._bytes)

    def _entry(self, tag: int, values: Sequence[int]) -> bytes:
        kind, form = (3, "H") if tag in (258, 262, 274, 277, 339) else (4, "L")
        packed = struct.pack(f"{self._endian}{len(values)}{form}", *values)
        room = 8 if self._big else 4
        if len(packed) > room:
            packed = struct.pack(f"{self._endian}{self._place}", self._add(packed))
        return struct.pack(f"{self._endian}HH{self._place}", tag, kind, len(values)) + packed.ljust(room, b"\0")

    def _add(self, content: bytes, aligned: bool = True) -> int:
        if aligned and len(self._bytes) % 2:
            self._bytes += b"\0"
        self._bytes += content
        return len(self._bytes) - len(content)
