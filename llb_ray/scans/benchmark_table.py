"""The table of a paper: a line per category and one for their mean, for every noise level and filter.

Shares are printed in percent, as the field prints them.  Over seeds: mean ± standard deviation (of the sample); the
mean of categories is taken for each seed first.  Failed jobs are in no figure, and all means of a noise level are over
the same categories (`comparable`); `notes` says which are left out.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.config import filter_traits
from llb_ray.metrics.metric_names import of_scan
from llb_ray.scans.comparable import Row, comparable, left_out
from llb_ray.scans.job_results import COSTS, DONE

MEAN = "mean"
_PERCENT = of_scan()
_PLAIN = {
    "seconds": "seconds",
    "worker_seconds": "worker-seconds",
    "gpu_seconds": "GPU-seconds",
    "images_per_second": "images/s",
}
_COLUMNS = (*_PERCENT, *COSTS)


@dataclass(frozen=True)
class Line:
    """One line: figures by column, each as mean and standard deviation over seeds, or None where it is unknown."""

    alpha: float | None
    filter: str
    category: str  # or MEAN
    num_categories: int
    num_seeds: int
    figures: dict[str, tuple[float, float] | None]


def lines(rows: pa.Table) -> list[Line]:
    """The lines for results (schema `results.ROWS`): by alpha and filter, their categories and at last their mean."""
    return [line for level in _levels(rows) for line in _level_lines(level)]


def notes(rows: pa.Table) -> list[str]:
    """One sentence for each noise level and set of columns whose means leave categories out."""
    return [note for level in _levels(rows) for note in _notes(level)]


def columns(made: Sequence[Line]) -> list[str]:
    """The figures that at least one line has, in the order of the table."""
    return [name for name in (*_PERCENT, *_PLAIN) if any(line.figures[name] for line in made)]


def title(column: str) -> str:
    """Heading of a column; shares are in percent."""
    return _PERCENT.get(column) or _PLAIN[column]


def cell(line: Line, column: str) -> str:
    """A figure as it is printed: ``93.4 ± 0.2``; the deviation only where there are several seeds."""
    figure = line.figures[column]
    if figure is None:
        return "-"
    factor = 100 if column in _PERCENT else 1
    middle, spread = (f"{factor * value:.1f}" for value in figure)
    return f"{middle} ± {spread}" if line.num_seeds > 1 else middle


def filter_place(name: str) -> tuple[int, str]:
    """Place of a filter in a table: from no filter to the best that one may hope for."""
    return filter_traits(name).place, name


def _levels(rows: pa.Table) -> list[list[Row]]:
    """The rows of the jobs that were done, by rising noise level; sets as they are come first."""
    done = rows.filter(pc.equal(rows["status"], DONE)).to_pylist()
    alphas = sorted({row["alpha"] for row in done}, key=lambda alpha: -1.0 if alpha is None else alpha)
    return [[row for row in done if row["alpha"] == alpha] for alpha in alphas]


def _level_lines(level: Sequence[Row]) -> Iterator[Line]:
    for name in sorted({row["filter"] for row in level}, key=filter_place):
        mine = [row for row in level if row["filter"] == name]
        for category in dict.fromkeys(row["category"] for row in mine):
            yield _line(category, [row for row in mine if row["category"] == category])
        if len({row["category"] for row in level}) > 1 and comparable(level):
            yield _mean_line(mine, level)


def _line(category: str, rows: Sequence[Row]) -> Line:
    figures = {column: _figure(column, rows) for column in _COLUMNS}
    return Line(rows[0]["alpha"], rows[0]["filter"], category, 1, len(rows), figures)


def _mean_line(rows: Sequence[Row], level: Sequence[Row]) -> Line:
    over = {column: comparable(level, column) & comparable(level) for column in _COLUMNS}
    figures = {column: _figure(column, [row for row in rows if row["category"] in over[column]]) for column in _COLUMNS}
    seeds = {row["seed"] for row in rows}
    return Line(rows[0]["alpha"], rows[0]["filter"], MEAN, len(comparable(level)), len(seeds), figures)


def _figure(column: str, rows: Iterable[Row]) -> tuple[float, float] | None:
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        if row[column] is not None:
            by_seed.setdefault(row["seed"], []).append(row[column])
    means = [mean(values) for values in by_seed.values()]
    return (mean(means), stdev(means) if len(means) > 1 else 0.0) if means else None


def _notes(level: Sequence[Row]) -> Iterator[str]:
    alpha = level[0]["alpha"]
    where = "the means" if alpha is None else f"alpha {alpha:g}: the means"
    for names, categories in left_out(level, _COLUMNS):
        listed = ", ".join(sorted(categories))
        of = f" of {', '.join(map(title, names))}" if names else ""
        yield f"{where}{of} leave out {listed}, for which not every filter and seed has a figure"
