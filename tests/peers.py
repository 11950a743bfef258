"""Peers that are threads of this process: what `torch.distributed` is to workers, for tests that need no Ray."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

from llb_ray.config import ResourcesConfig, WorkerRange
from llb_ray.detectors.data_parallel import ProcessGroup
from llb_ray.engine.execution.executor import SerialExecutor, Tell
from llb_ray.engine.execution.protocols import PeerWorker, Spec

T = TypeVar("T")
PATIENCE_S = 60.0


class Meeting:
    """Where threads exchange one value each."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._barrier = threading.Barrier(count, timeout=PATIENCE_S)
        self._values: list[object] = [None] * count

    def end(self) -> None:
        """Nobody need come any more; whoever waits gets a BrokenBarrierError."""
        self._barrier.abort()

    def exchanged(self, rank: int, value: T) -> list[T]:
        self._values[rank] = value
        self._barrier.wait()
        values = list(self._values)
        self._barrier.wait()
        return values  # type: ignore[return-value]


@dataclass(frozen=True)
class ThreadPeers:
    """One thread's view (the `ProcessGroup` protocol)."""

    meeting: Meeting
    rank: int

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, size: int) -> slice:
        start, stop = (size * edge // self.meeting.count for edge in (self.rank, self.rank + 1))
        return slice(start, stop)

    def all_gather(self, mine: torch.Tensor, size: int) -> torch.Tensor:
        return torch.cat(self.meeting.exchanged(self.rank, mine.detach()))

    def all_reduce(self, tensors: Sequence[torch.Tensor]) -> None:
        everyones = self.meeting.exchanged(self.rank, [tensor.clone() for tensor in tensors])
        for index, tensor in enumerate(tensors):
            tensor.copy_(torch.stack([one[index] for one in everyones]).sum(dim=0))

    def broadcast(self, content: bytes) -> bytes:
        return self.meeting.exchanged(self.rank, content)[0]


def together(count: int, work: Callable[[ProcessGroup], T]) -> list[T]:
    """What `work` returns for each of `count` peers at work at once."""
    meeting = Meeting(count)

    def to_the_end(rank: int) -> T:
        try:
            return work(ThreadPeers(meeting, rank))
        except BaseException:
            meeting.end()
            raise

    # OpenMP counts threads for each of its callers: told nothing, each peer would take all cores.
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    with pool:
        return list(pool.map(to_the_end, range(count)))


class ThreadExecutor(SerialExecutor):
    """The serial executor, but that it has room for four."""

    def slots(self, resources: ResourcesConfig) -> int:
        return 4

    def run_together(self, worker: type[PeerWorker], spec: Spec, count: WorkerRange, tell: Tell) -> None:
        def work(peers: ProcessGroup) -> None:
            working = worker(spec, peers)
            for step in worker.STEPS:
                getattr(working, step)()

        together(min(count.most, self.slots(spec.context.resources)), work)
