"""The trials of a search, on the terminal."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llb_ray.artifacts import Store
from llb_ray.search.search_results import num_trained
from llb_ray.search.trials import FAILED, format_trials, searched_keys

_GAP = 2  # characters between two columns


def show_trials(console: Console, trials: pa.Table, out: Path) -> None:
    """The best trials, what training all of them took, and where the files are."""
    names, rows = format_trials(trials)
    console.print("llb-ray tune", style="italic")
    console.print(_table(*_fitted(names, rows, searched_keys(trials), console.width)))
    trained = num_trained(Store(out.absolute() / "artifacts"))
    failed = trials["status"].to_pylist().count(FAILED)
    told = f"{trials.num_rows} trials trained {trained['member']} members and {trained['final']} final detectors"
    console.print(f"{told}; {failed} trials failed" if failed else told, highlight=False)
    for what, name in (
        ("best configuration", "best.yaml"),
        ("all trials", "trials.parquet"),
        ("picture", "trials.png"),
    ):
        console.print(f"{what:18} {out / name}", soft_wrap=True, highlight=False, markup=False)


def _fitted(
    names: list[str], rows: list[list[str]], keys: Sequence[str], width: int
) -> tuple[list[str], list[list[str]]]:
    """Header and rows as they are, or with settings and reasons in one column where they are wider than `width`."""
    taken = sum(max(map(cell_len, column)) + _GAP for column in zip(names, *rows, strict=True)) - _GAP
    if taken <= width:
        return names, rows
    figures = [index for index, name in enumerate(names) if name not in (*keys, "reason")]
    header = [*(names[index] for index in figures), "settings"]
    return header, [[*(row[index] for index in figures), _settings(names, row, keys)] for row in rows]


def _settings(names: Sequence[str], row: Sequence[str], keys: Sequence[str]) -> str:
    """A line for each setting of a trial, its name whole, and one for the reason of a trial that has one."""
    cells = dict(zip(names, row, strict=True))
    reason = [cells["reason"]] if cells.get("reason", "-") != "-" else []
    return "\n".join([*(f"{key}={cells[key]}" for key in keys), *reason])


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
