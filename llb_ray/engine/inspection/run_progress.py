"""Progress of the running stage, from the event log and the heartbeats: the same for every executor."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llb_ray.engine.execution.heartbeat import Beat, read_beats
from llb_ray.engine.inspection.run_status import stage_time
from llb_ray.engine.rundir.event_log import parse_events
from llb_ray.engine.rundir.output_guard import EVENTS
from llb_ray.engine.rundir.stage_timer import StageTime

_FEW_S = 20.0  # the speed is that of so many seconds
_ROUNDING_S = 0.001  # of times in the log
_LEAST_S = 0.5  # a speed that is measured for less says nothing


@dataclass(frozen=True)
class Progress:
    """Progress of something; times in seconds since the epoch."""

    name: str  # the stage's, or what is counted
    since_s: float
    done: int
    total: int  # 0 while it is not known
    unit: str

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0


@dataclass(frozen=True)
class RunProgress:
    """The stages that a run is through with, and the running one, if there is one."""

    times: list[StageTime] = field(default_factory=list)
    at_work: Progress | None = None


def read_progress(folder: Path, since_s: float) -> RunProgress | None:
    """Progress of the run whose heartbeats are in `folder`; None where none has been started since `since_s`."""
    path = folder.parent / EVENTS
    events = list(parse_events(path.read_text(errors="replace"))) if path.is_file() else []
    begun = (event["event"] == "run started" and event["time_s"] >= since_s - _ROUNDING_S for event in events)
    starts = [number for number, is_start in enumerate(begun) if is_start]
    of_stages = [event for event in events[starts[-1] :] if event["event"].startswith("stage ")] if starts else []
    if not of_stages:
        return None
    times = [stage_time(event) for event in of_stages if event["event"] == "stage finished"]
    last = of_stages[-1]
    if last["event"] == "stage finished":
        return RunProgress(times)
    beats = [beat for beat in read_beats(folder) if beat.time_s >= last["time_s"] - _ROUNDING_S]
    return RunProgress(times, together(last["stage"], last["time_s"], beats))


def together(name: str, since_s: float, beats: Sequence[Beat]) -> Progress:
    """All these workers as one; those that have not begun will have as much to do as the others."""
    begun = [beat for beat in beats if beat.total]
    if not begun:
        return Progress(name, since_s, 0, 0, "images")
    total = round(sum(beat.total for beat in begun) / len(begun) * len(beats))
    unit = begun[0].unit
    return Progress(name, since_s, sum(beat.done for beat in begun), total, unit if unit.endswith("s") else f"{unit}s")


class Pace:
    """The speed of something that is looked at again and again."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, Progress]] = []

    def per_second(self, now: Progress, time_s: float | None = None) -> float | None:
        """Units per second of late; None before the first ones are done."""
        time_s = time.time() if time_s is None else time_s
        if self._seen and not _continues(self._seen[-1][1], now):
            self._seen = []
        self._seen = [*(one for one in self._seen if time_s - one[0] <= _FEW_S), (time_s, now)]
        # What is done at once at the start may be up to date, so the first look counts from there.
        first_s, first = next((one for one in self._seen if one[1].done), self._seen[0])
        if now.done > first.done and time_s - first_s >= _LEAST_S:
            return (now.done - first.done) / (time_s - first_s)
        return now.done / (time_s - now.since_s) if now.done and time_s > now.since_s else None


def _continues(before: Progress, now: Progress) -> bool:
    return (before.name, before.since_s, before.unit) == (now.name, now.since_s, now.unit) and before.done <= now.done
