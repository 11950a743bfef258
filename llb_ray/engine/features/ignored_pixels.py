"""The ignored pixels of a run: drawn from its settings once, and kept with it: `predict` needs no other file."""

from pathlib import Path

from llb_ray.artifacts import Artifact, Recipe
from llb_ray.config import RunConfig
from llb_ray.data.decoding import read_mask
from llb_ray.data.ignored_regions import Ignored
from llb_ray.engine import filenames


def ignored_recipe(ignored: Ignored) -> Recipe:
    """Recipe of the pixels."""
    return Recipe("ignored", {}, {"pixels": ignored.key})


def write_ignored(folder: Path, ignored: Ignored) -> None:
    """Write the pixels."""
    ignored.save(folder / filenames.IGNORED)


def read_ignored(artifact: Artifact | None, config: RunConfig) -> Ignored | None:
    """The pixels in their artifact; None for a run that looks at whole photographs."""
    if artifact is None:
        return None
    return Ignored(read_mask(artifact.file(filenames.IGNORED), config.detector.size, config.data.max_pixels))
