"""The table of trials: types, order, the best, and what is drawn and printed."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from llb_ray.config import RunConfig, load
from llb_ray.errors import ConfigError
from llb_ray.search.search_plot import plot_trials
from llb_ray.search.trials import (
    Trial,
    best,
    best_config,
    format_trials,
    rank_trials,
    searched_keys,
    trials_table,
    write_trials,
)


def _values(count: int, keep: float, mode: str = "off") -> dict[str, object]:
    return {"members.count": count, "purify.keep_ratio": keep, "importance.mode": mode}


TRIALS = [
    Trial(2, _values(3, 0.9, "moments"), 2.0, 0.9, kept=90, rejected=10, run=Path("runs/2"), facts={"split_half": 0.5}),
    Trial(0, _values(2, 0.8), 1.0, 0.7, kept=80, rejected=20, run=Path("runs/0"), facts={"split_half": 0.1}),
    Trial(1, _values(2, 0.9), 1.5, 0.9, kept=90, rejected=10, run=Path("runs/1")),
    Trial(3, _values(3, 0.8, "fixed"), 0.1, reason="mode fixed needs mu and sigma"),
]


@pytest.fixture
def table() -> pa.Table:
    return trials_table(TRIALS)


def test_a_row_per_trial_and_a_column_per_key_and_fact_survive_parquet(table: pa.Table, tmp_path: Path) -> None:
    write_trials(tmp_path / "trials.parquet", table)
    again = pq.read_table(tmp_path / "trials.parquet")
    assert again.equals(table)
    assert again["trial"].to_pylist() == [0, 1, 2, 3]
    assert searched_keys(again) == ["members.count", "purify.keep_ratio", "importance.mode"]
    assert again["split_half"].to_pylist() == [0.1, None, 0.5, None]
    assert again["status"].to_pylist() == ["finished"] * 3 + ["failed"]
    assert json.loads(again["settings"][3].as_py()) == TRIALS[3].values


def test_the_best_is_the_highest_and_of_equals_the_first(table: pa.Table) -> None:
    assert best(table)["trial"] == 1
    assert rank_trials(table)["trial"].to_pylist() == [1, 2, 0, 3]


def test_a_trial_that_was_stopped_early_is_never_the_best() -> None:
    promising = Trial(4, _values(5, 0.8), 0.5, 0.99, "after 25% of the final detector's steps")
    table = trials_table([*TRIALS, promising])
    assert table["status"].to_pylist()[-1] == "stopped early"
    assert rank_trials(table)["trial"].to_pylist() == [1, 2, 0, 4, 3]
    names, _ = format_trials(table)
    assert names[-1] == "reason"
    with pytest.raises(ConfigError, match="none of 1 trials finished; the first ended so: after 25%"):
        best(trials_table([promising]))


def test_the_best_config_is_ready_to_run(table: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(best_config(table, RunConfig(seed=7)).to_yaml())
    config = load(path)
    assert (config.seed, config.members.count, config.purify.keep_ratio) == (7, 2, 0.9)


def test_values_of_several_kinds_and_lists_fit_in_a_column_and_come_back() -> None:
    layers = [Trial(n, {"detector.backbone.layers": value}, 1.0, 0.5) for n, value in enumerate(([1, 2], [3]))]
    table = trials_table(layers)
    assert table["detector.backbone.layers"].to_pylist() == ["[1, 2]", "[3]"]
    base = RunConfig.model_validate({"detector": {"name": "memory_bank"}})
    assert best_config(table, base).to_yaml().count("layers:\n    - 1\n    - 2")
    mixed = trials_table([Trial(n, {"x": value}, 1.0, 0.5) for n, value in enumerate((1, 0.5, None))])
    assert mixed["x"].to_pylist() == [1.0, 0.5, None]
    assert trials_table([Trial(0, {"x": True}, 1.0), Trial(1, {"x": "a"}, 1.0)])["x"].to_pylist() == ["true", "a"]


def test_where_nothing_finished_the_first_reason_is_said(tmp_path: Path) -> None:
    table = trials_table([Trial(0, {"members.count": 2}, 0.1, reason="too few images")])
    with pytest.raises(ConfigError, match="none of 1 trials finished; the first ended so: too few images"):
        best(table)


def test_what_is_printed_is_best_first_and_says_why_trials_failed(table: pa.Table) -> None:
    header, rows = format_trials(table)
    assert header == ["trial", *searched_keys(table), "objective", "kept", "seconds", "reason"]
    assert [row[0] for row in rows] == ["1", "2", "0", "3"]
    assert rows[0] == ["1", "2", "0.9", "off", "0.9", "90", "1.5", "-"]
    assert rows[3][-1] == "mode fixed needs mu and sigma"
    assert "reason" not in format_trials(trials_table(TRIALS[:3]))[0]


@pytest.mark.parametrize("num_keys", [1, 3, 5])
def test_the_figure_has_a_panel_per_key(num_keys: int, tmp_path: Path) -> None:
    trials = [
        Trial(n, {f"key.{k}": (n * 0.1 + k if k % 2 else "ab"[n % 2]) for k in range(num_keys)}, 1.0, n / 10)
        for n in range(12)
    ]
    plot_trials(trials_table(trials), tmp_path / "trials.png", "canary")
    width, height = Image.open(tmp_path / "trials.png").size
    assert width == 510 * min(3, num_keys)
    assert height == 420 * (1 + (num_keys > 3))
