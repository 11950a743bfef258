"""The objective against each searched setting, as small panels of one figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llb_ray.search.trials import FAILED, FINISHED, STOPPED, best, searched_keys

Floats = npt.NDArray[np.float64]
_MOST_COLUMNS = 3
_PANEL_INCHES = 3.4, 2.8
_BLUE, _VERMILION, _GREY = "#0072B2", "#D55E00", "#555555"  # the first two of Okabe and Ito: safe for colour blindness
_MOST_TICKS = 8  # more distinct numbers are drawn to scale
_LOG_RATIO = 30  # a wider range is drawn on a logarithmic axis
_TICK_CHARACTERS = 12


def plot_trials(table: pa.Table, path: Path, objective: str) -> None:
    """Write a PNG with a panel per setting that differs between trials; raises ConfigError if no trial finished."""
    winner = best(table)
    finished = table.filter(pc.equal(table["status"], FINISHED))
    keys = [key for key in searched_keys(table) if len(set(finished[key].to_pylist())) > 1] or searched_keys(table)
    place = finished["trial"].to_pylist().index(winner["trial"])
    num_columns = min(_MOST_COLUMNS, len(keys))
    num_rows = -(-len(keys) // num_columns)
    figure = Figure((_PANEL_INCHES[0] * num_columns, _PANEL_INCHES[1] * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True)
    for panel in panels.flat[len(keys) :]:
        panel.set_axis_off()
    for key, panel in zip(keys, panels.flat, strict=False):
        _draw(panel, finished[key].to_pylist(), finished["objective"].to_numpy(), place)
        panel.set_xlabel(key)
    for panel in panels[:, 0]:
        panel.set_ylabel(objective)
    counts = ((table["status"].to_pylist().count(status), status) for status in (STOPPED, FAILED))
    note = "".join(f", {count} {status}" for count, status in counts if count)
    figure.suptitle(f"{table.num_rows} trials{note}; ringed: the best, trial {winner['trial']}", fontsize=10)
    figure.savefig(path, dpi=150)


def _draw(panel: Axes, values: Sequence[Any], objective_N: Floats, winner: int) -> None:
    """One dot per trial, a ring round the winner, and where values recur their means, joined if they are numbers."""
    levels = _levels(values)
    x_N = np.array(values, float) if levels is None else np.array([levels.index(value) for value in values], float)
    panel.scatter(x_N, objective_N, s=26, color=_BLUE, alpha=0.6, linewidths=0)
    panel.scatter(x_N[winner], objective_N[winner], s=120, facecolors="none", edgecolors=_VERMILION, linewidths=1.8)
    if levels is not None:
        means = [objective_N[x_N == level].mean() for level in range(len(levels))]
        joined = 0 if isinstance(levels[0], str) else 1  # words have no order
        panel.plot(range(len(levels)), means, color=_GREY, linewidth=joined, marker="_", markersize=14)
        panel.set_xticks(range(len(levels)), [_tick(level) for level in levels])
        panel.margins(x=0.15)
    elif x_N.min() > 0 and x_N.max() > _LOG_RATIO * x_N.min():
        panel.set_xscale("log")
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def _levels(values: Sequence[Any]) -> list[Any] | None:
    """The distinct values, each to have a place of its own; None for numbers too many for that."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    levels = sorted(set(values)) if numbers else sorted(set(values), key=str)
    return None if numbers and len(levels) > _MOST_TICKS else levels


def _tick(level: Any) -> str:
    return f"{level:.4g}" if isinstance(level, float) else str(level)[:_TICK_CHARACTERS]
