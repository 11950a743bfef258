"""Signs of life: what a worker writes about its progress as it works, and what anybody can read of it.

Torch is not imported here: `llb-ray status` and every terminal read these files.
"""

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

from llb_ray.disk import write_json

if TYPE_CHECKING:
    from llb_ray.detectors.base import Report
    from llb_ray.engine.execution.protocols import WorkerContext

_BEAT_INTERVAL_S = 0.5
_NO_FIGURES: Mapping[str, float] = MappingProxyType({})

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
    """Writes a worker's progress where any process can read it, every `interval_s` seconds at most."""

    def __init__(self, context: "WorkerContext", name: str, interval_s: float | None = None) -> None:
        self._path = _path(context, name)
        self._name = name
        self._interval_s = _BEAT_INTERVAL_S if interval_s is None else interval_s

    def wait(self) -> None:
        """The executor's word that the worker has no place yet."""
        now_s = time.time()
        self._write(Beat(self._name, "", 0, 0, "", os.getpid(), now_s, now_s, "waiting"))

    def report(self, step: str) -> "Report":
        """A `Report` to be called as often as one likes; it is known now that the step began.

        A step that another process left unfinished is begun once more: that is how a death is seen from outside.
        """
        before, now_s = _read_beat(self._path), time.time()
        starts = before.starts + 1 if before and (before.step, before.state) == (step, "working") else 1
        begun = Beat(self._name, step, 0, 0, "", os.getpid(), now_s, now_s, starts=starts)
        self._write(begun)
        last_s, first = 0.0, 0

        def beat(done: int, total: int, unit: str, figures: Mapping[str, float] = _NO_FIGURES) -> None:
            nonlocal last_s, first
            first, now_s = first or done, time.time()
            if done in (0, total) or now_s - last_s >= self._interval_s:
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


def read_beat(context: "WorkerContext", name: str) -> Beat | None:
    """The last beat of one worker; None before its first."""
    return _read_beat(_path(context, name))


def _path(context: "WorkerContext", name: str) -> Path:
    return context.progress / f"{name}.json"


def _read_beat(path: Path) -> Beat | None:
    # A new run clears the folder while a terminal still watches; a stranger's file is none of ours.
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError, RecursionError):
        beat = Beat(**json.loads(path.read_text()))
        if _is_plain(beat):
            return beat
    return None


def _is_plain(beat: Beat) -> bool:
    """True if every field is of its kind: a damaged file may hold anything."""
    texts, counts = (beat.name, beat.step, beat.unit), (beat.done, beat.total, beat.pid, beat.starts, beat.first)
    times, figures = (beat.time_s, beat.since_s), beat.figures
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(count, int) for count in counts)
        and all(isinstance(time_s, int | float) for time_s in times)
        and isinstance(figures, dict)
        and all(isinstance(figure, int | float) for figure in figures.values())
        and beat.state in get_args(State)
    )
