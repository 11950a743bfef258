"""What cluster/README.md promises of submitted jobs, on a real head: log, exit status, metrics, stop, resume."""

import re
import threading
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

import llb_ray
from llb_ray.config import load
from llb_ray.engine.inspection.run_status import Status
from tests.cluster.head import ROOT, Head, running_head
from tests.cluster.test_files import metric_names

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
DEMO = ROOT / "configs" / "autoencoder.yaml"


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head() as running:
        yield running


@pytest.fixture(scope="module")
def gears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (root,) = llb_ray.synth(tmp_path_factory.mktemp("photos"), categories=["gear"], alpha=0.2)
    return root


def _submit(head: Head, name: str, data: Path, out: Path, *more: str, wait: bool = True) -> tuple[int, str]:
    """The exit status and the output of `ray job submit`."""
    flags = () if wait else ("--no-wait",)
    run = ("llb-ray", "run", "--config", DEMO, "--data", data, "--out", out, *more)
    done = head.command("ray", "job", "submit", *flags, "--submission-id", name, "--", *run)
    return done.returncode, done.stdout


def _logs(head: Head, name: str) -> str:
    logs: str = head.dashboard(f"/api/jobs/{name}/logs")["logs"]
    return logs


def _until(condition: Iterator[bool], what: str, limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while not next(condition):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.3)


def test_nothing_is_told_without_the_token(head: Head) -> None:
    assert head.dashboard("/api/jobs/") == []
    with pytest.raises(urllib.error.HTTPError, match="403|401"):
        head.dashboard("/api/jobs/", token="wrong" * 10)


def test_the_demo_as_a_job_is_followed_measured_and_leaves_its_results(head: Head, gears: Path, tmp_path: Path) -> None:
    scraped: set[str] = set()
    actors: set[str] = set()
    ended = threading.Event()
    watching = threading.Thread(target=_watch, args=(head, scraped, actors, ended))
    watching.start()
    try:
        status, output = _submit(head, "llb-demo", gears, tmp_path / "run", "--set", "importance.mode=moments")
    finally:
        time.sleep(2)  # the driver's last figures leave with it
        ended.set()
        watching.join()
    assert status == 0, output[-2000:]
    assert "member-004 done" in output, "the log is followed"
    assert "Job 'llb-demo' succeeded" in output
    assert "\x1b" not in _logs(head, "llb-demo"), "a log must hold plain lines"
    assert llb_ray.audit(tmp_path / "run")
    assert llb_ray.status(tmp_path / "run").state == "finished"
    assert scraped == metric_names()
    assert any(re.fullmatch(r"llb-gear-worker-\d\d", name) for name in actors)


def _watch(head: Head, scraped: set[str], actors: set[str], ended: threading.Event) -> None:
    while not ended.wait(1):
        scraped |= set(re.findall(r"^(ray_llb_\w+)\{", head.metrics(), re.MULTILINE))
        found = head.dashboard("/api/v0/actors?detail=0&limit=100")["data"]["result"]["result"]
        actors |= {actor["name"] for actor in found}
    scraped |= set(re.findall(r"^(ray_llb_\w+)\{", head.metrics(), re.MULTILINE))


def test_a_refusal_is_exit_1_and_its_sentence_is_in_the_log(head: Head, gears: Path, tmp_path: Path) -> None:
    status, output = _submit(head, "llb-refused", gears, tmp_path / "run", "--set", "purify.keep_rato=1")
    assert status == 1
    assert "llb-ray: --set purify.keep_rato=1: unknown key" in output or "unknown key 'purify.keep_rato'" in output
    assert "Traceback" not in _logs(head, "llb-refused")


def test_a_stopped_job_goes_on_from_what_it_has_finished(head: Head, gears: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    more = ("--set", "detector.member_steps=400", "--set", "detector.final_steps=50")
    assert _submit(head, "llb-long", gears, out, *more, wait=False)[0] == 0
    _until((_members_done(out) >= 1 for _ in iter(int, 1)), "the first member")
    stopped = head.command("ray", "job", "stop", "llb-long")
    assert stopped.returncode == 0, stopped.stdout
    assert head.dashboard("/api/jobs/llb-long")["status"] == "STOPPED"
    before = llb_ray.status(out)
    assert (before.state, before.stage) == ("stopped", "members")
    kept = [beat.name for beat in before.beats if beat.kind == "member" and beat.state == "done"]
    status, output = _submit(head, "llb-again", gears, out, *more)
    assert status == 0, output[-2000:]
    again = set(re.findall(r"(member-\d+) done", _logs(head, "llb-again")))
    assert kept
    assert again.isdisjoint(kept)
    assert len(again) <= 5 - len(kept)
    assert "features: up to date" in output
    assert llb_ray.audit(out)


def test_after_the_death_of_the_head_the_same_command_goes_on_at_the_next_one(
    head: Head, gears: Path, tmp_path: Path
) -> None:
    out, more = tmp_path / "run", ("--set", "detector.member_steps=200", "--set", "detector.final_steps=20")
    with running_head() as first:
        assert _submit(first, "llb-lost", gears, out, *more, wait=False)[0] == 0
        _until((_members_done(out) >= 1 for _ in iter(int, 1)), "the first member")
        first.kill()
    before = llb_ray.status(out)
    assert before.state != "finished"
    kept = {beat.name for beat in before.beats if beat.kind == "member" and beat.state == "done"}
    status, output = _submit(head, "llb-found", gears, out, *more)
    assert status == 0, output[-2000:]
    assert "previous run crashed in stage members; resuming" in output
    assert "features: up to date" in output
    assert kept
    assert kept.isdisjoint(re.findall(r"(member-\d+) done", output))
    assert llb_ray.audit(out)


def test_a_search_as_a_job(head: Head, gears: Path, tmp_path: Path) -> None:
    space, out = tmp_path / "space.yaml", tmp_path / "tune"
    space.write_text("purify.keep_ratio: [0.7, 0.9]\n")
    quick = ("detector.member_steps=5", "detector.final_steps=5", "members.count=2")
    given = [word for setting in quick for word in ("--set", setting)]
    tune = ("llb-ray", "tune", "--config", DEMO, "--data", gears, "--space", space, "--out", out, *given)
    done = head.command("ray", "job", "submit", "--submission-id", "llb-tune", "--", *tune)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "trial 2 of 2" in done.stdout
    assert load(out / "best.yaml").purify.keep_ratio in (0.7, 0.9)


def _members_done(out: Path) -> int:
    return _status(out).workers().get("member", {}).get("done", 0) if (out / "events.jsonl").exists() else 0


def _status(out: Path) -> Status:
    return llb_ray.status(out)
