"""How far a run is, from its folder: running, silent, failed, finished, started again, half written."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import with_overrides
from llb_ray.engine.execution.heartbeat import Beat, Heartbeat
from llb_ray.engine.inspection.run_status import read_status
from llb_ray.errors import ArtifactError, MemberError
from tests.support import write_beat, write_events
from tests.workers import place

STARTED = {"event": "run started", "config": {"members": {"count": 5}}}


def _stage(stage: str, event: str = "stage started", **facts: Any) -> dict[str, Any]:
    return {"event": event, "stage": stage, "reused": False, **facts}


def test_a_run_at_work_names_its_stage_and_counts_its_workers(tmp_path: Path) -> None:
    write_events(tmp_path, STARTED, _stage("features"), _stage("features", "stage finished", seconds=2.5))
    write_events(tmp_path, _stage("members"))
    write_beat(tmp_path, "member-001", state="done")
    write_beat(tmp_path, "member-002")
    write_beat(tmp_path, "member-004", state="waiting")
    status = read_status(tmp_path)
    assert (status.state, status.stage, status.outcome) == ("running", "members", None)
    assert [(time.stage, time.seconds) for time in status.times] == [("features", 2.5)]
    # Two of the five were up to date and have no heartbeat.
    assert status.workers() == {"member": {"done": 3, "working": 1, "waiting": 1}}
    assert status.silence_s < 5


def test_silence_is_counted_from_the_last_sign_of_anybody(tmp_path: Path) -> None:
    write_events(tmp_path, STARTED, _stage("members"), time_s=time.time() - 500)
    assert read_status(tmp_path).silence_s == pytest.approx(500, abs=5)
    write_beat(tmp_path, "member-000", time_s=time.time() - 100)
    assert read_status(tmp_path).silence_s == pytest.approx(100, abs=5)


def test_only_the_last_start_counts_and_a_half_written_line_does_not(tmp_path: Path) -> None:
    write_events(tmp_path, STARTED, _stage("members"), {"event": "run failed", "error": "no"}, STARTED)
    with (tmp_path / "events.jsonl").open("a") as log:
        log.write('{"event": "stage sta')
    status = read_status(tmp_path)
    assert (status.state, status.error, status.stage, status.times) == ("running", "", "", [])


def test_a_run_that_failed_says_why(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    config = with_overrides(tiny, ["detector.learning_rate=1e30"])
    with pytest.raises(MemberError) as error:
        llb_ray.run(config, llb_ray.read_folder(photos, tiny), out=tmp_path / "run", executor="serial")
    status = llb_ray.status(tmp_path / "run")
    assert (status.state, status.error) == ("failed", str(error.value))


def test_a_finished_run_gives_its_result_again(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    result = llb_ray.run(tiny, llb_ray.read_folder(photos, tiny), out=tmp_path / "run", executor="serial")
    status = llb_ray.status(tmp_path / "run")
    assert status.state == "finished"
    assert status.outcome is not None
    for name in ("num_input", "num_kept", "num_rejected", "num_quarantined", "metrics"):
        assert getattr(status.outcome, name) == getattr(result, name)
    assert [time.stage for time in status.times] == [time.stage for time in result.times]
    assert status.workers()["member"] == {"done": 3}


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no run was started here"):
        read_status(tmp_path)


def test_a_heartbeat_knows_its_rate_and_keeps_its_figures_when_it_is_done(tmp_path: Path) -> None:
    heartbeat = Heartbeat(place(tmp_path), "member-003")
    path = tmp_path / "progress" / "member-003.json"
    heartbeat.wait()
    assert Beat(**json.loads(path.read_text())).state == "waiting"
    heartbeat.report("score")(8, 10, "images")
    heartbeat.finish()
    beat = Beat(**json.loads(path.read_text()))
    assert (beat.kind, beat.state, beat.step, beat.done, beat.total) == ("member", "done", "score", 8, 10)
    later = Beat(**{**asdict(beat), "time_s": beat.since_s + 4})
    assert later.per_second == pytest.approx(2)
    assert Beat("final", "", 0, 0, "", 1, 7.0, 7.0).per_second == 0
