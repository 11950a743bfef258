"""A table of further columns beside a data set, such as the names of its normal patterns."""

from pathlib import PurePosixPath

import pyarrow as pa

from llb_ray.config import DatasetConfig
from llb_ray.data.adapters.image_list import read_columns
from llb_ray.data.adapters.table_files import Source
from llb_ray.data.listing import Listing
from llb_ray.errors import DataError


def join_by_path(listing: Listing, config: DatasetConfig) -> Listing:
    """The listing with the columns of `config.columns`, where that is set; an image the table lacks gets nulls.

    Paths are compared without their suffix: such tables name originals that were converted since.  Raises DataError
    for a table that names an image twice, none at all, or a column that the listing has.
    """
    if config.columns is None or not len(listing.table):
        return listing
    source = Source.read(listing.root, config.columns)
    table = read_columns(source)
    names = [name for name in table.column_names if name != "path"]
    taken = [name for name in names if name in listing.table.column_names]
    if taken:
        raise DataError(f"{source.path}: the listing has a column {taken[0]!r} already; rename it")
    rows = {_stem(path): row for row, path in enumerate(table["path"].cast(pa.string()).to_pylist()) if path}
    if len(rows) != len(table):
        raise DataError(f"{source.path}: names an image twice or a row without a path; keep one row per image")
    found = [rows.get(_stem(path)) for path in listing.table["path"].to_pylist()]
    if all(row is None for row in found):
        raise DataError(f"{source.path}: names none of the images below {listing.root}; paths are relative to it")
    joined, beside = listing.table, table.select(names).take(pa.array(found, pa.int64()))
    for name in names:
        joined = joined.append_column(beside.schema.field(name), beside[name])
    about = {**listing.about, "sources": {**listing.about["sources"], source.name: source.sha256}}
    return Listing.of(listing.root, joined, about)


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))
