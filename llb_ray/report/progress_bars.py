"""Progress of a command, as it goes: bars on a terminal, a line now and then in a log.

A stage has its images (or steps) a second and the time that is left, and so has the whole run.  Before a stage's own
speed is known, both are those that were expected, with a ~ before them.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from llb_ray.engine.execution.heartbeat import read_beats
from llb_ray.engine.inspection.run_progress import Pace, Progress, RunProgress, read_progress, together
from llb_ray.engine.rundir.stage_timer import duration

if TYPE_CHECKING:  # it imports torch
    from llb_ray.planning.outlook import Outlook

_FIRST_S, _PACE_S = 2.0, 30.0  # of a stage that lasts: its first line in a log, and the time between lines
_LOOK_S = 0.5
Count = Callable[[int, int], None]  # receives (done, total)


@dataclass(frozen=True)
class Line:
    """Progress of one thing."""

    progress: Progress
    speed: float | None = None  # units per second
    left_s: float | None = None
    guessed: bool = False  # speed and time left are expected, and not measured

    @property
    def count(self) -> str:
        if self.progress.total:
            return f"{self.progress.done}/{self.progress.total}" if self.progress.unit else ""
        return f"for {_whole(_elapsed_s(self.progress))}"  # nothing is counted yet

    @property
    def rate(self) -> str:
        if self.speed:
            return f"{self._about}{self.speed:.3g} {self.progress.unit}/s"
        return self.progress.unit if self.progress.total else ""

    @property
    def left(self) -> str:
        return "" if self.left_s is None else f"{self._about}{_whole(self.left_s)} left"

    @property
    def _about(self) -> str:
        return "~" if self.guessed else ""

    def sentence(self) -> str:
        """For a log."""
        return f"{self.progress.name}: {', '.join(part for part in (self.count, self.rate, self.left) if part)}"


class Watch:
    """The visible progress of a command: the lines that it reports, what it counts itself, and a run's files."""

    def __init__(self, console: Console, folder: Path | None) -> None:
        self._console = console
        self._folder = folder  # of heartbeats
        self._since_s = time.time()  # what a run did before is over
        self._counted: Progress | None = None
        self._outlook: Outlook | None = None
        self._paces: dict[str, Pace] = {}

    def tell(self, line: str) -> None:
        """Print a line as it is."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=not self._console.is_terminal)

    def expect(self, outlook: "Outlook") -> None:
        """Set the forecast of the run that comes next."""
        self._outlook = outlook

    def counting(self, name: str, unit: str = "images") -> Count:
        """A function that receives (done, total) of what this process does by itself."""
        since_s: float | None = None

        def count(done: int, total: int) -> None:
            nonlocal since_s
            since_s = time.time() if since_s is None else since_s
            self._counted = Progress(name, since_s, done, total, unit) if done < total else None

        return count

    def lines(self) -> list[Line]:
        """A line for each thing in progress, and one for the whole run where there is a forecast."""
        counted, run = self._counted, None if self._folder is None else read_progress(self._folder, self._since_s)
        if counted is not None:
            run = RunProgress(run.times if run else [], counted)
        if run is None:
            return [self._line(one) for one in self._without_stages()] or [self._preparing()]
        if run.at_work is None:  # between two stages
            return [*self._of_run(run, Line(Progress("", time.time(), 0, 0, "")))]
        line = self._line(run.at_work)
        return [line, *self._of_run(run, line)]

    def _preparing(self) -> Line:
        """Libraries are imported, a cluster is started: no stage has begun."""
        left_s = None if self._outlook is None else self._outlook.left_s([], "", 0.0, 0.0, None)
        return Line(Progress("preparing", self._since_s, 0, 0, ""), None, left_s, guessed=True)

    def _without_stages(self) -> Iterator[Progress]:
        """Work of no single run: the jobs of a scan, the trials of a search."""
        beats = [] if self._folder is None else [b for b in read_beats(self._folder) if b.state == "working"]
        for kind in dict.fromkeys(beat.kind for beat in beats):
            some = [beat for beat in beats if beat.kind == kind]
            yield together(kind, min(beat.since_s for beat in some), some)

    def _line(self, progress: Progress) -> Line:
        speed = self._paces.setdefault(progress.name, Pace()).per_second(progress)
        if speed is not None:
            is_open = progress.done < progress.total
            return Line(progress, speed, (progress.total - progress.done) / speed if is_open else None)
        expected = None if self._outlook is None else self._outlook.of(progress.name)
        if expected is None:
            return Line(progress)
        left_s = max(0.0, expected.seconds - _elapsed_s(progress))
        if not expected.num_images:
            return Line(progress, None, left_s, guessed=True)
        total = progress.total or expected.num_images
        begun = Progress(progress.name, progress.since_s, progress.done, total, "images")
        return Line(begun, expected.num_images / max(expected.seconds, 1e-3), left_s, guessed=True)

    def _of_run(self, run: RunProgress, line: Line) -> Iterator[Line]:
        if self._outlook is None:
            return
        elapsed_s, stage_left_s = _elapsed_s(line.progress), None if line.guessed else line.left_s
        left_s = self._outlook.left_s(run.times, line.progress.name, elapsed_s, line.progress.share, stage_left_s)
        if left_s is not None:
            spent_s = sum(time.seconds for time in run.times) + elapsed_s
            share = Progress("whole run", 0, round(1000 * spent_s), round(1000 * (spent_s + left_s)), "")
            yield Line(share, None, left_s, guessed=True)


@contextlib.contextmanager
def watching(console: Console, folder: Path | None = None) -> Iterator[Watch]:
    """Gives a `Watch`; meanwhile bars, or lines in a log, follow it and the heartbeats in `folder`."""
    watch = Watch(console, folder)
    if console.is_terminal:
        with Live(get_renderable=lambda: bars(watch.lines()), console=console, refresh_per_second=4, transient=True):
            yield watch
        return
    ended = threading.Event()
    thread = threading.Thread(target=_speak, args=(watch, ended), daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()


def bars(lines: list[Line]) -> RenderableType:
    """A bar with its figures for each line, as wide as the terminal."""
    if not lines:
        return Group()
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for column in range(5):
        table.add_column(no_wrap=True, ratio=1 if column == 1 else None, justify="left" if column < 2 else "right")
    for line in lines:
        bar = ProgressBar(total=1.0, completed=line.progress.share)
        table.add_row(line.progress.name, bar, line.count, line.rate, line.left)
    return table


def _speak(watch: Watch, ended: threading.Event) -> None:
    """Tell how far it is, `_FIRST_S` after the start of a stage that lasts so long, and every `_PACE_S` then."""
    last_s, told = time.monotonic(), ""
    while not ended.wait(_LOOK_S):
        lines = watch.lines()
        if not lines:
            continue
        now = lines[0].progress
        is_first = now.name != told and bool(now.unit and now.total) and _elapsed_s(now) >= _FIRST_S
        if is_first or time.monotonic() - last_s >= _PACE_S:
            last_s, told = time.monotonic(), now.name
            watch.tell("; ".join(line.sentence() for line in lines))


def _whole(seconds: float) -> str:
    """`seconds`, human-readable, none of them in parts: ``9 s``, ``3 min 20 s``."""
    return f"{round(seconds)} s" if seconds < 59.5 else duration(seconds)


def _elapsed_s(progress: Progress) -> float:
    return max(0.0, time.time() - progress.since_s)
