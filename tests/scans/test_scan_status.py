"""What `llb-ray status` says of a scan, from its folder alone."""

import io
import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from llb_ray.cli import main
from llb_ray.disk import write_json
from llb_ray.report.status_lines import show_scan_status
from llb_ray.scans.scan_status import read_scan_status, time_left_s
from tests.support import write_beat, write_scan


def _said(out: Path) -> list[str]:
    console = Console(file=io.StringIO(), width=40)
    show_scan_status(console, read_scan_status(out))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_jobs_by_state_their_speed_and_the_time_left(tmp_path: Path) -> None:
    out = write_scan(tmp_path / "scan", done=4, total=10, failed=1, up_to_date=2, running=["gear", "wood"])
    write_beat(out / "jobs" / "gear", "member-000")
    write_beat(out / "jobs" / "wood", "scorer-000")
    first, gear, wood = _said(out)
    assert first.startswith("10 jobs: 3 done, 2 running, 1 failed, 4 waiting, 3.0 images/s, about 2 min 4")
    assert gear.startswith("  gear: features, running for ")
    assert wood.startswith("  wood: features, running for ")


def test_a_job_is_running_before_its_run_has_begun_and_no_more_when_it_is_silent(tmp_path: Path) -> None:
    out = write_scan(tmp_path / "scan", done=0, total=3)
    beat = {"step": "job", "done": 0, "total": 0, "unit": "", "pid": 1, "state": "working"}
    for name, age_s in (("gear", 1), ("wood", 400)):
        since = {"time_s": time.time() - age_s, "since_s": time.time() - age_s}
        write_json(out / "progress" / "running" / f"{name}.json", {"name": name, **beat, **since})
    assert _said(out) == ["3 jobs: 0 done, 1 running, 0 failed, 2 waiting", "  gear: reading images"]


def test_the_status_of_a_scan_for_programs(tmp_path: Path) -> None:
    out = write_scan(tmp_path / "scan", done=10, total=10, failed=2)
    said = json.loads(CliRunner().invoke(main, ["status", str(out), "--json"]).stdout)
    assert said["jobs"] == {"done": 8, "running": 0, "failed": 2, "waiting": 0}
    assert (said["left_s"], said["running"]) == (0, {})


@pytest.mark.parametrize(
    ("ended", "running", "waiting", "left_s"),
    [(0, 4, 6, None), (4, 0, 4, 100), (1, 0, 3, 300), (4, 8, 0, 50), (2, 4, 10, 300)],
)
def test_the_time_left_counts_a_running_job_as_half_done(
    ended: int, running: int, waiting: int, left_s: float | None
) -> None:
    assert time_left_s(ended, running, waiting, 100) == left_s
