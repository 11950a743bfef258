"""Surfaces: what a flawless product of each category looks like, before any defect, light or camera.

Every painter takes the side of a square canvas in pixels, a random generator, and whether to paint the rare but
legitimate variant of the product.  Suffixes: HW canvas rows and columns, HW3 linear RGB in 0..1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, rotate

Array = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Surface:
    """One object on its canvas: its picture, the pixels it covers, and what shows where material is missing."""

    image_HW3: Array
    support_HW: Mask
    behind_HW3: Array


def smooth_noise(rng: np.random.Generator, side_px: int, sigma_px: float | tuple[float, float]) -> Array:
    """Gaussian noise [side, side] blurred by `sigma_px` and rescaled to mean 0 and deviation 1; it tiles."""
    noise_HW = gaussian_filter(rng.standard_normal((side_px, side_px)), sigma_px, mode="wrap")
    unit_HW: Array = ((noise_HW - noise_HW.mean()) / noise_HW.std()).astype(np.float32)
    return unit_HW


def tint(shade_HW: Array, rgb: tuple[float, float, float], rng: np.random.Generator, jitter: float = 0.012) -> Array:
    """The grey picture in the colour `rgb`, which varies a little from object to object: [H, W, 3]."""
    colour = np.asarray(rgb, np.float32) + rng.normal(0, jitter, 3).astype(np.float32)
    return shade_HW[..., None] * colour


def grid(side_px: int, angle: float = 0.0) -> tuple[Array, Array]:
    """Coordinates (across, along) of every pixel, from -1 to 1 over the canvas, turned by `angle` radians."""
    axis = np.linspace(-1, 1, side_px, dtype=np.float32)
    y_HW, x_HW = np.meshgrid(axis, axis, indexing="ij")
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * x_HW + sin * y_HW, cos * y_HW - sin * x_HW


def inside(distance_HW: Array, side_px: int) -> Array:
    """Coverage 0..1 of the pixels whose signed `distance_HW` (canvas units) is positive, one pixel of soft edge."""
    return np.clip(distance_HW * side_px / 2 + 0.5, 0, 1).astype(np.float32)


def _sheet(image_HW3: Array, behind: float) -> Surface:
    """A surface that fills the canvas, over a backing of grey level `behind`."""
    return Surface(image_HW3, np.ones(image_HW3.shape[:2], np.bool_), np.full_like(image_HW3, behind))


def weave(side_px: int, rng: np.random.Generator, rare: bool) -> Surface:
    """Plain-woven cloth; the rare variant carries one coloured thread."""
    across_HW, along_HW = grid(side_px, rng.normal(0, 0.03))
    warp_HW, weft_HW = (17 * np.pi * axis_HW + rng.uniform(0, 2 * np.pi) for axis_HW in (across_HW, along_HW))
    over_HW = np.sin(warp_HW / 2) * np.sin(weft_HW / 2) > 0
    height_HW = np.where(over_HW, np.abs(np.sin(warp_HW)), np.abs(np.sin(weft_HW)))
    uneven_HW = 0.03 * smooth_noise(rng, side_px, (side_px / 8, 0.8)) + 0.03 * smooth_noise(rng, side_px, (0.8, 12))
    image_HW3 = tint(0.45 + 0.3 * height_HW + uneven_HW, (0.95, 0.9, 0.78), rng)
    if rare:
        thread_HW = inside(0.05 - np.abs(across_HW - rng.uniform(-0.5, 0.5)), side_px)
        image_HW3 *= 1 - thread_HW[..., None] * np.asarray((0.55, 0.35, 0.0), np.float32)
    return _sheet(image_HW3, 0.06)


def metal(side_px: int, rng: np.random.Generator, rare: bool) -> Surface:
    """Brushed metal; the rare variant carries the ring-and-bar stamp of another supplier."""
    streaks_HW = smooth_noise(rng, side_px, (0.7, side_px / 5)) + 0.5 * smooth_noise(rng, side_px, (2.0, side_px / 3))
    streaks_HW = rotate(streaks_HW, rng.normal(0, 2), reshape=False, order=1, mode="reflect")
    image_HW3 = tint(0.58 + 0.045 * streaks_HW, (0.96, 0.99, 1.04), rng)
    if rare:
        x_HW, y_HW = grid(side_px)
        radius_HW = np.hypot(x_HW - rng.uniform(-0.3, 0.3), y_HW - rng.uniform(-0.3, 0.3))
        ring_HW = inside(0.03 - np.abs(radius_HW - 0.2), side_px) + inside(0.06 - radius_HW, side_px)
        image_HW3 *= 1 - 0.3 * ring_HW[..., None]
    return _sheet(image_HW3, 0.05)


def granite(side_px: int, rng: np.random.Generator, rare: bool) -> Surface:
    """Speckled stone; the rare variant comes from a redder quarry."""
    shade_HW = np.full((side_px, side_px), 0.55, np.float32)
    for sigma_px, threshold, step in ((1.8, 0.6, 0.14), (1.2, 1.0, -0.2), (0.8, 1.3, -0.22)):
        shade_HW += step * np.clip(4 * (smooth_noise(rng, side_px, sigma_px) - threshold), 0, 1)
    rgb = (1.08, 0.93, 0.88) if rare else (1.0, 0.99, 0.97)
    return _sheet(tint(shade_HW, rgb, rng), 0.05)


def wood(side_px: int, rng: np.random.Generator, rare: bool) -> Surface:
    """Planed wood with grain along the board; the rare variant has a sound knot."""
    across_HW, along_HW = grid(side_px, rng.normal(0, 0.05))
    bend_HW = 0.06 * smooth_noise(rng, side_px, (side_px / 4, side_px / 12))
    centre = rng.uniform(-0.5, 0.5, 2).astype(np.float32)
    radius_HW = np.hypot(across_HW - centre[0], (along_HW - centre[1]) / 1.6)
    if rare:
        bend_HW = bend_HW + 0.14 * np.exp(-((radius_HW / 0.25) ** 2)) * np.sign(across_HW - centre[0])
    rings_HW = np.sin(2 * np.pi * (4.5 * (across_HW + bend_HW) + rng.uniform()))
    shade_HW = 0.62 + 0.07 * rings_HW + 0.03 * smooth_noise(rng, side_px, (side_px / 10, 0.6))
    if rare:
        shade_HW *= 1 - 0.35 * inside(0.11 - radius_HW, side_px)
    return _sheet(tint(shade_HW, (1.05, 0.8, 0.55), rng), 0.04)


def gear(side_px: int, rng: np.random.Generator, rare: bool) -> Surface:
    """A toothed steel wheel on a dark belt; the rare variant has four shallow counterbores."""
    x_HW, y_HW = grid(side_px)
    x_HW, y_HW = x_HW - rng.normal(0, 0.01), y_HW - rng.normal(0, 0.01)
    radius_HW, angle_HW = np.hypot(x_HW, y_HW), np.arctan2(y_HW, x_HW)
    turned_HW = angle_HW + np.float32(rng.normal(0, 0.03))
    teeth_HW = 0.07 * np.tanh(4 * np.sin(12 * turned_HW))
    part_HW = inside(0.58 + teeth_HW - radius_HW, side_px) * inside(radius_HW - 0.19, side_px)
    lathe_HW = 0.05 * np.cos(2 * angle_HW - 0.8) + 0.015 * np.sin(70 * radius_HW + rng.uniform(0, 6))
    steel_HW3 = tint(0.6 + lathe_HW + 0.015 * smooth_noise(rng, side_px, 0.7), (0.97, 0.99, 1.03), rng)
    if rare:
        steel_HW3 *= 1 - 0.1 * _counterbores(radius_HW, turned_HW, side_px)[..., None]
    belt_HW3 = tint(0.16 + 0.015 * smooth_noise(rng, side_px, (0.6, 3.0)), (0.9, 1.05, 1.0), rng)
    mixed_HW3 = belt_HW3 + part_HW[..., None] * (steel_HW3 - belt_HW3)
    return Surface(mixed_HW3, part_HW > 0.5, belt_HW3)


def _counterbores(radius_HW: Array, angle_HW: Array, side_px: int) -> Array:
    """Coverage of four discs, a quarter turn apart, half-way between the gear's hole and its teeth."""
    quarter_HW = np.mod(angle_HW, np.pi / 2) - np.pi / 4
    away_HW = np.hypot(radius_HW * np.cos(quarter_HW) - 0.37, radius_HW * np.sin(quarter_HW))
    return inside(0.09 - away_HW, side_px)


Painter = Callable[[int, np.random.Generator, bool], Surface]
PAINTERS: dict[str, Painter] = {"gear": gear, "granite": granite, "metal": metal, "weave": weave, "wood": wood}
