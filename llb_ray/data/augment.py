"""Exact augmentations: pixels change places and none changes its value, so a defect stays one."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from llb_ray.config import Augmentation

Image = NDArray[np.uint8]

_TRANSFORMS: dict[Augmentation, Callable[[Image], Image]] = {
    "hflip": lambda image: image[:, ::-1],
    "vflip": lambda image: image[::-1],
    "rot90": lambda image: np.rot90(image, 1),
    "rot180": lambda image: np.rot90(image, 2),
    "rot270": lambda image: np.rot90(image, 3),
}


def augment_image(image_HWC: Image, kind: Augmentation | None) -> Image:
    """The image mirrored or turned, of a quarter turn a square one; itself for None."""
    return image_HWC if kind is None else _TRANSFORMS[kind](image_HWC)
