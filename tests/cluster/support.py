"""A simulated cluster of three nodes, and runs small enough to kill things in."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import ray
from ray.cluster_utils import Cluster

from tests.cluster import journal

_LIMIT_S = 150


def in_small_shards() -> contextlib.AbstractContextManager[Any]:
    """Inside, images are planned in shards of 8: a run of 72 images has something to be caught in the middle of."""
    return mock.patch("llb_ray.engine.features.encoded_images.shard_images", return_value=8)


class Nodes:
    """A head for the driver and nothing else, and two nodes of `num_gpus` logical GPUs each.

    Not simulated: a network between them, and disks of their own.  They are processes of one machine, which share its
    file system and its clock, as nodes with shared storage do.
    """

    def __init__(self, num_gpus: int = 2) -> None:
        # By default Ray takes a quarter of a minute to miss a node, and the runs here end sooner.
        soon = {"health_check_period_ms": 500, "health_check_failure_threshold": 2}
        head = {"num_cpus": 0, "num_gpus": 0, "include_dashboard": False, "object_store_memory": 150 * 2**20}
        head |= {"_system_config": soon}
        self.cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
        self._count, self._num_gpus = 0, num_gpus
        self.workers: dict[str, Any] = {}  # by the value of their label `name`
        self.restore()

    @property
    def address(self) -> str:
        address: str = self.cluster.address
        return address

    def _add(self) -> None:
        self._count += 1
        name = f"node-{self._count}"
        given = {"num_cpus": 2, "num_gpus": self._num_gpus, "labels": {"name": name}}
        self.workers[name] = self.cluster.add_node(include_dashboard=False, **given)

    def kill_node_of(self, pid: int) -> None:
        """The node that this worker process runs on is gone, as when its plug is pulled."""
        self.cluster.remove_node(self.workers.pop(self._name_of(pid)), allow_graceful=False)

    def drain_node_of(self, pid: int) -> None:
        """The node that this worker process runs on will be taken away in a minute, as a cloud announces it."""
        ray, node = Path(sys.executable).with_name("ray"), self.workers[self._name_of(pid)].node_id
        command = [ray, "drain-node", "--address", self.address, "--node-id", node, "--reason-message", "spot"]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--deadline-remaining-seconds", "60"]
        subprocess.run(command, check=True, capture_output=True)

    def _name_of(self, pid: int) -> str:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return next(name for name, node in self.workers.items() if _raylet(node) == parent)

    def restore(self) -> None:
        """Two nodes again."""
        while len(self.workers) < 2:
            self._add()

    @contextlib.contextmanager
    def driving(self, folder: Path, slow_s: float) -> Iterator[None]:
        """Inside, this process is a driver whose workers keep a journal in `folder`."""
        folder.mkdir(exist_ok=True)
        environment = journal.runtime_env(folder, slow_s)
        ray.init(address=self.address, runtime_env=environment, log_to_driver=False, logging_level="error")
        try:
            yield
        finally:
            ray.shutdown()


def _raylet(node: Any) -> int:
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid


def when(
    folder: Path, caught: Callable[[journal.Line], bool], strike: Callable[[journal.Line], None]
) -> threading.Thread:
    """A started thread that strikes once, at the first worker that the journal shows in the right place."""

    def wait() -> None:
        give_up_s = time.monotonic() + _LIMIT_S
        while time.monotonic() < give_up_s:
            last = {line.name: line for line in journal.read(folder)}
            for line in last.values():
                if caught(line):
                    strike(line)
                    return
            time.sleep(0.02)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread
