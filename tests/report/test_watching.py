"""Progress on a terminal and in a log: speed and time left, of a stage and of the run, and no flood."""

import io
import json
import re
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from llb_ray.disk import write_json
from llb_ray.engine.execution.heartbeat import Beat
from llb_ray.planning.outlook import Expected, Outlook
from llb_ray.report import progress_bars as module
from llb_ray.report.progress_bars import Watch, bars, watching

OUTLOOK = Outlook([Expected("features", 100.0, 1000), Expected("final", 60.0)])


def _console(terminal: bool = False, width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)


def _said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _begin(run: Path, stage: str = "features") -> float:
    now_s = time.time()
    (run / "progress").mkdir(parents=True, exist_ok=True)
    started = {"event": "run started", "time_s": now_s, "config": {"members": {"count": 3}}}
    events = [started, {"event": "stage started", "time_s": now_s, "stage": stage}]
    (run / "events.jsonl").write_text("".join(json.dumps({**event, "reused": False}) + "\n" for event in events))
    return now_s


def _beat(run: Path, done: int, since_s: float, name: str = "featurizer-000") -> None:
    beat = Beat(name, "encode", done, 1000, "images", 1, time.time(), since_s)
    write_json(run / "progress" / f"{name}.json", asdict(beat))


@pytest.mark.parametrize("width", [80, 120])
def test_a_stage_has_a_speed_and_a_time_from_its_start_on_every_terminal(width: int, tmp_path: Path) -> None:
    console = _console(terminal=True, width=width)
    watch = Watch(console, tmp_path / "progress")
    watch.expect(OUTLOOK)
    since_s = _begin(tmp_path)
    console.print(bars(watch.lines()))
    stage, run = _said(console).splitlines()
    assert stage.startswith("features ")
    assert re.search(r" 0/1000  ~10 images/s +~1 min \d+ s left", stage)
    assert run.startswith("whole run ")
    assert re.search(r"~2 min \d+ s left", run)
    assert max(len(stage.rstrip()), len(run.rstrip())) <= width
    _beat(tmp_path, 12, since_s - 1)
    assert [line.guessed for line in watch.lines()] == [False, True]


def test_a_name_that_is_long_leaves_room_for_the_figures(tmp_path: Path) -> None:
    console, watch = _console(terminal=True), Watch(_console(), tmp_path / "progress")
    since_s = _begin(tmp_path, "member-scores")
    for number in range(9):
        _beat(tmp_path, 999, since_s - 1, f"scorer-{number:03d}")
    console.print(bars(watch.lines()))
    (line,) = _said(console).splitlines()
    assert "8991/9000" in line
    assert "images/s" in line
    assert " left" in line


def test_between_two_stages_the_whole_run_is_still_there(tmp_path: Path) -> None:
    watch = Watch(_console(), tmp_path / "progress")
    now_s = _begin(tmp_path)
    with (tmp_path / "events.jsonl").open("a") as log:
        ended = {"event": "stage finished", "time_s": now_s, "stage": "features", "seconds": 100.0, "reused": False}
        log.write(json.dumps(ended) + "\n")
    assert watch.lines() == []
    watch.expect(OUTLOOK)
    (line,) = watch.lines()
    assert (line.progress.name, line.left_s) == ("whole run", 60.0)
    assert line.progress.share == pytest.approx(100 / 160, abs=0.01)


def test_what_this_process_counts_is_a_stage_too(tmp_path: Path) -> None:
    watch = Watch(_console(), tmp_path / "progress")
    count = watch.counting("reading", "files")
    count(0, 300)
    count(150, 300)
    (line,) = watch.lines()
    assert line.sentence().startswith("reading: 150/300, ")
    assert "files/s" in line.sentence()
    count(300, 300)
    assert [line.progress.name for line in watch.lines()] == ["preparing"]


def test_workers_of_no_single_run_are_shown_by_kind(tmp_path: Path) -> None:
    (tmp_path / "progress").mkdir()
    watch = Watch(_console(), tmp_path / "progress")
    _beat(tmp_path, 10, time.time() - 5, "jobs")
    assert [line.progress.name for line in watch.lines()] == ["jobs"]


@pytest.mark.parametrize("terminal", [True, False])
def test_watching_tells_every_line_as_it_is(terminal: bool, tmp_path: Path) -> None:
    console = _console(terminal=terminal)
    with watching(console, tmp_path / "progress") as watch:
        watch.tell("members: [bold]2.0 s[/bold]")
    assert "members: [bold]2.0 s[/bold]" in _said(console)
    assert ("\x1b" in _said(console)) == terminal


def test_a_log_has_a_line_for_each_stage_that_lasts_and_then_one_every_so_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0.01)
    monkeypatch.setattr(module, "_FIRST_S", 0.0)
    console = _console(width=200)
    with watching(console, tmp_path / "progress") as watch:
        watch.expect(OUTLOOK)
        since_s = _begin(tmp_path)
        _beat(tmp_path, 20, since_s - 2)
        end_s = time.monotonic() + 60
        while "features" not in _said(console) and time.monotonic() < end_s:
            time.sleep(0.01)
        for _ in range(20):
            time.sleep(0.01)
    lines = [line for line in _said(console).splitlines() if line.startswith("features")]
    assert len(lines) == 1, "the next is due in half a minute"
    assert lines[0].startswith("features: 20/1000, ")
    assert "images/s" in lines[0]
    assert "left; whole run: ~" in lines[0]
