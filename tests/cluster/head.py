"""A Ray head of our own: its processes, ports, temporary folder, home and token are no other Ray's."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
_PORTS = ("port", "dashboard", "agent", "agent_grpc", "metrics", "client", "autoscaler", "dashboard_metrics")
_START_S = 120
_HEAD_ID = "f" * 51 + "0" * 5
_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
_FAKE_NODES = {
    "RAY_FAKE_CLUSTER": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": _HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID,
}
_STOP_S = 30


@dataclass(frozen=True)
class Head:
    """How to reach the head; commands run with the environment of someone who follows the README."""

    ports: dict[str, int]
    environment: dict[str, str]
    token: str

    def command(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """What `words` did and printed, stderr included."""
        words = (BIN / words[0], *words[1:])
        return subprocess.run(
            words, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240
        )

    def dashboard(self, path: str, token: str | None = None) -> Any:
        """The dashboard's answer, read as JSON."""
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports['dashboard']}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def kill(self) -> None:
        """The machine is gone at once, and with it everything that runs on it: Ray's processes, drivers and workers."""
        while left := _processes(self.environment["HOME"]):
            _kill(left)

    def metrics(self) -> str:
        """What Prometheus would scrape."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['metrics']}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
            return text


@contextlib.contextmanager
def running_head(grows_by: Mapping[str, Any] | None = None) -> Iterator[Head]:
    """A head that takes jobs; at the end it and all that it started are gone.

    With `grows_by`, node types of Ray's fake autoscaler by their names, it has no place itself, and processes of this
    machine stand for the nodes that are added.
    """
    # Not pytest's folder: the paths of Ray's sockets must stay under 107 bytes.
    with tempfile.TemporaryDirectory(prefix="llb-", ignore_cleanup_errors=True) as folder:
        ports = _free_ports()
        environment = _environment(Path(folder), ports) | ({} if grows_by is None else _FAKE_NODES)
        generated = subprocess.run([BIN / "ray", "get-auth-token", "--generate"], env=environment, capture_output=True)
        head = Head(ports, environment, generated.stdout.decode().strip().splitlines()[-1])
        process = subprocess.Popen(
            _start(Path(folder), ports, grows_by), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait_for_agent(head, process)
            yield head
        finally:
            process.terminate()  # with --block, the command takes everything that it started with it
            process.wait(_STOP_S)
            _end(environment["HOME"], outlived=grows_by is not None)


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _free_ports() -> dict[str, int]:
    sockets = [socket.socket() for _ in _PORTS]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return {name: one.getsockname()[1] for name, one in zip(_PORTS, sockets, strict=True)}
    finally:
        for one in sockets:
            one.close()


def _environment(folder: Path, ports: dict[str, int]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    (folder / "home").mkdir()
    return inherited | {
        "HOME": str(folder / "home"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{ports['dashboard']}",
        "AUTOSCALER_METRIC_PORT": str(ports["autoscaler"]),
        "DASHBOARD_METRIC_PORT": str(ports["dashboard_metrics"]),
    }


def _start(folder: Path, ports: dict[str, int], grows_by: Mapping[str, Any] | None) -> list[str | Path]:
    cores: list[str | Path] = ["--num-cpus=2"]
    if grows_by is not None:
        (folder / "autoscaling.json").write_text(json.dumps(_autoscaling(grows_by, ports["port"])))
        cores = ["--num-cpus=0", f"--autoscaling-config={folder / 'autoscaling.json'}"]
    return [
        *(BIN / "ray", "start", "--head", "--block", "--disable-usage-stats", f"--temp-dir={folder}/ray"),
        *cores,
        *("--num-gpus=0", "--object-store-memory=150000000"),
        *(f"--port={ports['port']}", "--dashboard-host=127.0.0.1", f"--dashboard-port={ports['dashboard']}"),
        *(f"--dashboard-agent-listen-port={ports['agent']}", f"--dashboard-agent-grpc-port={ports['agent_grpc']}"),
        *(f"--metrics-export-port={ports['metrics']}", f"--ray-client-server-port={ports['client']}"),
        *("--min-worker-port=0", "--max-worker-port=0"),  # any that is free
    ]


def _autoscaling(grows_by: Mapping[str, Any], port: int) -> dict[str, Any]:
    """A cluster launcher's configuration, as Ray's own tests have it; it asks for what a fake cluster never reads."""
    lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    lists += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    address = f"{ray.util.get_node_ip_address()}:{port}"
    # As `external`, because the file of defaults of type `fake_multinode` is not in Ray's wheel.
    provider = {"type": "external", "module": _PROVIDER, "head_node_id": _HEAD_ID, "gcs_address": address}
    provider |= {"launch_multiple": True}
    return {name: [] for name in lists} | {
        "cluster_name": "fake",
        "max_workers": 8,
        "provider": provider,
        "available_node_types": {"ray.head.default": head, **grows_by},
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "auth": {"ssh_user": "nobody"},
        "docker": {},
        "file_mounts": {},
        "rsync_exclude": [],
        "rsync_filter": [],
    }


def _wait_for_agent(head: Head, process: subprocess.Popen[bytes]) -> None:
    """A job needs the node's agent, which comes up after the dashboard."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "ray start ended at once"
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{head.ports['agent']}/api/healthz", timeout=5).close()
            head.dashboard("/api/jobs/")
            return
        time.sleep(0.5)
    raise TimeoutError("the head's agent did not come up")


def _end(home: str, outlived: bool) -> None:
    """Wait for the last processes of ours, known by their home, and kill those that stay, as added nodes do."""
    deadline = time.monotonic() + _STOP_S
    while (left := _processes(home)) and not outlived and time.monotonic() < deadline:
        time.sleep(0.2)
    _kill(left)
    assert outlived or not left, f"{len(left)} processes outlived the head"


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _processes(home: str) -> list[int]:
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if f"HOME={home}" in _text(path)]


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""
