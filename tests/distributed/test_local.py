"""A local Ray: nobody else can reach it, SIGTERM is a clean end of it, and it is tried twice before it is given up."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.exceptions import RaySystemError

from llb_ray.distributed import cluster
from llb_ray.distributed.local_ray import start_locally
from llb_ray.errors import ResourceError

_LISTENS, _PATIENCE_S = "0A", 120


def _children(pid: int) -> Iterator[int]:
    """The processes below one, itself included."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from _children(int(child))


def _listening(pids: set[int]) -> set[str]:
    """The addresses, in hexadecimal, at which these processes listen."""
    sockets = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(os.readlink(descriptor))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].partition(":")[0])
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux says who listens where")
def test_a_run_on_ray_listens_on_loopback_alone_and_ends_cleanly_by_sigterm(photos: Path, tmp_path: Path) -> None:
    settings = ["detector.name=autoencoder", "detector.image_size_px=32", "detector.member_steps=1000000"]
    options = [text for setting in [*settings, "members.count=2"] for text in ("--set", setting)]
    command = [sys.executable, "-m", "llb_ray", "run", "--data", str(photos), "--out", str(tmp_path / "run"), *options]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    environment.pop("LLB_RAY_AUTH")
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:
        give_up_s = time.monotonic() + _PATIENCE_S
        while not list((tmp_path / "run" / "checkpoints").glob("*")) and time.monotonic() < give_up_s:
            if any(b'"working"' in path.read_bytes() for path in (tmp_path / "run" / "progress").glob("member*.json")):
                break
            time.sleep(0.2)
        family = set(_children(run.pid))
        assert len(family) > 3
        assert _listening(family) <= {"0100007F", "0000000000000000FFFF00000100007F", "0" * 24 + "01000000"}
        modes = {Path(f"/proc/{pid}/environ").read_bytes().count(b"RAY_AUTH_MODE=token") for pid in family - {run.pid}}
        assert 1 in modes, "no process of the cluster asks for a token"
        run.send_signal(signal.SIGTERM)
        _, told = run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM, told
    assert "llb-ray: stopped by SIGTERM; rerun the same command to resume" in told
    assert "SIGTERM received at time" not in told
    assert "Traceback" not in told
    give_up_s = time.monotonic() + 30
    while any(map(_alive, family)) and time.monotonic() < give_up_s:
        time.sleep(0.2)
    assert not [pid for pid in family if _alive(pid)]


@pytest.fixture
def no_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray stays up: a start that fails here must not end the Ray that the whole test session shares."""
    monkeypatch.setattr(ray, "shutdown", lambda: None)


@pytest.mark.usefixtures("no_shutdown")
@pytest.mark.parametrize("kind", [RaySystemError, Exception, TimeoutError, ConnectionError])  # as Ray has them
@pytest.mark.parametrize("failures", [1, 2])
def test_a_ray_that_does_not_come_up_is_tried_once_more(failures: int, kind: type[Exception]) -> None:
    tried: list[str] = []

    def init(**options: object) -> None:
        tried.append(str(options["address"]))
        if len(tried) <= failures:
            raise kind("The current node timed out during startup.\nmore")

    if failures == 1:
        start_locally(init)
    else:
        with pytest.raises(ResourceError, match="Ray did not start on this machine, tried 2 times") as refusal:
            start_locally(init)
        assert "\n" not in str(refusal.value)
    assert tried == ["local", "local"]


@pytest.mark.usefixtures("no_shutdown")
@pytest.mark.parametrize("kind", [Exception, RuntimeError, TimeoutError])
def test_a_cluster_that_cannot_be_joined_is_one_sentence(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**options: object) -> None:
        raise kind("The current node timed out during startup.\nmore")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with (
        pytest.raises(ResourceError, match=r"cannot join the cluster \(The current node timed out during") as refusal,
        cluster.connect("auto"),
    ):
        pass
    assert "\n" not in str(refusal.value)
