"""The scale of a run's bands: measured once, before anything is encoded, on the training images and nothing else.

It is in the key of all that is made from pixels, so members, final detector and `predict` see bands on one scale.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from llb_ray.artifacts import Artifact, Recipe, digest
from llb_ray.data.band_scale import BandScale, some_pixels
from llb_ray.data.bands import Values, read_bands
from llb_ray.data.candidate_files import THREADS
from llb_ray.data.manifest import path_from_text
from llb_ray.data.tables import read_table, write_table
from llb_ray.engine import filenames
from llb_ray.engine.features.encoding import read_unchanged
from llb_ray.seeding import stream

_IMAGES = 512  # at most: with _VALUES it bounds time and memory, whatever N is
_VALUES = 2**24  # at most, in float32


def scale_recipe(bands: int, image_ids: Sequence[str]) -> Recipe:
    """Recipe of the scale; `image_ids` are those of the training images, in canonical order."""
    return Recipe("bands", {"bands": bands}, {"images": digest(list(image_ids))})


def write_scale(folder: Path, root: Path, paths: Mapping[str, str], bands: int, max_pixels: int) -> None:
    """Measure the scale of the images in `paths`, by image_id, and write it.

    Many images are stood for by those with the lowest ids, which are hashes and so a random sample, and large ones by
    random pixels; neither depends on the order of files.  Raises DataError for an image that changed.
    """
    chosen = sorted(paths.items())[:_IMAGES]
    count = max(1, _VALUES // (bands * len(chosen)))
    read = partial(read_bands, bands=bands, max_pixels=max_pixels)
    with ThreadPoolExecutor(THREADS) as pool:
        sampled = pool.map(partial(_sample, root=root, read=read, count=count), chosen)
        scale = BandScale.of(np.concatenate(list(sampled)))
    write_table(folder / filenames.BANDS, scale.table())


def read_scale(artifact: Artifact | None) -> BandScale | None:
    """The scale in its artifact; None for a run of photographs, which has none."""
    return None if artifact is None else BandScale.of_table(read_table(artifact.file(filenames.BANDS)))


def _sample(image: tuple[str, str], root: Path, read: Callable[[Path], Values], count: int) -> Values:
    image_id, path = image
    return some_pixels(read_unchanged(root / path_from_text(path), image_id, read), count, stream(0, "bands", image_id))
