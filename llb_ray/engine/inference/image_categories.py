"""The category of each image to be judged, in a run of several: each has a threshold of its own."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from llb_ray.data.candidate_files import File
from llb_ray.data.listing import nearest
from llb_ray.data.manifest import path_text
from llb_ray.data.predict_inputs import Inputs


def with_categories(inputs: Inputs, names: Collection[str]) -> Inputs:
    """The files with their categories, which are among `names`; a file without one has a problem.

    Of several, it is what a list says in its column `category`, or else the innermost folder on the file's path that
    is named like one.  Where there is only one, all files are of it.
    """

    def read() -> Iterator[File]:
        return (_with_category(file, inputs.root, names) for file in inputs.read())

    return Inputs(inputs.root, inputs.num_files, read)


def _with_category(file: File, root: Path, names: Collection[str]) -> File:
    if len(names) == 1:
        return replace(file, category=next(iter(names)))
    found = file.category or _folder(root / file.path, names)
    if found in names:
        return replace(file, category=found)
    problem = f"category {found!r} is none of the run's; {nearest(found, names)}" if found else _unknown(names)
    return replace(file, problem=file.problem or problem)


def _folder(path: Path, names: Collection[str]) -> str:
    folders = map(path_text, reversed(PurePosixPath(path).parts[:-1]))
    return next((folder for folder in folders if folder in names), "")


def _unknown(names: Collection[str]) -> str:
    return (
        f"its category is not known; put it in a folder named like one ({', '.join(sorted(names))}), list it with a "
        "column category, or name that of all images (--category)"
    )
