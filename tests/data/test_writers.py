"""Tables written as their rows come: whole or not at all."""

import contextlib
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet
import pytest

from llb_ray.data import streaming_writers
from llb_ray.data.streaming_writers import Rows, Shards
from llb_ray.data.tables import read_table

SCHEMA = pa.schema([pa.field("path", pa.string(), nullable=False), pa.field("n", pa.int64(), nullable=False)])


def _rows(start: int) -> list[tuple[str, int]]:
    return [(f"a,{start}", start), ('b"', start + 1)]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_rows_come_out_as_they_went_in(
    name: str, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming_writers, "_ROWS_AT_ONCE", at_once)
    with Rows(tmp_path / name, SCHEMA) as rows:
        for start in range(0, 10, 2):
            rows.add(_rows(start))
        assert not (tmp_path / name).exists()
    table = csv.read_csv(tmp_path / name) if name == "t.csv" else parquet.read_table(tmp_path / name)
    assert table["n"].to_pylist() == list(range(10))
    assert table["path"].to_pylist()[:2] == ["a,0", 'b"']
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_table_without_rows_has_its_columns(name: str, tmp_path: Path) -> None:
    with Rows(tmp_path / name, SCHEMA):
        pass
    table = csv.read_csv(tmp_path / name) if name == "t.csv" else parquet.read_table(tmp_path / name)
    assert (table.num_rows, table.column_names) == (0, SCHEMA.names)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_after_an_error_nothing_is_left(name: str, tmp_path: Path) -> None:
    with contextlib.suppress(ZeroDivisionError), Rows(tmp_path / name, SCHEMA) as rows:
        rows.add(_rows(0))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_shards_are_begun_when_one_is_full(tmp_path: Path) -> None:
    with Shards(tmp_path / "maps", rows_each=3) as shards:
        for start in range(0, 10, 2):
            shards.add(pa.RecordBatch.from_pylist([{"n": start}, {"n": start + 1}]))
    found = sorted((tmp_path / "maps").iterdir())
    assert [path.name for path in found] == ["part-00000.arrow", "part-00001.arrow", "part-00002.arrow"]
    assert [read_table(path).num_rows for path in found] == [4, 4, 2]
