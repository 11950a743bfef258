"""Arrays such as MNIST's: an .npz with x_train, y_train, x_test and y_test becomes PNG files and their listing.

It is unknown which class is normal, so no image has a label; its class is in the column `pattern`.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from llb_ray.config import DatasetConfig
from llb_ray.data.adapters.base import Adapter
from llb_ray.data.adapters.entries import Draft, Entry, Part
from llb_ray.data.adapters.written_images import mark_written, was_written
from llb_ray.data.manifest import TEST, TRAIN
from llb_ray.disk import file_digest
from llb_ray.errors import DataError

PATTERN = "pattern"
_FOLDER_NAME = re.compile(r"[\w-][\w .-]*")


class Arrays(Adapter):
    """An .npz of x_train, y_train, x_test and y_test, written out as PNG files."""

    options = frozenset({"write_to"})
    needs: ClassVar[Mapping[str, str]] = {"write_to": "the folder that the images are written to"}

    def read(self, config: DatasetConfig) -> Draft:
        """Every image of the arrays, as ``<write_to>/<split>/<class>/<number>.png``; written unless it exists."""
        assert config.write_to is not None, "DatasetConfig requires it"
        folder, sha256 = config.write_to.absolute(), _digest(config.root)
        splits = _arrays(config.root)
        written = was_written(folder, sha256)
        category = config.root.stem
        parts = []
        for split, (image_N, class_N) in splits.items():
            names = [f"{split}/{kind}/{row:06d}.png" for row, kind in enumerate(class_N)]
            if not written:
                _write(folder, names, image_N)
            part = Part.of(config.root.name, (Entry(row, name, category, split) for row, name in enumerate(names, 1)))
            pattern = pa.array([str(kind) for kind in class_N], pa.string())
            parts.append(Part(part.table.append_column(PATTERN, pattern), part.origin, part.problems))
        if not written:
            mark_written(folder, sha256)
        return Draft(folder, parts, {config.root.name: sha256})


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give an .npz file") from error


def _arrays(path: Path) -> dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]]:
    """The images and classes of each split; raises DataError unless they are 8-bit pictures, grey or RGB."""
    try:
        with np.load(path, allow_pickle=False) as file:
            splits = {split: (file[f"x_{split}"], file[f"y_{split}"]) for split in (TRAIN, TEST)}
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise DataError(f"{path}: not an .npz file of x_train, y_train, x_test and y_test ({error})") from error
    for split, (image_N, class_N) in splits.items():
        shape = image_N.shape
        if image_N.dtype != np.uint8 or not (image_N.ndim == 3 or (image_N.ndim == 4 and shape[3] in (1, 3))):
            raise DataError(f"{path}: x_{split} is {image_N.dtype} {list(shape)}; it has to be uint8 [N, H, W] or RGB")
        if class_N.shape != shape[:1] or class_N.dtype.kind not in "iuU":
            raise DataError(f"{path}: y_{split} is {class_N.dtype} {list(class_N.shape)}; it has to name N classes")
        for kind in np.unique(class_N):
            if not _FOLDER_NAME.fullmatch(str(kind)):
                raise DataError(f"{path}: class {str(kind)!r} in y_{split} cannot be the name of a folder; rename it")
    return splits


def _write(folder: Path, names: Iterable[str], image_N: npt.NDArray[np.uint8]) -> None:
    for name, image in zip(names, image_N, strict=True):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze(2) if image.ndim == 3 and image.shape[2] == 1 else image).save(file)
