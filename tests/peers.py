"""Peers that are threads of this process: what `torch.distributed` is to workers, for tests that need no Ray."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

from llb_ray.detectors.peers import Peers

T = TypeVar("T")
PATIENCE_S = 60.0


class Meeting:
    """Where threads exchange one value each."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._barrier = threading.Barrier(count, timeout=PATIENCE_S)
        self._values: list[object] = [None] * count

    def exchanged(self, rank: int, value: T) -> list[T]:
        self._values[rank] = value
        self._barrier.wait()
        values = list(self._values)
        self._barrier.wait()
        return values  # type: ignore[return-value]


@dataclass(frozen=True)
class ThreadPeers:
    """One thread's view (the `Peers` protocol)."""

    meeting: Meeting
    rank: int

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, size: int) -> slice:
        start, stop = (size * edge // self.meeting.count for edge in (self.rank, self.rank + 1))
        return slice(start, stop)

    def whole(self, mine: torch.Tensor, size: int) -> torch.Tensor:
        return torch.cat(self.meeting.exchanged(self.rank, mine.detach()))

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        everyones = self.meeting.exchanged(self.rank, [tensor.clone() for tensor in tensors])
        for index, tensor in enumerate(tensors):
            tensor.copy_(torch.stack([one[index] for one in everyones]).sum(dim=0))

    def told(self, content: bytes) -> bytes:
        return self.meeting.exchanged(self.rank, content)[0]


def together(count: int, work: Callable[[Peers], T]) -> list[T]:
    """What `work` returns for each of `count` peers at work at once."""
    meeting = Meeting(count)
    # OpenMP counts threads for each of its callers: without this each peer would take all cores.
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(work, [ThreadPeers(meeting, rank) for rank in range(count)]))
