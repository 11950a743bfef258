"""labelme: a JSON file beside each labelled image, with polygons, rectangles and circles."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from llb_ray.config import DatasetConfig
from llb_ray.data.adapters.labelled import Labelled, Labels, by_path
from llb_ray.data.adapters.table_files import Source
from llb_ray.data.label_shapes import MALFORMED, labelme_shape
from llb_ray.data.name_conventions import is_clutter
from llb_ray.errors import DataError


class Labelme(Labelled):
    """A folder of images with labelme's files among them; an image whose file has no shape is normal."""

    options = frozenset({"group_pattern"})

    def labels(self, config: DatasetConfig, sources: dict[str, str]) -> Mapping[str, Labels]:
        """See `Labelled`."""
        return by_path(_all(config.root, sources), config.root)


def _all(root: Path, sources: dict[str, str]) -> Iterator[tuple[str, Labels]]:
    """The labels in every JSON file below the root; raises DataError for one that is no labelme file."""
    for where in _files(root):
        source = Source.read(root, where)
        sources[source.name] = source.sha256
        try:
            tree = json.loads(source.text())
            shapes, image = list(tree["shapes"]), str(tree["imagePath"])
            size = _size(tree)
        except (*MALFORMED, RecursionError) as error:
            raise DataError(
                f"{source.path}: not a labelme file ({type(error).__name__}: {error}); take it out of the folder"
            ) from error
        # The image is beside its labels, wherever it was when they were made.
        name = PurePosixPath(image.replace("\\", "/")).name
        path = (PurePosixPath(where.as_posix()).parent / name).as_posix()
        yield path, _labels(source.name, shapes, size)


def _files(root: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_clutter(name))
        yield from (
            (Path(parent) / name).relative_to(root)
            for name in sorted(names)
            if name.lower().endswith(".json") and not is_clutter(name)
        )


def _size(tree: Any) -> tuple[int, int] | None:
    known = tree.get("imageWidth") and tree.get("imageHeight")
    return (int(tree["imageWidth"]), int(tree["imageHeight"])) if known else None


def _labels(source: str, shapes: list[Any], size: tuple[int, int] | None) -> Labels:
    try:
        return Labels(source, None, size, [(str(shape["label"]), labelme_shape(shape)) for shape in shapes])
    except MALFORMED as error:
        return Labels(source, None, size, [], (), f"not shapes of labelme ({type(error).__name__}: {error})")
