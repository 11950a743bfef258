"""What an executor runs: plain objects with named steps, told where to work and what they own.

A worker's steps are idempotent: each one's result is an artifact, and a step whose artifact exists returns at
once.  So an executor may kill, move or repeat a worker at any time and nothing changes in the result.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch

from llb_ray.artifacts import Store
from llb_ray.config import ResourcesConfig
from llb_ray.detectors.base import NO_FIGURES, Report
from llb_ray.detectors.peers import ALONE, Peers
from llb_ray.disk import write_json
from llb_ray.errors import ResourceError

_BEAT_INTERVAL_S = 0.5


@dataclass(frozen=True)
class Place:
    """Where a worker finds and leaves things, and what it owns while it works."""

    store: Store
    progress: Path  # on its own machine
    resources: ResourcesConfig
    category: str = ""  # for people who watch: in actors' names and metrics' tags

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return self.progress.parent


class Worker(Protocol):
    """Made from a picklable spec; construction must not fail and must not work (Ray would lose the error's type)."""

    STEPS: ClassVar[tuple[str, ...]]  # methods without arguments, called in this order

    def __init__(self, spec: Any) -> None: ...


class PeerWorker(Protocol):
    """A worker that can also be one of several that go through the same steps together."""

    STEPS: ClassVar[tuple[str, ...]]

    def __init__(self, spec: Any, peers: Peers = ALONE) -> None: ...


class Spec(Protocol):
    """What a worker is made from: picklable, named, and placed."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str:
        """The name, and what it stands for, as an error's first words."""

    @property
    def place(self) -> Place: ...


State = Literal["waiting", "working", "done", "failed"]


@dataclass(frozen=True)
class Beat:
    """The last sign of life of a worker; `time_s` and `since_s` in seconds since the epoch."""

    name: str
    step: str
    done: int
    total: int
    unit: str
    pid: int
    time_s: float
    since_s: float = 0.0  # when the step began
    state: State = "working"
    starts: int = 1  # processes that began the step: one more than died in it
    first: int = 0  # the first `done` of this process; 0 before it
    figures: dict[str, float] = field(default_factory=dict)  # what a fit shows of itself: loss, effective_sample_size

    @property
    def kind(self) -> str:
        """The name without its number: ``member`` of ``member-003``."""
        return self.name.rstrip("0123456789").rstrip("-")

    @property
    def per_second(self) -> float:
        """Units of the step per second since it began; 0 before the first."""
        return self.done / (self.time_s - self.since_s) if self.time_s > self.since_s else 0.0


class Heartbeat:
    """Writes a worker's progress where any process can read it, at most twice a second."""

    def __init__(self, place: Place, name: str) -> None:
        self._path = _path(place, name)
        self._name = name

    def wait(self) -> None:
        """The executor's word that the worker has no place yet."""
        now_s = time.time()
        self._write(Beat(self._name, "", 0, 0, "", os.getpid(), now_s, now_s, "waiting"))

    def report(self, step: str) -> Report:
        """A `Report` to be called as often as one likes; it is known now that the step began.

        A step that another process left unfinished is begun once more: that is how a death is seen from outside.
        """
        before, now_s = _read_beat(self._path), time.time()
        starts = before.starts + 1 if before and (before.step, before.state) == (step, "working") else 1
        begun = Beat(self._name, step, 0, 0, "", os.getpid(), now_s, now_s, starts=starts)
        self._write(begun)
        last_s, first = 0.0, 0

        def beat(done: int, total: int, unit: str, figures: Mapping[str, float] = NO_FIGURES) -> None:
            nonlocal last_s, first
            first, now_s = first or done, time.time()
            if done in (0, total) or now_s - last_s >= _BEAT_INTERVAL_S:
                last_s = now_s
                now = replace(begun, done=done, total=total, unit=unit, time_s=now_s, first=first)
                self._write(replace(now, figures=dict(figures)))

        return beat

    def finish(self, state: State = "done") -> None:
        """The executor's word that the worker is through all its steps, or has failed; the last figures stay."""
        beat = _read_beat(self._path)
        if beat is not None:
            self._write(replace(beat, state=state))

    def _write(self, beat: Beat) -> None:
        write_json(self._path, asdict(beat))


def read_beats(progress: Path) -> list[Beat]:
    """The last beat of every worker of a run, by name."""
    beats = map(_read_beat, sorted(progress.glob("[!.]*.json")))
    return [beat for beat in beats if beat is not None]


def read_beat(place: Place, name: str) -> Beat | None:
    """The last beat of one worker; None before its first."""
    return _read_beat(_path(place, name))


def _path(place: Place, name: str) -> Path:
    return place.progress / f"{name}.json"


def _read_beat(path: Path) -> Beat | None:
    # A new run clears the folder while a terminal still watches; a stranger's file is none of ours.
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        return Beat(**json.loads(path.read_text()))
    return None


def device_for(resources: ResourcesConfig) -> torch.device:
    """The device a worker computes on; Ray has narrowed CUDA to the GPU it assigned to a worker that asked for one.

    Raises ResourceError when a GPU is asked for and torch finds none: falling back to the CPU would hide it.
    """
    wants_cuda = resources.device == "cuda" or (resources.device == "auto" and resources.num_gpus > 0)
    if wants_cuda and not torch.cuda.is_available():
        raise ResourceError(
            f"resources.num_gpus={resources.num_gpus:g}, resources.device={resources.device} ask for a GPU and torch "
            "finds none here; set resources.num_gpus=0, or resources.device=cpu where the GPUs are only logical"
        )
    return torch.device("cuda" if wants_cuda else "cpu")


@contextlib.contextmanager
def owned_threads(resources: ResourcesConfig) -> Iterator[None]:
    """Inside, torch uses as many threads as the worker owns cores.

    The sums of a parallel reduction depend on the number of threads: this is also what makes the serial executor
    and the Ray executor agree to the last bit.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(resources.num_cpus)
    try:
        yield
    finally:
        torch.set_num_threads(before)
