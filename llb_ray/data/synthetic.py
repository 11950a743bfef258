"""Synthetic factory photographs: MVTec-style trees with a known contamination, for demos and tests.

    DIR/<category>/train/good  train/<defect>  test/good  test/<defect>  ground_truth/<defect>/<stem>_mask.png

Every object has a number and its own random stream, so it looks the same whatever the contamination, and the test
objects come first, so they are the same whatever the training set.  A defect is on the object: every view shows it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import binary_erosion

from llb_ray.data.defects import DEFECTS, Point, damage
from llb_ray.data.manifest import TEST, TRAIN
from llb_ray.data.textures import PAINTERS, Array, Mask, Surface, grid
from llb_ray.errors import ConfigError, DataError
from llb_ray.seeding import stream

CATEGORIES = tuple(PAINTERS)
GOOD = "good"
RARE_SHARE = 0.05  # of the normal objects of a split, rounded: the legitimate variant that is easily rejected
TEST_ALPHA = 0.5  # as in Real-IAD's FUIAD protocol, which tests on as many anomalous as normal objects
REPEATED_SHARE = 0.8  # of the anomalous objects: a worn tool leaves the same mark at about the same place every time
WANDER_SHARE = 0.01  # of the canvas side: how far such a mark moves from object to object
DEPTH_SHARE = 0.04  # of the canvas side: how far inside the product's outline a defect has its centre
MARGIN_SHARE = 0.02  # of the image side: how far the camera may shift between views


@dataclass(frozen=True)
class SyntheticConfig:
    """Settings of a synthetic set: objects per split and category, and the anomalous share `alpha` in training."""

    categories: tuple[str, ...] = CATEGORIES
    train_objects: int = 110
    test_objects: int = 60
    alpha: float = 0.2
    seed: int = 0
    size_px: int = 96
    views: int = 2

    def check(self) -> None:
        """Raises ConfigError for the first setting that cannot be photographed."""
        if not self.categories or set(self.categories) - set(CATEGORIES):
            asked = ", ".join(self.categories) or "none"
            raise ConfigError(f"categories asked for: {asked}; choose among {', '.join(CATEGORIES)}")
        if not 0 <= self.alpha < 1:
            raise ConfigError(f"alpha = {self.alpha}: the anomalous share of training objects must be in [0, 1)")
        if min(self.train_objects, self.test_objects, self.views) < 1 or self.size_px < 32 or self.seed < 0:
            raise ConfigError(f"{self}: objects and views must be at least 1, size_px 32 and seed 0")


@dataclass(frozen=True)
class SyntheticObject:
    """One object to photograph: its number in the category, its split, what is wrong with it, whether it is rare."""

    number: int
    split: str
    defect: str  # GOOD or a name in DEFECTS
    rare: bool


def write_synthetic(root: Path, recipe: SyntheticConfig) -> None:
    """Write one tree per category under `root`; the same recipe gives the same bytes.

    Raises ConfigError for a bad recipe and DataError if `root` already holds something.
    """
    recipe.check()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root}: already holds something; name a new or empty folder for the synthetic images")
    for category in recipe.categories:
        for thing in objects(recipe, category):
            _write(root / category, recipe, category, thing)


def objects(recipe: SyntheticConfig, category: str) -> Iterator[SyntheticObject]:
    """Every object of a category, test objects first; a larger alpha spoils more of them and moves none."""
    yield from _split(recipe.test_objects, TEST_ALPHA, 0, TEST, stream(recipe.seed, "synthetic", category, TEST))
    rng = stream(recipe.seed, "synthetic", category, TRAIN)
    yield from _split(recipe.train_objects, recipe.alpha, recipe.test_objects, TRAIN, rng)


def _split(count: int, alpha: float, first: int, split: str, rng: np.random.Generator) -> Iterator[SyntheticObject]:
    """The objects of one split: the first of a shuffled order are anomalous, defect types in turn, the last rare."""
    order = rng.permutation(count)
    num_anomalous = round(alpha * count)
    num_rare = round(RARE_SHARE * (count - num_anomalous))
    names = sorted(DEFECTS)
    for rank, offset in enumerate(order.tolist()):
        defect = names[rank % len(names)] if rank < num_anomalous else GOOD
        yield SyntheticObject(first + offset, split, defect, rare=rank >= count - num_rare)


def _write(folder: Path, recipe: SyntheticConfig, category: str, thing: SyntheticObject) -> None:
    surface, mask_HW = _made(recipe, category, thing)
    for view in range(recipe.views):
        rng = stream(recipe.seed, "synthetic", category, "view", thing.number, view)
        image_HW3, seen_HW = _photograph(surface, mask_HW, recipe.size_px, rng)
        stem = f"obj{thing.number:04d}{'_rare' if thing.rare else ''}_view{view}"
        _save(image_HW3, folder / thing.split / thing.defect / f"{stem}.png")
        if thing.defect != GOOD:
            mask = seen_HW.astype(np.uint8) * np.uint8(255)
            _save(mask, folder / "ground_truth" / thing.defect / f"{stem}_mask.png")


def _made(recipe: SyntheticConfig, category: str, thing: SyntheticObject) -> tuple[Surface, Mask]:
    """The object on a canvas a margin larger than the photograph, and its defect mask."""
    names = ("synthetic", category, "object", thing.number)
    side_px = recipe.size_px + 2 * _margin(recipe.size_px)
    surface = PAINTERS[category](side_px, stream(recipe.seed, *names), thing.rare)
    if thing.defect == GOOD:
        return surface, np.zeros((side_px, side_px), np.bool_)
    own = stream(recipe.seed, *names, "defect")
    repeats = own.uniform() < REPEATED_SHARE
    fault = stream(recipe.seed, "synthetic", category, "fault", thing.defect) if repeats else own
    point = _site(surface, fault) + own.normal(0, WANDER_SHARE * side_px, 2)
    strength = own.uniform() ** 2  # most defects are slight
    return damage(surface, thing.defect, point, strength, fault)


def _site(surface: Surface, rng: np.random.Generator) -> Point:
    """A point of the product (row, column), deep enough in it that a wandering mark still meets material."""
    side_px = len(surface.image_HW3)
    deep_HW = binary_erosion(surface.support_HW, iterations=max(1, round(DEPTH_SHARE * side_px)))
    x_HW, y_HW = grid(side_px)
    rows_columns = np.argwhere(deep_HW & (np.maximum(abs(x_HW), abs(y_HW)) < 0.7))
    chosen: Point = rows_columns[int(rng.uniform() * len(rows_columns))].astype(np.float64)
    return chosen


def _margin(size_px: int) -> int:
    return max(1, round(MARGIN_SHARE * size_px))


def _photograph(
    surface: Surface, mask_HW: Mask, size_px: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], Mask]:
    """One view, uint8 [size, size, 3], and what it shows of the mask: camera shift, uneven light, sensor noise."""
    top, left = rng.integers(0, 2 * _margin(size_px) + 1, 2)
    window = np.s_[top : top + size_px, left : left + size_px]
    across_HW, _ = grid(size_px, rng.uniform(0, 2 * np.pi))
    light_HW = rng.normal(1, 0.04) * (1 + rng.uniform(0, 0.08) * across_HW)
    noise_HW3 = rng.normal(0, 0.012, (size_px, size_px, 3))
    image_HW3 = surface.image_HW3[window] * light_HW[..., None] + noise_HW3
    return _quantised(image_HW3), mask_HW[window]


def _quantised(image_HW3: Array) -> npt.NDArray[np.uint8]:
    return (image_HW3.clip(0, 1) * 255).round().astype(np.uint8)


def _save(pixels: npt.NDArray[Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
