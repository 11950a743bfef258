"""The size that photographs are brought to: a side of a square, or height and width."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PositiveInt

Size = tuple[int, int]  # height and width, in pixels


def sides(size_px: int | Size) -> Size:
    """Height and width of a size that may be the side of a square.

    >>> sides(224), sides((192, 320))
    ((224, 224), (192, 320))
    """
    return (size_px, size_px) if isinstance(size_px, int) else size_px


def dump_size(size_px: int | Size) -> int | list[int]:
    """The size as a configuration has it, JSON-ready."""
    return size_px if isinstance(size_px, int) else list(size_px)


def format_size(size_px: int | Size) -> str:
    """``224 x 320``, height first, as arrays and `image_size_px` have it."""
    return " x ".join(map(str, sides(size_px)))


def _refuse_other_shapes(value: Any) -> Any:
    """The value, where pydantic's words about each member of the union would be many."""
    whole = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
    if not all(type(side) is int and 0 < side <= MOST_PX for side in whole):
        raise ValueError(f"give the side of a square, or [height, width], in whole pixels from 1 to {MOST_PX}")
    return value


def _square_as_one(size_px: int | Size) -> int | Size:
    """A square by its side, so that both spellings are one size, and one key."""
    height, width = sides(size_px)
    return height if height == width else size_px


MOST_PX = 16384  # of a side
ImageSize = Annotated[
    PositiveInt | tuple[PositiveInt, PositiveInt],
    BeforeValidator(_refuse_other_shapes),
    AfterValidator(_square_as_one),
]
