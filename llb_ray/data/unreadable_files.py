"""Reasons why a file cannot be used as an image, as sentences."""

import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

# What Pillow's decoders raise on damaged bytes: 336,000 fuzzed files of every format raised nothing else.  The last two
# come from damaged arrays (`llb_ray.data.bands`).
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    zipfile.BadZipFile,
    tokenize.TokenError,
)
SAVE_AS = "save it as PNG or TIFF with 8 or 16 bits, grey or RGB"
# Decoders' words that do not help the owner of the file.
_PLAIN_WORDS = (
    (r"cannot handle (\d+)-bit layers", rf"a JPEG of \1 bits a channel, and only 8 are read; {SAVE_AS}"),
    (r"not identified by this driver|cannot identify image file", f"of a variant that is not read; {SAVE_AS}"),
    (r"Missing dimensions|Invalid dimensions", "damaged: its header has no width and height"),
    (
        r"Truncated File Read|broken data stream|image file is truncated.*|unrecognized data stream.*",
        "cut off or damaged",
    ),
)


class UnreadableImage(Exception):
    """Internal: a file is not one usable image; `reason` is a short phrase for the quarantine table."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@contextmanager
def refusing() -> Iterator[None]:
    """Inside, whatever a decoder raises on damaged bytes is raised as UnreadableImage."""
    try:
        yield
    except _DECODER_ERRORS as error:
        raise UnreadableImage(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """One line: the operating system's words if it refused, otherwise what the decoder's mean."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    words = " ".join(str(error).split()) or type(error).__name__
    for pattern, plain in _PLAIN_WORDS:
        if match := re.fullmatch(pattern, words):
            words = match.expand(plain)
    return f"cannot be decoded ({words})"
