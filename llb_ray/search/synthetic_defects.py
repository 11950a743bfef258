"""A defect planted in a real photograph: one of the synthetic defects, or a piece of the same picture out of place.

The defect is made on a small square canvas and only the *change* it makes is enlarged and added, so that strokes have
the same size relative to every photograph, and the photograph's own grain stays.  HW, HW3: rows, columns, RGB in 0..1.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from llb_ray.data.defects import DEFECTS, Point, damage
from llb_ray.data.textures import Array, Mask, Surface, smooth_noise

KINDS = (*DEFECTS, "transplant")
CANVAS_PX = 128
FAINTEST_CHANGE = 0.06  # mean over the defect: fainter ones drown in the grain of a photograph
FADED = 0.4, 1.0  # drawn for each defect: full contrast alone would be too easy
TRIES = 6
PLAIN_KIND = "hole"  # shows on anything
SPOTS = 5
Pixels = npt.NDArray[np.uint8]


def plant_defect(image_HW3: Pixels, kind: str, rng: np.random.Generator) -> tuple[Pixels, str]:
    """A copy of the photograph with a visible defect in it, and the defect's kind.

    Some kinds cannot be seen on some pictures (a smear on plain white): after `TRIES` of them it is a hole.
    """
    for name in [kind] * TRIES + [PLAIN_KIND] * TRIES:
        result_HW3, change = _changed(image_HW3, name, rng)
        if change >= FAINTEST_CHANGE:
            break
    return result_HW3, name


def _changed(image_HW3: Pixels, kind: str, rng: np.random.Generator) -> tuple[Pixels, float]:
    """The photograph with a defect, and how much that changes what it covers, 0 to 1."""
    side = min(image_HW3.shape[:2])
    top, left = (int(rng.integers(length - side + 1)) for length in image_HW3.shape[:2])
    window = np.s_[top : top + side, left : left + side]
    canvas_HW3 = _resized(image_HW3[window].astype(np.float32) / 255, CANVAS_PX)
    damaged_HW3, mask_HW = _damaged(canvas_HW3, kind, rng)
    change_HW3 = (damaged_HW3.clip(0, 1) - canvas_HW3) * np.float32(rng.uniform(*FADED))
    if _is_grey(image_HW3):
        change_HW3 = np.broadcast_to(change_HW3.mean(axis=2, keepdims=True), change_HW3.shape)
    result_HW3 = image_HW3.copy()
    result_HW3[window] = (image_HW3[window] + 255 * _resized(change_HW3, side)).round().clip(0, 255).astype(np.uint8)
    return result_HW3, float(np.abs(change_HW3[mask_HW]).mean()) if mask_HW.any() else 0.0


def _damaged(canvas_HW3: Array, kind: str, rng: np.random.Generator) -> tuple[Array, Mask]:
    point, strength = _spot(canvas_HW3, rng), rng.uniform()
    if kind == "transplant":
        return _transplanted(canvas_HW3, point, strength, rng)
    behind = 0.04 if _around(canvas_HW3, point).mean() > 0.25 else 0.8  # a hole in something dark lets light through
    surface = Surface(canvas_HW3, np.ones(canvas_HW3.shape[:2], np.bool_), np.full_like(canvas_HW3, behind))
    damaged, mask_HW = damage(surface, kind, point, strength, rng)
    return damaged.image_HW3, mask_HW


def _transplanted(canvas_HW3: Array, point: Point, strength: float, rng: np.random.Generator) -> tuple[Array, Mask]:
    """A ragged piece from elsewhere in the picture, a little lighter or darker (CutPaste, arXiv 2104.04015)."""
    side = len(canvas_HW3)
    row_HW, column_HW = np.mgrid[:side, :side]
    edge_HW = rng.uniform(0.07, 0.14) * side * (1 + 0.3 * smooth_noise(rng, side, side / 20).clip(-2, 2))
    distance_HW = np.hypot(row_HW - point[0], column_HW - point[1])
    cover_HW = (edge_HW - distance_HW).clip(0, 1).astype(np.float32)
    shift = rng.choice([-1, 1], 2) * rng.integers(side // 4, side // 2, 2)
    piece_HW3 = np.roll(canvas_HW3, shift, axis=(0, 1)) + np.float32(rng.choice([-1.0, 1.0]) * 0.2 * strength)
    return canvas_HW3 + cover_HW[..., None] * (piece_HW3 - canvas_HW3), cover_HW > 0


def _spot(canvas_HW3: Array, rng: np.random.Generator) -> Point:
    """Row and column of the most structured of a few random spots: what is behind a product is plain."""
    spots: Point = rng.uniform(0.2, 0.8, (SPOTS, 2)) * len(canvas_HW3)
    chosen: Point = spots[int(np.argmax([_around(canvas_HW3, spot).std() for spot in spots]))]
    return chosen


def _around(canvas_HW3: Array, spot: Point) -> Array:
    (row, column), reach = spot.astype(int), len(canvas_HW3) // 12
    return canvas_HW3[row - reach : row + reach, column - reach : column + reach]


def _resized(image_HW3: npt.NDArray[Any], side: int) -> Array:
    """Bilinear, with antialias where it shrinks; [side, side, 3], of any sign."""
    planes = [
        Image.fromarray(plane.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
        for plane in np.moveaxis(image_HW3, 2, 0)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


def _is_grey(image_HW3: Pixels) -> bool:
    return bool((image_HW3 == image_HW3[..., :1]).all())
