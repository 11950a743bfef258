"""What programs get: one JSON object on stdout, with everything that the closing tables say."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import llb_ray
from llb_ray import RunConfig
from llb_ray.cli import main
from llb_ray.report.json_output import status_object, trials_object
from llb_ray.search.trials import Trial, trials_table
from tests.support import write_beat, write_events


def _llb(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_run_and_status_say_the_same_to_programs(tiny: RunConfig, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(tiny.to_yaml())
    words = ("--config", tmp_path / "c.yaml", "--data", photos, "--out", tmp_path / "run", "--executor", "serial")
    result = _llb("run", *words, "--json")
    assert result.exit_code == 0, result.output
    assert "member-000 done" in result.stderr, "progress is told elsewhere"
    said = json.loads(result.stdout)
    assert said["images"] == {"training": 48, "kept": 36, "rejected": 12, "quarantined": 0}
    assert said["state"] == "finished"
    assert {
        key: stage[key] for stage in said["stages"] if stage["stage"] == "members" for key in ("stage", "reused")
    } == {"stage": "members", "reused": False}
    assert 0 <= said["metrics"]["i_auroc"] <= 1
    asked = json.loads(_llb("status", tmp_path / "run", "--json").stdout)
    for key in ("run", "state", "images", "metrics", "missing_members", "stages"):
        assert asked[key] == said[key], key


def test_a_run_at_work_has_workers_and_no_counts(tmp_path: Path) -> None:
    config = {"members": {"count": 3}}
    write_events(
        tmp_path,
        {"event": "run started", "config": config},
        {"event": "stage started", "stage": "member-scores", "reused": False},
    )
    write_beat(tmp_path, "scorer-000")
    said = status_object(llb_ray.status(tmp_path))
    assert (said["state"], said["stage"], said["error"]) == ("running", "member-scores", None)
    assert said["workers"] == {"scorer": {"working": 1}}
    assert "images" not in said
    json.dumps(said, allow_nan=False)


def test_a_search_lists_its_trials_best_first(tmp_path: Path) -> None:
    trials = [
        Trial(0, {"members.count": 2}, 1.0, objective=0.5),
        Trial(1, {"members.count": 3}, 2.0, objective=0.7),
        Trial(2, {"members.count": 4}, 3.0, reason="out of memory"),
    ]
    said = trials_object(trials_table(trials), tmp_path)
    assert [row["trial"] for row in said["trials"]] == [1, 0, 2]
    assert (said["best_trial"], said["best_config"]) == (1, str(tmp_path / "best.yaml"))
    assert said["trials"][2]["objective"] is None
    json.dumps(said, allow_nan=False)


@pytest.mark.parametrize("words", [["run", "--data", "nowhere", "--out", "o"], ["status", "nowhere"]])
def test_a_refusal_leaves_stdout_empty(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = _llb(*words, "--json")
    assert (result.exit_code, result.stdout) == (1, "")
