"""Boxes of regions on a picture."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from llb_ray.config import Size
from llb_ray.engine.inference.regions import Region


def with_boxes(picture_HW3: npt.NDArray[np.uint8], regions: Sequence[Region], size: Size) -> npt.NDArray[np.uint8]:
    """The picture of a photograph of this height and width with the regions' boxes, white between black lines."""
    if not regions:
        return picture_HW3
    image = Image.fromarray(picture_HW3)
    pen, scale = ImageDraw.Draw(image), image.width / size[1]
    for region in regions:
        corners = (region.x, region.y, region.x + region.width - 1, region.y + region.height - 1)
        left, top, right, bottom = (round(corner * scale) for corner in corners)
        pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="black", width=3)  # visible on any ground
        pen.rectangle((left, top, right, bottom), outline="white", width=1)
    return np.asarray(image)
