"""Arrow files on disk: plain, uncompressed, memory-mappable, and the same bytes for the same table."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc


def write_table(path: Path, table: pa.Table) -> None:
    """Write `table` as one Arrow IPC file."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def read_table(path: Path) -> pa.Table:
    """The table in an Arrow IPC file, memory-mapped: reading it costs no heap."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def write_batches(path: Path, batches: Iterator[pa.RecordBatch]) -> None:
    """Stream at least one record batch into one Arrow IPC file; memory stays at one batch."""
    first = next(batches)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, first.schema) as writer:
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The record batches of an Arrow IPC file, memory-mapped."""
    file = pa.ipc.open_file(pa.memory_map(str(path)))
    yield from (file.get_batch(index) for index in range(file.num_record_batches))


def joined(left: pa.Table, right: pa.Table) -> pa.Table:
    """`left` with the other columns of `right`, by image_id; an image that `right` lacks gets nulls."""
    rows = right.take(pc.index_in(left["image_id"], right["image_id"].combine_chunks()))
    columns = {name: rows[name] for name in right.column_names if name not in left.column_names}
    for name, column in columns.items():
        left = left.append_column(right.schema.field(name), column)
    return left
