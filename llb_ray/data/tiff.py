"""Choice of the picture of a TIFF that is meant: a camera's or a scanner's file holds previews, and marks them.

A page is a preview, a pyramid's level or a mask where its tag NewSubfileType (or the older SubfileType) says so, and so
is a page below another one (tag SubIFDs) that is smaller and says nothing.  Of the others there has to be one.
"""

import io
import struct
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from PIL.TiffImagePlugin import COMPRESSION_INFO, ImageFileDirectory_v2

from llb_ray.data.unreadable_files import SAVE_AS, UnreadableImage

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _FORMAT = 256, 257, 258, 259, 262, 277, 339
_NEW_SUBFILE, _SUBFILE, _SUB_IFDS, _ORIENTATION = 254, 255, 330, 274
_NOT_FULL = 1 | 4 | 8 | 16  # bits of NewSubfileType: reduced, mask, depth, enhanced by software
_OLD_REDUCED = 2
_RAW = {32803: "a colour filter array", 34892: "linear raw data"}
_RAW_MARK = slice(8, 10), b"CR"  # Canon's CR2 says nothing else
_MOST_PAGES = 1024
_SHORT = 3  # the type of a number
_BIG = 43  # the mark of BigTIFF
_SIGNED = 2
_FORMATS = {1: "unsigned", _SIGNED: "signed", 3: "float", 5: "complex", 6: "complex"}
_CODECS = {34712: "JPEG 2000", 33003: "JPEG 2000", 34887: "LERC", 50002: "JPEG XL", 52546: "JPEG XL", 34892: "JPEG"}


class Page(NamedTuple):
    """One picture: the place of its directory in the file, and the directory's entries."""

    offset: int
    tags: ImageFileDirectory_v2
    parent: "Page | None"


def meant(file: IO[bytes]) -> IO[bytes]:
    """The TIFF, or a copy in memory that begins with the meant picture where another one is the first.

    Raises UnreadableImage for several pictures, and for the sensor's data of a camera.
    """
    head = file.read(16)
    pages = list(_pages(file, head))
    full = [page for page in pages if _is_full(page)]
    if len(full) != 1 and len(pages) > 1:
        raise UnreadableImage(f"has {len(full) or len(pages)} frames; split it into single images")
    page = (full or pages)[0]
    raw = _RAW.get(page.tags.get(_PHOTOMETRIC, 0))
    if raw or head[_RAW_MARK[0]] == _RAW_MARK[1]:
        raise UnreadableImage(f"a camera's raw file ({raw or 'CR2'}); develop it to TIFF, PNG or JPEG")
    file.seek(0)
    return file if page.offset == pages[0].offset else _beginning_with(page, file.read())


def is_signed_byte(tags: Any) -> bool:
    """True if values are signed ones of 8 bits, which Pillow takes for unsigned."""
    return set(tags.get(_FORMAT, ())) == {_SIGNED} and set(tags.get(_BITS, ())) == {8}


def size_of(tags: Any) -> tuple[int, int]:
    """Width and height as they are stored, before any turning."""
    return int(tags[_WIDTH]), int(tags[_HEIGHT])


def undecodable(file: IO[bytes]) -> str:
    """Message about a meant picture of a TIFF that no decoder here reads: what it holds, and what to do."""
    file.seek(0)
    tags = _directory(file.read(16))
    file.seek(tags.next)
    tags.load(file)
    bits = tags.get(_BITS, (1,))
    samples = tags.get(_SAMPLES, 1)
    kind = _FORMATS.get(tags.get(_FORMAT, (1,))[0], "undefined")
    number = tags.get(_COMPRESSION, 1)
    packed = "" if number == 1 else f", compression {number} ({_codec(number)})"
    return f"a TIFF of {samples} x {bits[0]}-bit {kind} values{packed}, which is not read; {SAVE_AS}"


def _codec(number: int) -> str:
    return _CODECS.get(number) or COMPRESSION_INFO.get(number) or "unknown"


def _directory(head: bytes) -> ImageFileDirectory_v2:
    """A directory that can be loaded, by the header of its file."""
    return ImageFileDirectory_v2(head[: 16 if head[2] == _BIG else 8])


def _pages(file: IO[bytes], head: bytes) -> Iterator[Page]:
    """Every page of the file, and every page below one; a loop ends."""
    seen = set[int]()
    pending: list[tuple[int, Page | None]] = [(_directory(head).next, None)]
    while pending and len(seen) < _MOST_PAGES:
        offset, parent = pending.pop()
        if not offset or offset in seen:
            continue
        seen.add(offset)
        tags = _directory(head)
        file.seek(offset)
        tags.load(file)
        page = Page(offset, tags, parent)
        yield page
        if parent is None:
            pending.append((tags.next, None))
            pending += [(place, page) for place in reversed(_numbers(tags.get(_SUB_IFDS, ())))]


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,)


def _is_full(page: Page) -> bool:
    if _NEW_SUBFILE in page.tags:
        return int(page.tags[_NEW_SUBFILE]) & _NOT_FULL == 0
    if page.parent is not None:
        here, above = (int(tags.get(_WIDTH, 0)) * int(tags.get(_HEIGHT, 0)) for tags in (page.tags, page.parent.tags))
        return here >= above
    return int(page.tags.get(_SUBFILE, 0)) != _OLD_REDUCED


def _beginning_with(page: Page, content: bytes) -> IO[bytes]:
    """The file with this page as its first and only one, upright as its parent says where it says nothing itself."""
    endian = ">" if content[:1] == b"M" else "<"
    big = content[2] == _BIG
    # The number of entries, one of them (number, type, count, value), and a place in the file.
    forms = ("Q", "HHQ8s", "Q") if big else ("H", "HHL4s", "L")
    count, entry, place = (struct.Struct(endian + form) for form in forms)
    start = page.offset + count.size
    end = start + count.unpack_from(content, page.offset)[0] * entry.size
    entries = list(entry.iter_unpack(content[start:end]))
    if page.parent and _ORIENTATION in page.parent.tags and _ORIENTATION not in page.tags:
        turned = struct.pack(f"{endian}H", page.parent.tags[_ORIENTATION])
        entries = sorted([*entries, (_ORIENTATION, _SHORT, 1, turned)])
    directory = count.pack(len(entries)) + b"".join(entry.pack(*one) for one in entries) + place.pack(0)
    at = place.size  # of the place of the first directory
    return io.BytesIO(content[:at] + place.pack(len(content)) + content[2 * at :] + directory)
