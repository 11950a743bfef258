"""Arrow files on disk: plain, uncompressed, memory-mappable, and the same bytes for the same table."""

import contextlib
import ctypes
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.errors import DataError

_LIBC = ctypes.CDLL(None, use_errno=True)
DAMAGED = (pa.ArrowException, UnicodeDecodeError)  # what pyarrow raises for files that are none of its own
Table = TypeVar("Table", pa.Table, pa.RecordBatch)


def write_table(path: Path, table: pa.Table) -> None:
    """Write `table` as one Arrow IPC file."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def read_table(path: Path) -> pa.Table:
    """The table in an Arrow IPC file, memory-mapped: reading it costs no heap.

    Raises DataError for what is none: offsets that lead out of a buffer would end the process where they are used.
    """
    try:
        return validate(pa.ipc.open_file(pa.memory_map(str(path))).read_all())
    except DAMAGED as error:
        raise _no_table(path, error) from error


def _no_table(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: damaged (not a table: {first_line(error)}); run what made it again")


def validate(table: Table) -> Table:
    """The table or record batch, proved to be inside its buffers; raises one of `DAMAGED` for another."""
    table.validate(full=True)
    _ = table.schema.names  # which are text only once somebody reads them
    return table


def first_line(error: Exception) -> str:
    """The first line of what Arrow says, which may be a page."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


@contextlib.contextmanager
def batch_writer(path: Path) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """A function that appends a record batch to one Arrow IPC file; they all have one schema, and there is one at
    least."""
    with contextlib.ExitStack() as opened:
        file, writers = opened.enter_context(pa.OSFile(str(path), "wb")), list[pa.RecordBatchFileWriter]()

        def append(batch: pa.RecordBatch) -> None:
            if not writers:
                writers.append(opened.enter_context(pa.ipc.new_file(file, batch.schema)))
            writers[0].write_batch(batch)

        yield append


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The record batches of an Arrow IPC file, memory-mapped."""
    file = pa.ipc.open_file(pa.memory_map(str(path)))
    yield from (validate(file.get_batch(index)) for index in range(file.num_record_batches))


class MappedBatches:
    """The record batches of an Arrow IPC file, mapped, whose pages can be let go of.

    The kernel counts every mapped page that was ever read as ours; without `forget`, random reading of a large cache
    looks, to a container's memory limit as to its owner, like a process that holds all of it.
    """

    def __init__(self, path: Path) -> None:
        # Python's mmap keeps a file descriptor for as long as it lives; Arrow's buffer outlives the file.
        try:
            with pa.memory_map(str(path)) as file:
                self._buffer = file.read_buffer()
            reader = pa.ipc.open_file(self._buffer)
            self.batches = [validate(reader.get_batch(index)) for index in range(reader.num_record_batches)]
        except DAMAGED as error:
            raise _no_table(path, error) from error

    def forget(self) -> None:
        """Give all pages back; reading goes on, from the page cache or the disk."""
        address, size = ctypes.c_void_p(self._buffer.address), ctypes.c_size_t(self._buffer.size)
        if _LIBC.madvise(address, size, mmap.MADV_DONTNEED):
            raise OSError(ctypes.get_errno(), "madvise")


def join_by_image(left: pa.Table, right: pa.Table) -> pa.Table:
    """`left` with the other columns of `right`, by image_id; an image that `right` lacks gets nulls."""
    rows = right.take(pc.index_in(left["image_id"], right["image_id"].combine_chunks()))
    columns = {name: rows[name] for name in right.column_names if name not in left.column_names}
    for name, column in columns.items():
        left = left.append_column(right.schema.field(name), column)
    return left
