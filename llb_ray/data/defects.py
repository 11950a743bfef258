"""Defects: what can go wrong with a surface, each with the exact mask of the pixels it alters.

A defect takes the surface, the point it sits at (row and column, pixels), a strength from 0 (hard to see) to 1
(plain) and a generator; it gives how much of each pixel it covers, HW in 0..1, and what it covers them with, HW3.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter1d

from llb_ray.data.textures import Array, Mask, Surface, smooth_noise

FAINTEST = 0.25  # thinner coverage is cut to none, so that a mask is exact and has no invisible fringe
OVERSAMPLING = 4  # strokes are drawn this much larger and averaged down, for soft edges

Point = npt.NDArray[np.float64]
Defect = Callable[[Surface, Point, float, np.random.Generator], tuple[Array, Array]]


def damage(
    surface: Surface, name: str, point: Point, strength: float, rng: np.random.Generator
) -> tuple[Surface, Mask]:
    """The surface with the defect `name` on it, and the mask [H, W] of exactly the pixels that were painted."""
    cover_HW, paint_HW3 = DEFECTS[name](surface, point, strength, rng)
    cover_HW = np.where(cover_HW < FAINTEST, np.float32(0), cover_HW)
    if name not in OVERHANGING:
        cover_HW = cover_HW * surface.support_HW
    image_HW3 = surface.image_HW3 + cover_HW[..., None] * (paint_HW3 - surface.image_HW3)
    return Surface(image_HW3, surface.support_HW, surface.behind_HW3), cover_HW > 0


def scratch(surface: Surface, point: Point, strength: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """A thin, slightly bent line, lighter or darker than the material."""
    length = len(surface.image_HW3) * rng.uniform(0.25, 0.5)
    cover_HW = _stroke(surface, _curve(point, length, bend=0.12, rng=rng), rng.uniform(1.5, 2.6))
    step = rng.choice([-1.0, 1.0]) * (0.18 + 0.3 * strength)
    return cover_HW, surface.image_HW3 + np.float32(step)


def fibre(surface: Surface, point: Point, strength: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """A curled thread that fell on the product, of one plain colour."""
    length = len(surface.image_HW3) * rng.uniform(0.4, 0.7)
    cover_HW = _stroke(surface, _curve(point, length, bend=0.9, rng=rng), rng.uniform(1.3, 2.0))
    colours = np.asarray([(0.9, 0.9, 0.85), (0.1, 0.1, 0.25), (0.7, 0.15, 0.1)], np.float32)
    return cover_HW * np.float32(0.5 + 0.5 * strength), np.broadcast_to(rng.choice(colours), surface.image_HW3.shape)


def stain(surface: Surface, point: Point, strength: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """An irregular spill that tints and darkens what is below it."""
    cover_HW = _patch(surface, point, rng.uniform(0.07, 0.14), ragged=0.35, rng=rng)
    tint = 1 - (0.25 + 0.4 * strength) * rng.uniform(0.5, 1.0, 3)
    return cover_HW, surface.image_HW3 * tint.astype(np.float32)


def hole(surface: Surface, point: Point, strength: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """A round hole through which the backing shows; strength sets its size."""
    cover_HW = _patch(surface, point, 0.025 + 0.05 * strength, ragged=0.08, rng=rng)
    return cover_HW, surface.behind_HW3


def cut(surface: Surface, point: Point, strength: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """A missing piece: a splintered polygon of the product is gone and the backing shows."""
    reach = len(surface.image_HW3) * (0.06 + 0.07 * strength)
    angles = np.linspace(0, 2 * np.pi, 6)[:-1] + rng.uniform(-0.5, 0.5, 5)  # all round the point, which is gone too
    spokes = reach * rng.uniform(0.6, 1.6, 5)
    corners = point + spokes[:, None] * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    return _polygon(surface, corners), surface.behind_HW3


def smear(surface: Surface, point: Point, strength: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """A patch wiped along one axis, its pattern lost and its tone shifted: a misprint or a burnish."""
    cover_HW = _patch(surface, point, rng.uniform(0.08, 0.13), ragged=0.2, rng=rng)
    wiped_HW3 = gaussian_filter1d(surface.image_HW3, 0.08 * len(cover_HW), axis=int(rng.integers(2)), mode="nearest")
    return cover_HW, wiped_HW3 + np.float32(0.1 + 0.17 * strength)


def dent(surface: Surface, point: Point, strength: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """A hollow: bright on the side that faces the light, dark on the other."""
    radius = rng.uniform(0.07, 0.11)
    down_HW, right_HW = _offsets(surface, point)
    turn = rng.uniform(0, 2 * np.pi)
    slope_HW = (np.cos(turn) * right_HW + np.sin(turn) * down_HW) / radius
    shade_HW = (0.15 + 0.3 * strength) * (slope_HW + np.sign(slope_HW) * 0.3)
    cover_HW = _patch(surface, point, radius, ragged=0.05, rng=rng)
    return cover_HW, surface.image_HW3 + shade_HW[..., None].astype(np.float32)


DEFECTS: dict[str, Defect] = {
    "cut": cut,
    "dent": dent,
    "fibre": fibre,
    "hole": hole,
    "scratch": scratch,
    "smear": smear,
    "stain": stain,
}
OVERHANGING = frozenset({"fibre"})  # is on the product and on what is behind it; the others are in the material


def _offsets(surface: Surface, point: Point) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Distances below and right of `point` of each pixel, in canvas sides."""
    side_px = len(surface.image_HW3)
    axis = np.arange(side_px)
    down_HW, right_HW = np.meshgrid((axis - point[0]) / side_px, (axis - point[1]) / side_px, indexing="ij")
    return down_HW, right_HW


def _patch(surface: Surface, point: Point, radius: float, ragged: float, rng: np.random.Generator) -> Array:
    """Coverage of a disc of `radius` (canvas sides) whose edge wanders by the share `ragged` of it."""
    down_HW, right_HW = _offsets(surface, point)
    side_px = len(down_HW)
    edge_HW = radius * (1 + ragged * smooth_noise(rng, side_px, side_px / 20).clip(-2, 2))
    cover_HW = np.clip((edge_HW - np.hypot(down_HW, right_HW)) * side_px + 0.5, 0, 1)
    return cover_HW.astype(np.float32)


def _curve(point: Point, length: float, bend: float, rng: np.random.Generator) -> Point:
    """Points [24, 2] along a curve of `length` pixels through `point`; `bend` is its wander in radians per quarter."""
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bend / np.sqrt(6), 24))
    steps = length / 24 * np.stack([np.sin(heading), np.cos(heading)], axis=1)
    path: Point = np.cumsum(steps, axis=0)
    centred: Point = path + (point - path[12])
    return centred


def _stroke(surface: Surface, points: Point, width_px: float) -> Array:
    """Coverage of a line of `width_px` through the points."""
    image = _blank(surface)
    line = [tuple(xy) for xy in points[:, ::-1] * OVERSAMPLING]
    ImageDraw.Draw(image).line(line, fill=255, width=round(width_px * OVERSAMPLING), joint="curve")
    return _averaged(image)


def _polygon(surface: Surface, corners: Point) -> Array:
    """Coverage of the polygon with these corners."""
    image = _blank(surface)
    ImageDraw.Draw(image).polygon([tuple(xy) for xy in corners[:, ::-1] * OVERSAMPLING], fill=255)
    return _averaged(image)


def _blank(surface: Surface) -> Image.Image:
    side = len(surface.image_HW3) * OVERSAMPLING
    return Image.new("L", (side, side))


def _averaged(image: Image.Image) -> Array:
    return np.asarray(image.reduce(OVERSAMPLING), np.float32) / 255
