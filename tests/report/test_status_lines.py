"""What `llb-ray status` prints about a run that is at work, silent or failed."""

import io
import time
from pathlib import Path

from rich.console import Console

from llb_ray.engine.inspection.run_status import read_status
from llb_ray.report.status_lines import duration, show_status
from tests.support import write_beat, write_events

STARTED = {"event": "run started", "config": {"members": {"count": 4}}}
MEMBERS = {"event": "stage started", "stage": "members", "reused": False}


def _said(run: Path) -> list[str]:
    console = Console(file=io.StringIO(), width=40)
    show_status(console, read_status(run))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_run_at_work(tmp_path: Path) -> None:
    write_events(tmp_path, STARTED, time_s=time.time() - 200)
    write_events(tmp_path, {"event": "stage finished", "stage": "features", "reused": True, "seconds": 0}, MEMBERS)
    write_beat(tmp_path, "member-002")
    write_beat(tmp_path, "member-003", state="waiting")
    assert _said(tmp_path) == [
        "running for 3 min 20 s",
        "features: up to date",
        "members: running",
        "member: 2 done, 1 working, 1 waiting, 1.5 images/s",
        "  member-002 score 3 of 10, 1.5 images/s",
    ]


def test_members_that_failed_or_were_started_again_are_told_apart(tmp_path: Path) -> None:
    write_events(tmp_path, STARTED, MEMBERS)
    write_beat(tmp_path, "member-001", state="failed")
    write_beat(tmp_path, "member-002", starts=2)
    write_beat(tmp_path, "member-003", done=0, total=0, figures={"loss": 0.25, "effective_sample_size": 7.5})
    assert _said(tmp_path)[2:] == [
        "member: 1 done, 2 working, 0 waiting, 1 failed, 1.5 images/s",
        "  member-002 score 3 of 10, 1.5 images/s, started 2 times",
        "  member-003 score begins, effective sample size 7.5, loss 0.25",
    ]


def test_a_silent_worker_is_named_and_a_silent_run_is_told_apart(tmp_path: Path) -> None:
    write_events(tmp_path, STARTED, MEMBERS, time_s=time.time() - 4000)
    write_beat(tmp_path, "member-002", time_s=time.time() - 300, unit="step", done=0)
    write_beat(tmp_path, "member-003")
    assert "  member-002 score 0 of 10, silent for 5 min 0 s" in _said(tmp_path)
    assert _said(tmp_path)[0].startswith("running for 1 h 6 min")
    write_beat(tmp_path, "member-003", time_s=time.time() - 120)
    assert _said(tmp_path)[0].startswith("silent for 2 min 0 s: if its process is gone, rerun the same command")


def test_a_stopped_run_says_how_to_go_on(tmp_path: Path) -> None:
    write_events(tmp_path, STARTED, MEMBERS, {"event": "run stopped"})
    assert _said(tmp_path)[0] == "stopped: rerun the same command to resume"
    assert "members: not finished" in _said(tmp_path)


def test_a_failed_run_says_its_sentence_whole(tmp_path: Path) -> None:
    write_events(tmp_path, STARTED, MEMBERS, {"event": "run failed", "error": "member-000 [gave] image x no score" * 3})
    assert _said(tmp_path)[:2] == ["failed: " + "member-000 [gave] image x no score" * 3, "members: not finished"]


def test_two_hundred_workers_do_not_fill_the_screen(tmp_path: Path) -> None:
    write_events(tmp_path, STARTED, MEMBERS)
    for number in range(200):
        write_beat(tmp_path, f"member-{number:03d}")
    said = _said(tmp_path)
    assert len(said) < 25
    assert said[-1] == "  ... and 184 more working"


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.04, 59.94, 60, 7500)] == ["0.0 s", "59.9 s", "1 min 0 s", "2 h 5 min"]
