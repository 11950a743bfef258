"""The table of a paper: a line per category and one for their mean, for every noise level and filter.

Shares are printed in percent, as the field prints them.  Over seeds: mean ± standard deviation (of the sample); the
mean of all categories is taken for each seed first.  Failed jobs are in no figure, and a mean over fewer categories or
seeds than its neighbours says so in its columns `categories` and `seeds`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.scans.results import COSTS, DONE

MEAN = "mean"
_PERCENT = {  # by what people ask first: a narrow terminal shows as many as fit
    "i_auroc": "I-AUROC",
    "s_auroc": "S-AUROC",
    "aupro": "AUPRO",
    "p_auroc": "P-AUROC",
    "residual_contamination": "residual contamination",
    "normals_lost": "normals lost",
    "i_ap": "I-AP",
    "i_f1_max": "I-F1-max",
    "p_ap": "P-AP",
    "p_f1_max": "P-F1-max",
}
_PLAIN = {
    "seconds": "seconds",
    "worker_seconds": "worker-seconds",
    "gpu_seconds": "GPU-seconds",
    "images_per_second": "images/s",
}
_FILTERS = {"none": 0, "random": 1, "llb": 3, "oracle": 4}  # rivals in between, by name


@dataclass(frozen=True)
class Line:
    """One line: figures by column, each as mean and standard deviation over seeds, or None where nobody knows it."""

    alpha: float | None
    filter: str
    category: str  # or MEAN
    num_categories: int
    num_seeds: int
    figures: dict[str, tuple[float, float] | None]


def lines(rows: pa.Table) -> list[Line]:
    """The lines for results (schema `results.ROWS`): by alpha and filter, their categories and at last their mean."""
    done = rows.filter(pc.equal(rows["status"], DONE)).to_pylist()
    blocks = sorted({_block(row) for row in done}, key=_place)
    return [line for block in blocks for line in _block_lines(*block, [row for row in done if _block(row) == block])]


def columns(made: Sequence[Line]) -> list[str]:
    """The figures that at least one line has, in the order of the table."""
    return [name for name in (*_PERCENT, *_PLAIN) if any(line.figures[name] for line in made)]


def title(column: str) -> str:
    """What people call a column; shares are in percent."""
    return _PERCENT.get(column) or _PLAIN[column]


def cell(line: Line, column: str) -> str:
    """A figure as it is printed: ``93.4 ± 0.2``; the deviation only where there are several seeds."""
    figure = line.figures[column]
    if figure is None:
        return "-"
    factor = 100 if column in _PERCENT else 1
    middle, spread = (f"{factor * value:.1f}" for value in figure)
    return f"{middle} ± {spread}" if line.num_seeds > 1 else middle


def _block(row: dict[str, Any]) -> tuple[float | None, str]:
    return row["alpha"], row["filter"]


def _place(block: tuple[float | None, str]) -> tuple[float, int, str]:
    alpha, name = block
    return -1.0 if alpha is None else alpha, *filter_place(name)


def filter_place(name: str) -> tuple[int, str]:
    """Where a filter stands in a table: from no filter to the best that one may hope for."""
    return _FILTERS.get(name, 2), name


def _block_lines(alpha: float | None, name: str, rows: Sequence[dict[str, Any]]) -> Iterator[Line]:
    categories = list(dict.fromkeys(row["category"] for row in rows))
    for category in categories:
        yield _line(alpha, name, category, 1, [[row] for row in rows if row["category"] == category])
    if len(categories) > 1:
        seeds = dict.fromkeys(row["seed"] for row in rows)
        by_seed = [[row for row in rows if row["seed"] == seed] for seed in seeds]
        yield _line(alpha, name, MEAN, len(categories), by_seed)


def _line(
    alpha: float | None, name: str, category: str, num_categories: int, by_seed: Sequence[Sequence[dict[str, Any]]]
) -> Line:
    figures = {column: _figure(column, by_seed) for column in (*_PERCENT, *COSTS)}
    return Line(alpha, name, category, num_categories, len(by_seed), figures)


def _figure(column: str, by_seed: Sequence[Sequence[dict[str, Any]]]) -> tuple[float, float] | None:
    known = [[row[column] for row in rows if row[column] is not None] for rows in by_seed]
    means = [mean(values) for values in known if values]
    return (mean(means), stdev(means) if len(means) > 1 else 0.0) if means else None
