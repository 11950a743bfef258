"""Plain workers for the executor contract; in a module of their own so that Ray can import them by name."""

import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import ray

from llb_ray.artifacts import Store
from llb_ray.config import ResourcesConfig
from llb_ray.detectors.data_parallel import ALONE, ProcessGroup
from llb_ray.engine.execution.protocols import WorkerContext
from llb_ray.errors import MemberError


def place(folder: Path, **resources: Any) -> WorkerContext:
    return WorkerContext(Store(folder / "store"), folder / "progress", ResourcesConfig(**resources))


@dataclass(frozen=True)
class CountingSpec:
    name: str
    context: WorkerContext
    folder: Path
    fails: str = ""
    ballast: bytes = b""  # what a spec of a hundred thousand images weighs

    @property
    def title(self) -> str:
        return self.name


class Team:
    """Peers that meet once, the second of which fails in the way it is told before it gets there."""

    STEPS: ClassVar[tuple[str, ...]] = ("meet",)

    def __init__(self, spec: CountingSpec, peers: ProcessGroup = ALONE) -> None:
        self._spec = spec
        self._peers = peers

    def meet(self) -> None:
        if not self._peers.leads:
            fail(self._spec)
        said = self._peers.broadcast(b"the leader says so" if self._peers.leads else b"")
        share = self._peers.share(3)
        (self._spec.folder / f"{self._spec.name}-{share.start}-{share.stop}.txt").write_bytes(said)


def fail(spec: CountingSpec) -> None:
    if spec.fails == "llb":
        raise MemberError(f"{spec.name} has a poison image")
    if spec.fails == "bug":
        raise ZeroDivisionError("a bug")
    if spec.fails == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(spec.folder))
    died = spec.folder / "died"
    if spec.fails == "die" or (spec.fails == "die once" and not died.exists()):
        died.touch()
        time.sleep(1)  # until Ray has let go of what it no longer needs
        os.kill(os.getpid(), signal.SIGKILL)


class Placed:
    """Leaves a file with the node that it is on."""

    STEPS: ClassVar[tuple[str, ...]] = ("stand",)

    def __init__(self, spec: CountingSpec) -> None:
        self._spec = spec

    def stand(self) -> None:
        node_id = ray.get_runtime_context().get_node_id()
        (self._spec.folder / f"{self._spec.name}.node").write_text(node_id)


class Counting:
    """Leaves one file per step, or fails in the way it is told."""

    STEPS: ClassVar[tuple[str, ...]] = ("fit", "score")

    def __init__(self, spec: CountingSpec) -> None:
        self._spec = spec

    def fit(self) -> None:
        self._leave("fit")

    def score(self) -> None:
        fail(self._spec)
        self._leave("score")

    def _leave(self, step: str) -> None:
        path = self._spec.folder / f"{self._spec.name}-{step}.txt"
        path.write_text(str(os.getpid()))
