"""Files to be judged, a path at a time: however many there are, no list of them is held.

A list (`llb_ray.data.lists`) may have other columns than `path`, which are passed over; so what `predict` wrote is a
list again.  Relative paths are relative to the folder of the list.  Any other file is a single image.
"""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llb_ray.data.candidate_files import File
from llb_ray.data.directory_tree import LeftOut, found_below
from llb_ray.data.layout import refuse_trees
from llb_ray.data.lists import FORMS, is_list, listed_paths
from llb_ray.data.manifest import TEST
from llb_ray.errors import DataError

TAKEN = f"a folder of images, a list of them ({FORMS}), or an image"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """Files below `root`, in the same order at every reading; none of them has been opened."""

    root: Path
    num_files: int
    read: Callable[[], Iterator[File]]

    @classmethod
    def of(cls, data: Path) -> "Inputs":
        """The files of a folder, plain or a tree's train and test, those that a list names, or one image; read once to
        count them.

        Raises DataError for what is none of these, and for a folder that holds several data sets.
        """
        if is_list(data):
            inputs = cls(
                Path(os.path.abspath(data)).parent, 0, lambda: (File(path, TEST) for path in listed_paths(data))
            )
            return cls(inputs.root, sum(1 for _ in inputs.read()), inputs.read)
        if not os.path.lexists(data):
            raise DataError(f"{data}: no such file or folder; give {TAKEN}")
        if data.is_file():  # whether it is an image is found out when it is read
            return cls(Path(os.path.abspath(data.parent)), 1, lambda: iter([File(data.name, TEST)]))
        root, count, folders = Path(os.path.abspath(data)), 0, set[PurePosixPath]()
        left_out = LeftOut()
        for file in found_below(root, left_out):
            count += 1
            folders.update(PurePosixPath(file.path).parents)
        refuse_trees(root, folders)
        for note in left_out.notes(root):
            _log.warning(note)
        return cls(root, count, lambda: found_below(root, LeftOut()))
