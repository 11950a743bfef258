"""Shapes that people label with, and the mask that some of them make.

Shapes: P corners, x and y in pixels of the image, upright; H x W pixels.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_ELLIPSE_CORNERS = 72
_FINE = 5  # parts of a pixel's side; odd, so that one is in its middle
# What reading a tree of JSON of another form raises.
MALFORMED = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError)
Corners = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Runs(NamedTuple):
    """The pixels of a box as lengths of runs, outside and inside by turns, beginning outside."""

    counts: Sequence[int]
    left: int
    top: int
    width: int
    height: int
    by_column: bool  # as COCO counts; else row by row, as CVAT does


Shape = Corners | Runs  # a polygon [P, 2], or runs


def polygon(points: Any) -> Corners:
    """The polygon with these corners, pairs or flat; raises ValueError for what is none."""
    corner_P2 = np.array(points, float).reshape(-1, 2)
    if len(corner_P2) < 3 or not np.isfinite(corner_P2).all() or np.abs(corner_P2).max() > 1e6:
        raise ValueError("a shape has no corners that an image can have")
    return corner_P2


def rectangle(left: float, top: float, right: float, bottom: float) -> Corners:
    """The polygon of a box."""
    return polygon([[left, top], [right, top], [right, bottom], [left, bottom]])


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> Corners:
    """The polygon of an ellipse about a centre."""
    angle_P = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)
    return polygon(np.stack([x + radius_x * np.cos(angle_P), y + radius_y * np.sin(angle_P)], axis=1))


def labelme_shape(shape: Any) -> Corners:
    """The polygon of a shape in a file of labelme; raises one of `MALFORMED` for what is none."""
    kind, points = shape.get("shape_type") or "polygon", shape["points"]
    if kind == "polygon":
        return polygon(points)
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points
        return rectangle(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    if kind == "circle":
        (x, y), (on_x, on_y) = points
        radius = math.hypot(on_x - x, on_y - y)
        return ellipse(x, y, radius, radius)
    raise ValueError(f"a shape is a {kind}; draw polygons, rectangles or circles")


def mask_of(shapes: Sequence[Shape], width: int, height: int) -> Bools:
    """True inside any of the shapes [H, W]; raises ValueError for runs that do not fit the image."""
    mask_HW = np.zeros((height, width), bool)
    for shape in shapes:
        if isinstance(shape, Runs):
            _add(mask_HW, shape)
        else:
            _fill(mask_HW, shape)
    return mask_HW


def _fill(mask_HW: Bools, corner_P2: Corners) -> None:
    """Add the pixels whose centres are inside a polygon; of one without any, those that its outline crosses."""
    height, width = mask_HW.shape
    left, top = np.floor(corner_P2.min(axis=0)).clip(0, (width, height)).astype(int)
    right, bottom = np.ceil(corner_P2.max(axis=0)).clip(0, (width, height)).astype(int)
    box_hw = mask_HW[top:bottom, left:right]
    if not box_hw.size:
        return
    # Pillow also draws pixels that an edge touches: of a finer drawing, the middle of each pixel is taken.
    fine_hw = _drawn((corner_P2 - (left, top)) * _FINE - 0.5, box_hw.shape[1] * _FINE, box_hw.shape[0] * _FINE)
    inside_hw = fine_hw[_FINE // 2 :: _FINE, _FINE // 2 :: _FINE]
    box_hw |= inside_hw if inside_hw.any() else _drawn(corner_P2 - (left, top), box_hw.shape[1], box_hw.shape[0])


def _drawn(corner_P2: Corners, width: int, height: int) -> Bools:
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in corner_P2], fill=1)
    return np.array(canvas)


def _add(mask_HW: Bools, runs: Runs) -> None:
    height, width = mask_HW.shape
    inside = 0 <= runs.left <= runs.left + runs.width <= width and 0 <= runs.top <= runs.top + runs.height <= height
    counts = np.array(runs.counts, np.int64)
    if not inside or (counts < 0).any() or counts.sum() != runs.width * runs.height:
        raise ValueError("run lengths do not fit the image")
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    shape = (runs.width, runs.height) if runs.by_column else (runs.height, runs.width)
    box = flat.reshape(shape)
    rows, columns = slice(runs.top, runs.top + runs.height), slice(runs.left, runs.left + runs.width)
    mask_HW[rows, columns] |= box.T if runs.by_column else box


def coco_counts(text: str) -> list[int]:
    """The run lengths in the text of COCO's compressed form: six bits a character, and differences from the fourth on.

    Raises ValueError for text that is none.
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 40:
            raise ValueError("run lengths are not in COCO's form")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            value -= (bits & 0x10) << 1 << (shift - 5)
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
