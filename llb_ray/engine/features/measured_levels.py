"""The black and white point of a run's 16-bit images: measured once, on the training images and nothing else.

They are in the key of all that is made from pixels, so members, final detector and `predict` see one scale.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from llb_ray.artifacts import Artifact, Recipe, digest
from llb_ray.data.candidate_files import THREADS
from llb_ray.data.decoding import may_be_deep, read_deep
from llb_ray.data.levels import Levels, Range, table_of
from llb_ray.data.manifest import path_from_text
from llb_ray.data.tables import read_table, write_table
from llb_ray.engine import filenames
from llb_ray.engine.features.encoding import read_unchanged

_IMAGES = 512  # at most are looked into, whatever N is


def levels_recipe(image_ids: Sequence[str]) -> Recipe:
    """Recipe of the levels; `image_ids` are those of the training images, in canonical order."""
    return Recipe("levels", {}, {"images": digest(list(image_ids))})


def have_16_bits(root: Path, paths: Mapping[str, str]) -> bool:
    """True if any of those images in `paths`, by image_id, that stand for all may need levels; reads headers alone."""
    with ThreadPoolExecutor(THREADS) as pool:
        return any(pool.map(may_be_deep, (root / path_from_text(path) for _, path in _some(paths))))


def measure_levels(root: Path, paths: Mapping[str, str], max_pixels: int) -> Levels | None:
    """The levels of the images in `paths`, by image_id; None where they spread over the whole scale, or have 8 bits.

    Many images are stood for by those with the lowest ids, which are hashes and so a random sample.  Raises DataError
    for an image that changed.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(partial(_range, root=root, max_pixels=max_pixels), _some(paths))
        return Levels.of([one for one in found if one is not None])


def write_levels(folder: Path, root: Path, paths: Mapping[str, str], max_pixels: int) -> None:
    """Measure the levels and write them."""
    write_table(folder / filenames.LEVELS, table_of(measure_levels(root, paths, max_pixels)))


def read_levels(artifact: Artifact | None) -> Levels | None:
    """The levels in their artifact; None for a run that has none."""
    return None if artifact is None else Levels.of_table(read_table(artifact.file(filenames.LEVELS)))


def _some(paths: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted(paths.items())[:_IMAGES]


def _range(image: tuple[str, str], root: Path, max_pixels: int) -> Range | None:
    image_id, path = image
    file = root / path_from_text(path)
    if not may_be_deep(file):
        return None
    value = read_unchanged(file, image_id, partial(read_deep, max_pixels=max_pixels))
    return None if value is None else Range.of(value)
