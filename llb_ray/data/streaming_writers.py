"""Tables too long for memory, written as their rows come."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from llb_ray.names import cell, path_cell

_ROWS_AT_ONCE = 16_384  # a Parquet row group; a batch alone would make more of bookkeeping than of data
PARTIAL = ".partial"
_OPEN: dict[str, Callable[[str, pa.Schema], Any]] = {".csv": csv.CSVWriter, ".parquet": parquet.ParquetWriter}


class Rows:
    """One CSV or Parquet file, by its name; it has that name once the context is left, and never after an error."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._partial = path.with_name(path.name + PARTIAL)
        # As Python objects: Arrow or numpy arrays that wait, batch after batch, cost 150 kB an image (measured), in
        # holes between the large blocks that a batch frees.
        self._waiting: list[Sequence[Any]] = []

    def __enter__(self) -> Self:
        self._writer = _OPEN[self._path.suffix](str(self._partial), self._schema)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._write()
            self._writer.close()
            if error is None:
                os.replace(self._partial, self._path)
        finally:
            self._partial.unlink(missing_ok=True)

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """Append rows, each with a value per column of the schema."""
        self._waiting.extend(rows)
        if len(self._waiting) >= _ROWS_AT_ONCE:
            self._write()

    def _write(self) -> None:
        if self._waiting:
            columns = [list(column) for column in zip(*self._waiting, strict=True)]
            if self._path.suffix == ".csv":
                columns = [guard_column(name, column) for name, column in zip(self._schema.names, columns, strict=True)]
            self._writer.write_table(pa.table(columns, schema=self._schema))
            self._waiting = []


def guard_column(name: str, column: list[Any]) -> list[Any]:
    """A column of a CSV file as no spreadsheet evaluates it; what it says of a `path` is still that path."""
    guard = path_cell if name == "path" else cell
    return [guard(value) if isinstance(value, str) else value for value in column]


class Shards:
    """Record batches in Arrow files ``part-00000.arrow``, ... of `rows_each` rows, and a batch more at most."""

    def __init__(self, folder: Path, rows_each: int) -> None:
        self._folder = folder
        self._rows_each = rows_each
        self._num_shards = self._num_rows = 0
        self._shard = ExitStack()

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._shard.close()

    def add(self, batch: pa.RecordBatch) -> None:
        """Append a batch; all of them have one schema."""
        if self._num_rows == 0:
            path = self._folder / f"part-{self._num_shards:05d}.arrow"
            file = self._shard.enter_context(pa.OSFile(str(path), "wb"))
            self._writer = self._shard.enter_context(pa.ipc.new_file(file, batch.schema))
        self._writer.write_batch(batch)
        self._num_rows += batch.num_rows
        if self._num_rows >= self._rows_each:
            self._shard.close()
            self._num_shards, self._num_rows = self._num_shards + 1, 0
