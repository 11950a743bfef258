"""Kill the whole process at any moment, run the same command again: the same bytes, and only missing work is done."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import llb_ray
from llb_ray import RunConfig
from tests.support import final_files

pytestmark = pytest.mark.e2e


def _command(config: Path, photos: Path, out: Path) -> list[str]:
    paths = ["--config", str(config), "--data", str(photos), "--out", str(out)]
    return [sys.executable, "-m", "llb_ray", "run", *paths, "--executor", "serial", "--no-report"]


def _kill_when(command: list[str], out: Path, stage: str, count: int) -> None:
    """Start `command` and SIGKILL it as soon as `stage` has `count` finished artifacts."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and len(list((out / "artifacts" / stage).glob("*/record.json"))) < count:
        time.sleep(0.005)
    assert process.poll() is None, f"the run ended before {stage} had {count} artifacts"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize(("stage", "count"), [("features", 1), ("fit", 2), ("score", 1), ("score", 2), ("purify", 1)])
def test_kill_and_resume(stage: str, count: int, photos: Path, tiny: RunConfig, finished: Path, tmp_path: Path) -> None:
    config, out = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(tiny.to_yaml())
    _kill_when(_command(config, photos, out), out, stage, count)
    before = {path: path.stat().st_mtime_ns for path in out.glob("artifacts/*/*/record.json")}
    assert not (out / "run.json").exists(), "run.json means finished"
    lines: list[str] = []
    llb_ray.run(tiny, llb_ray.read_folder(photos, tiny), out=out, executor="serial", tell=lines.append)
    assert [line for line in lines if "previous run crashed in stage " in line]
    assert final_files(out) == final_files(finished)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "finished work was done again"


def _at_a_terminal() -> None:
    """Have the child hear SIGINT, which a child of a shell's background job would ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _as_nohup() -> None:
    """Have the child ignore what `nohup ... &` makes it ignore."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@pytest.mark.parametrize(("number", "started"), [(signal.SIGINT, _at_a_terminal), (signal.SIGTERM, _as_nohup)])
def test_a_run_that_is_stopped_reports_it_and_resumes(
    number: signal.Signals,
    started: Callable[[], None],
    photos: Path,
    tiny: RunConfig,
    finished: Path,
    tmp_path: Path,
) -> None:
    config, out = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(tiny.to_yaml())
    command = _command(config, photos, out)
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=started
    )
    while process.poll() is None and not list(out.glob("artifacts/fit/*/record.json")):
        time.sleep(0.005)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 128 + number
    by = " by SIGTERM" if number == signal.SIGTERM else ""
    assert said == f"llb-ray: stopped{by}; rerun the same command to resume\n"
    assert llb_ray.status(out).state == "stopped"
    again = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    assert "crashed" not in again.stdout
    assert final_files(out) == final_files(finished)


def _killed_and_again(command: list[str], begun: Callable[[], object], number: signal.Signals) -> None:
    """Start `command`, end it as soon as it has `begun`, and have it go on."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not begun():
        time.sleep(0.002)
    process.send_signal(number)
    assert process.wait() != 0, "it ended before it was killed"
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def test_a_prediction_that_is_killed_goes_on(photos: Path, finished: Path, tmp_path: Path) -> None:
    data, whole, hurt = tmp_path / "data", tmp_path / "whole", tmp_path / "hurt"
    for copy in range(6):
        shutil.copytree(photos / "train", data / str(copy))
    predict = [sys.executable, "-m", "llb_ray", "predict", str(finished), "--data", str(data), "--maps", "--out"]
    subprocess.run([*predict, str(whole)], check=True, stdout=subprocess.DEVNULL)
    _killed_and_again([*predict, str(hurt)], lambda: list(hurt.glob(".unfinished/0*")), signal.SIGKILL)
    found, expected = (
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} for out in (hurt, whole)
    )
    assert found == expected


def test_running_again_does_nothing_and_a_new_setting_only_what_it_needs(
    photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    from llb_ray.config import with_overrides

    manifest = llb_ray.read_folder(photos, tiny)
    llb_ray.run(tiny, manifest, out=tmp_path, executor="serial")
    again = llb_ray.run(tiny, manifest, out=tmp_path, executor="serial")
    assert all(time.reused for time in again.times)
    other = llb_ray.run(with_overrides(tiny, ["purify.keep_ratio=0.5"]), manifest, out=tmp_path, executor="serial")
    assert [time.stage for time in other.times if not time.reused] == [
        "purify",
        "final",
        "final-scores",
        "held-out-maps",
        "threshold",
        "evaluate",
    ]
    longer = llb_ray.run(with_overrides(tiny, ["detector.final_steps=25"]), manifest, out=tmp_path, executor="serial")
    assert [time.stage for time in longer.times if not time.reused] == [
        "final",
        "final-scores",
        "threshold",
        "evaluate",
    ]
    assert llb_ray.audit(tmp_path)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "run finished" for event in events) == 4
