"""A folder of images becomes a manifest: every file found is a row of it or a row of the quarantine.

`llb_ray.data.directory_tree` says which layouts are known and what of them is an input.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from llb_ray.config import DataConfig
from llb_ray.data.candidate_files import (
    File,
    Progress,
    examine,
    first_problem,
    near_of,
    quarantine_table,
    without_copies,
)
from llb_ray.data.directory_tree import Found, list_inputs
from llb_ray.data.groups import Grouping
from llb_ray.data.manifest import MANIFEST, TRAIN, Manifest, path_text, without_normal
from llb_ray.errors import DataError

_log = logging.getLogger(__name__)


def read_folder(root: Path, config: DataConfig, progress: Progress | None = None) -> Manifest:
    """The manifest of the images under `root`, plain or MVTec-style, each of them decoded once as a proof.

    A file that is not exactly one readable image, or repeats the bytes of another, is quarantined with the reason; of
    equal files the first by split (train before test), name and path stays.  `progress` is called with (done, total).
    Raises DataError if the root is unusable or holds no readable training image, ConfigError for a bad
    `data.group_pattern`.
    """
    root = Path(os.path.abspath(root))
    grouping = Grouping.of(config.group_pattern, "data.group_pattern")
    found = list_inputs(root)
    files = without_copies(examine(root, found.files, config, progress))
    _require_training_images(root, files)
    category = path_text(config.category or root.name or "images")
    grouping.require_match(root, [file.path for file in files])
    table = _table(found, files, category, grouping)
    manifest = Manifest.of(root, table, quarantine_table(files), near_of(table, files))
    assert len(manifest.table) + len(manifest.quarantine) == len(found.files)
    for note in [*found.notes(), *without_normal(manifest.table)]:
        _log.warning(note)
    return manifest


def _require_training_images(root: Path, files: Sequence[File]) -> None:
    if not files:
        raise DataError(f"{root}: holds no files; give a folder with images in it")
    if not any(file.problem is None and file.split == TRAIN for file in files):
        raise DataError(
            f"{root}: none of the {len(files)} files found is a readable training image{first_problem(files)}; "
            "give a folder of images, or put them in its train/good"
        )


def _table(found: Found, files: Sequence[File], category: str, grouping: Grouping) -> pa.Table:
    kept = [file for file in files if file.problem is None]
    masks = found.masks(kept)
    rows = [_row(file, category, grouping, masks.get(file.path)) for file in kept]
    return pa.Table.from_pylist(rows, MANIFEST)


def _row(file: File, category: str, grouping: Grouping, mask: str | None) -> dict[str, Any]:
    return {
        "image_id": file.image_id,
        "path": path_text(file.path),
        "category": category,
        "group": grouping.group(category, file.path) or file.image_id,
        "split": file.split,
        "label": file.label,
        "defect_type": None if file.defect_type is None else path_text(file.defect_type),
        "mask_path": None if mask is None else path_text(mask),
    }
