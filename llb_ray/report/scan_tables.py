"""Output of a scan at its end, and of `llb-ray table` at any time."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from llb_ray.disk import write_atomic
from llb_ray.scans import published_results
from llb_ray.scans.benchmark_table import lines, notes
from llb_ray.scans.job_results import failures, job_of, protocol_of
from llb_ray.scans.table_export import as_bullets, as_csv, as_latex, as_markdown, grid

_GAP, _NAME = 2, 16  # characters between two columns, and of a name before it is folded


def show_scan(console: Console, rows: pa.Table, out: Path, with_published: bool = False) -> None:
    """The table on the terminal and beside the results, the published rows apart from it, and what failed and why."""
    made = lines(rows)
    header, body = grid(made)
    for name, text in (
        ("table.csv", as_csv(made)),
        ("table.md", f"{as_markdown(header, body)}{_measured(rows)}{as_bullets(notes(rows))}"),
        ("table.tex", as_latex(header, body)),
    ):
        write_atomic(out / name, text.encode())
    print_table(console, "llb-ray scan (shares in percent; ± over seeds)", header, body, num_names=3)
    if with_published:
        print_table(console, published_results.SOURCE, published_results.HEADER, published_results.BODY, num_names=2)
    say(console, notes(rows))
    say(console, failed_lines(rows))
    say(console, [f"results  {out / 'results.parquet'}", f"table    {out / 'table.csv'}, table.md, table.tex"])


def _measured(rows: pa.Table) -> str:
    """The protocol of the metrics, below a Markdown table."""
    return "".join(f"\n- {name}: {said}" for name, said in protocol_of(rows).items()) + "\n"


def failed_lines(rows: pa.Table) -> Iterator[str]:
    """Failed jobs with their reasons, and that they can be run again."""
    failed = failures(rows).to_pylist()
    yield from (f"failed  {job_of(row).title}: {row['reason']}" for row in failed)
    if failed:
        yield f"{len(failed)} of {rows.num_rows} jobs failed; the same command does them again"


def print_table(
    console: Console, title: str, header: Sequence[str], body: Sequence[Sequence[str]], num_names: int
) -> None:
    """A table on the terminal, as many of its columns as fit; all but the first `num_names` are figures."""
    shown = _fitting(header, body, num_names, console.width)
    say(console, [title])  # not the table's own, which would be folded to its width
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(header[:shown]):
        least = None if number < num_names else max([len(row[number]) for row in body], default=0)
        table.add_column(name, justify="right" if least is not None else "left", overflow="fold", min_width=least)
    for row in body:
        table.add_row(*row[:shown])
    console.print(table, markup=False)
    if shown < len(header):
        say(console, [f"further columns are in the files: {', '.join(header[shown:])}"])


def _fitting(header: Sequence[str], body: Sequence[Sequence[str]], num_names: int, width: int) -> int:
    """Number of columns that fit in `width` characters with no figure folded; names may be, to a width of `_NAME`."""
    taken = 0
    for number, column in enumerate(zip(header, *body, strict=True)):
        words = [word for text in column[:1] for word in text.split()] + list(column[1:])
        wide = max(map(len, words))
        taken += _GAP + (min(wide, _NAME) if number < num_names else wide)
        if taken > width and number > num_names:
            return number
    return len(header)


def say(console: Console, told: Iterable[str]) -> None:
    """Lines whose paths can be copied, whatever the width of the terminal."""
    for line in told:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
