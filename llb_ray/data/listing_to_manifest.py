"""From a listing to a manifest: only here does anybody read the images that a listing names."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from llb_ray.config import DataConfig
from llb_ray.data.candidate_files import (
    GOOD,
    File,
    Progress,
    examine,
    first_problem,
    near_of,
    quarantine_table,
    without_copies,
)
from llb_ray.data.listing import Listing
from llb_ray.data.manifest import MANIFEST, TRAIN, Manifest, path_from_text
from llb_ray.errors import DataError

_ANOMALOUS = "anomalous"  # the kind of an anomaly without a named one


def identify(listing: Listing, config: DataConfig, progress: Progress | None = None) -> Manifest:
    """The manifest of the listed images: each is hashed, and decoded once as a proof, unless remembered as good.

    What cannot be read, is missing, repeats the bytes of another image or is not the image that the listing knows by
    its id is quarantined with the reason, as `llb_ray.data.folder.read_folder` does it; an image that stands alone is a
    group of its own.  `progress` is called with (done, total) files.  Raises DataError at once if the root is missing,
    and if no listed training image is readable.
    """
    if not listing.root.is_dir():
        raise DataError(
            f"{listing.root}: no such folder, and the images are listed below it; put them there, or name the folder "
            "where they are now (root, --root)"
        )
    listed = {path_from_text(row["path"]): row for row in listing.table.to_pylist()}
    found = examine(listing.root, [_file(path, row) for path, row in listed.items()], config, progress)
    files = without_copies([_as_listed(file, listed[file.path]["image_id"]) for file in found])
    if not any(file.problem is None and file.split == TRAIN for file in files):
        num_train = sum(file.split == TRAIN for file in files)
        raise DataError(
            f"{listing.root}: none of the {num_train} images listed for training is readable{first_problem(files)}; "
            "put the images there, or name the folder where they are now (root, --root)"
        )
    rows = [_row(file, listed[file.path]) for file in files if file.problem is None]
    table = pa.Table.from_pylist(rows, MANIFEST)
    return Manifest.of(listing.root, table, quarantine_table(files), near_of(table, files))


def _file(path: str, row: Mapping[str, Any]) -> File:
    kind = None if row["label"] is None else GOOD if row["label"] == 0 else row["defect_type"] or _ANOMALOUS
    return File(path, row["split"], kind)


def _as_listed(file: File, image_id: str | None) -> File:
    if file.problem is None and image_id not in (None, file.image_id):
        return replace(file, problem=f"not the image {image_id} that was listed")
    return file


def _row(file: File, row: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: row[name] for name in MANIFEST.names}
    if file.kind is None:  # never known, or contradicted by a copy
        known |= {"label": None, "defect_type": None, "mask_path": None}
    return {**known, "image_id": file.image_id, "group": row["group"] or file.image_id}
