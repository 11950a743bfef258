"""The trials of a search, on the terminal."""

from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from llb_ray.artifacts import Store
from llb_ray.search.outcome import num_trained
from llb_ray.search.trials import FAILED, printed


def show_trials(console: Console, trials: pa.Table, out: Path) -> None:
    """The best trials, what training all of them took, and where the files are."""
    names, rows = printed(trials)
    table = Table(title="llb-ray tune", title_justify="left", box=None, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")  # a setting's name that is cut off names nothing
    for row in rows:
        table.add_row(*row)
    console.print(table)
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
