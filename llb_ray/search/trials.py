"""The table of trials: what was tried, what came of it, and which was best."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llb_ray.config import RunConfig
from llb_ray.data.manifest import path_text
from llb_ray.errors import ConfigError
from llb_ray.search.space import trial_config

FINISHED, STOPPED, FAILED = "finished", "stopped early", "failed"
_OUTCOME = [
    pa.field("objective", pa.float64()),  # higher is better; null where the trial failed
    pa.field("status", pa.string(), nullable=False),
    pa.field("reason", pa.string()),  # why it failed, or where it was stopped
    pa.field("seconds", pa.float64(), nullable=False),
    pa.field("kept", pa.int64()),
    pa.field("rejected", pa.int64()),
    pa.field("run", pa.string()),  # its folder
    pa.field("settings", pa.string(), nullable=False),  # the searched ones as JSON, for programs
]


@dataclass(frozen=True)
class Trial:
    """One trial; `objective` is None exactly where it failed, `reason` exactly where it was whole."""

    number: int
    values: Mapping[str, Any]
    seconds: float
    objective: float | None = None
    reason: str | None = None
    kept: int | None = None
    rejected: int | None = None
    run: Path | None = None
    facts: Mapping[str, float] = field(default_factory=dict)  # further label-free figures, a column each

    @property
    def status(self) -> str:
        if self.objective is None:
            return FAILED
        return STOPPED if self.reason else FINISHED

    def row(self) -> dict[str, Any]:
        """Its row of the table."""
        return {
            "trial": self.number,
            **{key: _cell(value) for key, value in self.values.items()},
            "objective": self.objective,
            "status": self.status,
            "reason": self.reason,
            "seconds": self.seconds,
            "kept": self.kept,
            "rejected": self.rejected,
            "run": None if self.run is None else path_text(str(self.run)),
            "settings": json.dumps(dict(self.values)),
            **self.facts,
        }


def trials_table(trials: Sequence[Trial]) -> pa.Table:
    """One row per trial, by number: trial, a column per searched key, the outcome, and a column per fact.

    A searched key whose values are of several kinds (a number here, a word there) is a column of text.
    """
    rows = [trial.row() for trial in sorted(trials, key=lambda trial: trial.number)]
    searched, facts = (dict.fromkeys(n for trial in trials for n in names(trial)) for names in (_values, _facts))
    columns = {"trial": pa.array([row["trial"] for row in rows], pa.int64())}
    columns |= {key: _column([row.get(key) for row in rows]) for key in searched}
    columns |= {spec.name: pa.array([row[spec.name] for row in rows], spec.type) for spec in _OUTCOME}
    columns |= {name: pa.array([row.get(name) for row in rows], pa.float64()) for name in facts}
    return pa.table(columns)


def write_trials(path: Path, table: pa.Table) -> None:
    """Write the table as one Parquet file."""
    pq.write_table(table, path)


def rank_trials(table: pa.Table) -> pa.Table:
    """Best first; of equal ones the first tried; then what was stopped early, then what failed.

    A trial that was stopped early is no candidate: its objective is that of fewer steps than the others had.
    """
    whole = pc.equal(table["status"], FINISHED)
    order = pc.sort_indices(
        pa.table({"whole": whole, "objective": table["objective"], "trial": table["trial"]}),
        sort_keys=[("whole", "descending"), ("objective", "descending"), ("trial", "ascending")],
    )
    return table.take(order)


def best(table: pa.Table) -> dict[str, Any]:
    """The row of the best trial; raises ConfigError with the first reason if none finished."""
    row: dict[str, Any] = rank_trials(table).slice(0, 1).to_pylist()[0]
    if row["status"] != FINISHED:
        raise ConfigError(f"none of {table.num_rows} trials finished; the first ended so: {row['reason']}")
    return row


def best_config(table: pa.Table, base: RunConfig) -> RunConfig:
    """`base` with the settings of the best trial; its `to_yaml` is ready to be run."""
    return trial_config(base, json.loads(best(table)["settings"]))


def searched_keys(table: pa.Table) -> list[str]:
    """The searched settings, in the order of the space."""
    names: list[str] = table.column_names
    return names[names.index("trial") + 1 : names.index("objective")]


def format_trials(table: pa.Table, at_most: int = 20) -> tuple[list[str], list[list[str]]]:
    """Readable header and rows, best first: trial, settings, objective, kept, seconds, and why it is not whole."""
    keys = searched_keys(table)
    names = ["trial", *keys, "objective", "kept", "seconds", *["reason"] * (table["reason"].null_count < len(table))]
    rows = rank_trials(table).slice(0, at_most).to_pylist()
    return names, [[_text(row[name], name) for name in names] for row in rows]


def _values(trial: Trial) -> Mapping[str, Any]:
    return trial.values


def _facts(trial: Trial) -> Mapping[str, float]:
    return trial.facts


def _cell(value: Any) -> Any:
    """A value that a column can hold: lists and the like as JSON."""
    return value if isinstance(value, bool | int | float | str | None) else json.dumps(value)


def _column(values: Sequence[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return pa.array(values, pa.float64())
    if len(kinds) > 1:
        return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values])
    return pa.array(values)


def _text(value: Any, name: str) -> str:
    if value is None:
        return "-"
    if name == "seconds":
        return f"{value:.1f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
