"""A labelled validation folder in the place of the test split, for the objective `val_auroc`."""

from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from llb_ray.config import DataConfig, RunConfig
from llb_ray.data.folder import read_folder
from llb_ray.data.manifest import MANIFEST, TEST, Manifest, path_from_text, path_text
from llb_ray.data.name_conventions import means_normal
from llb_ray.errors import DataError
from llb_ray.search.canary import without_test


def with_validation(manifest: Manifest, folder: Path, config: RunConfig) -> Manifest:
    """The training images without labels and, as test split, the images in `folder`, labelled by their folder.

    ``good/`` holds normal images, every other folder beside it anomalous ones.  Nothing of the manifest's own test
    split is left.  Raises DataError if an image is unlabelled, is one of the manifest's, or all are of one kind.
    """
    found = read_folder(folder, DataConfig(max_pixels=config.data.max_pixels, bands=config.data.bands))
    rows = [_row(found.root, row) for row in found.table.to_pylist()]
    known = set(manifest.table["image_id"].to_pylist())
    for row in rows:
        if row["image_id"] in known:
            raise DataError(f"{row['path']}: is also in {manifest.root}; validation needs images of its own")
    if {row["label"] for row in rows} != {0, 1}:
        raise DataError(f"{folder}: validation needs normal images in good/ and anomalous ones in folders beside it")
    train = without_test(manifest)
    return Manifest.of(
        manifest.root, pa.Table.from_pylist([*train.table.to_pylist(), *rows], MANIFEST), train.quarantine
    )


def _row(root: Path, row: dict[str, Any]) -> dict[str, Any]:
    """The row as a test image, its path absolute; labelled by a tree if the folder is one, else by its first folder."""
    path = path_text(str(root / path_from_text(row["path"])))
    kind, *inside = PurePosixPath(row["path"]).parts
    if row["label"] is None and not inside:
        raise DataError(f"{path}: is in no folder that says what it is; put it in good/ or in one beside it")
    label = int(not means_normal(kind)) if row["label"] is None else row["label"]
    return {**row, "path": path, "split": TEST, "label": label, "mask_path": None}
