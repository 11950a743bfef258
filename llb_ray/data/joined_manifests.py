"""Images of two folders as one manifest, below the folder that both are in."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.data.manifest import QUARANTINE, TRAIN, Manifest, path_text
from llb_ray.errors import DataError


def join_manifests(first: Manifest, second: Manifest) -> Manifest:
    """The images of both; what `second` has in common with `first`, by content, is quarantined and named.

    What both have under one path is there once.  All are of the category of `first`.  Raises DataError where `second`
    has no further training image, or another image under a path of `first`.
    """
    root = Path(os.path.commonpath([os.path.abspath(first.root), os.path.abspath(second.root)]))
    known, more = (_below(root, one.root, one.table) for one in (first, second))
    again = pc.is_in(more["image_id"], known["image_id"].combine_chunks())
    new, copies = more.filter(pc.invert(again)), _elsewhere(more.filter(again), known)
    _refuse_replaced(new, known)
    if TRAIN not in new["split"].to_pylist():
        raise DataError(f"{second.root}: has no training image that the run does not know ({len(more)} images found)")
    category = pa.array([known["category"][0].as_py()] * len(new), pa.string())
    new = new.set_column(new.schema.get_field_index("category"), new.schema.field("category"), category)
    aside, late = (_below(root, one.root, one.quarantine) for one in (first, second))
    table = pa.concat_tables([known, new])
    quarantine = pa.concat_tables([aside, _elsewhere(late, aside), _copies(copies, known)])
    return Manifest.of(root, table, quarantine, second.near)


def _elsewhere(rows: pa.Table, known: pa.Table) -> pa.Table:
    """The rows whose paths are none of the `known` ones."""
    return rows.filter(pc.invert(pc.is_in(rows["path"], known["path"].combine_chunks())))


def _refuse_replaced(new: pa.Table, known: pa.Table) -> None:
    """Raise DataError for a new image where a known one was, which could not be inspected again."""
    replaced = new.filter(pc.is_in(new["path"], known["path"].combine_chunks()))["path"].to_pylist()
    if replaced:
        raise DataError(
            f"{min(replaced)}: has changed since the run ({len(replaced)} such); give new photographs new names"
        )


def _below(root: Path, own: Path, table: pa.Table) -> pa.Table:
    """The table with paths relative to `root` instead of `own`."""
    prefix = path_text(os.path.relpath(own, root))
    if prefix == ".":
        return table
    for name in ("path", "mask_path"):
        if name in table.column_names:
            # A test image's path may be absolute.
            paths = [_placed(prefix, path) for path in table[name].to_pylist()]
            at = table.schema.get_field_index(name)
            table = table.set_column(at, table.schema.field(at), pa.array(paths, pa.string()))
    return table


def _placed(prefix: str, path: str | None) -> str | None:
    return path if path is None or path.startswith("/") else f"{prefix}/{path}"


def _copies(copies: pa.Table, known: pa.Table) -> pa.Table:
    """Rows of the quarantine for images that are known (schema `QUARANTINE`)."""
    named = dict(zip(known["image_id"].to_pylist(), known["path"].to_pylist(), strict=True))
    reasons = [f"same content as {named[image_id]}" for image_id in copies["image_id"].to_pylist()]
    return pa.table([copies["path"], copies["split"], reasons], schema=QUARANTINE)
