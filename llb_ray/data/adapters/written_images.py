"""Folders of images that an adapter wrote out of another file, once."""

import json
from pathlib import Path

from llb_ray.data.manifest import TEST, TRAIN
from llb_ray.disk import write_json
from llb_ray.errors import DataError

_WRITTEN = "arrays.json"  # says of what the images were made; written last


def was_written(folder: Path, sha256: str) -> bool:
    """True if the folder holds the images of what has this digest; raises DataError if it holds anything else."""
    if not folder.exists():
        return False
    try:
        said = json.loads((folder / _WRITTEN).read_text())
    except (OSError, ValueError):
        said = None
    if said == {"sha256": sha256}:
        return True
    # What a killed command left may be written again; what is somebody's may not.
    if said is not None or any(child.name not in (TRAIN, TEST) for child in folder.iterdir()):
        raise DataError(f"{folder}: holds files of another kind; name an empty folder for the images")
    return False


def mark_written(folder: Path, sha256: str) -> None:
    """Say that the folder holds all images of what has this digest."""
    write_json(folder / _WRITTEN, {"sha256": sha256})
