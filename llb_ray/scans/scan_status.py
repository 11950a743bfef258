"""Status of a scan, read from its folder: whether or not its process lives, and without Ray."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llb_ray.engine.execution.heartbeat import Beat, read_beats
from llb_ray.engine.inspection.run_status import STALE_S, Status, read_status
from llb_ray.errors import ArtifactError
from llb_ray.scans.job_results import failures, read_results
from llb_ray.scans.scan_plan import CONFIG, PROGRESS, RUNNING

FAILED, UP_TO_DATE = "failed", "up_to_date"  # figures of the driver's heartbeat: jobs of this call, and before it


@dataclass(frozen=True)
class ScanStatus:
    """A scan as its folder shows it; times in seconds since the epoch."""

    path: Path
    jobs: Beat | None  # of the driver: jobs ended of all jobs; None before the first is begun
    num_failed: int  # jobs of the last call; before it, of the table
    at_work: dict[str, Status | None]  # the run of each running job, by its name; None before the run begins
    now_s: float

    def counts(self) -> dict[str, int]:
        """Numbers of jobs that are done, running, failed and waiting."""
        done, total = (self.jobs.done, self.jobs.total) if self.jobs else (0, 0)
        waiting = max(0, total - done - len(self.at_work))
        return {
            "done": max(0, done - self.num_failed),
            "running": len(self.at_work),
            "failed": self.num_failed,
            "waiting": waiting,
        }

    @property
    def images_per_second(self) -> float:
        """Images that all running jobs encode, fit and score now, a second."""
        return sum(status.images_per_second() for status in self.at_work.values() if status is not None)

    @property
    def left_s(self) -> float | None:
        """Seconds until the last job ends; None before the first has ended, or where none is running."""
        if self.jobs is None:
            return None
        if self.jobs.done == self.jobs.total:
            return 0.0
        ended = self.jobs.done - round(self.jobs.figures.get(UP_TO_DATE, 0))
        counts, elapsed_s = self.counts(), self.now_s - self.jobs.since_s
        return time_left_s(ended, counts["running"], counts["waiting"], elapsed_s) if counts["running"] else None


def time_left_s(ended: int, running: int, waiting: int, elapsed_s: float) -> float | None:
    """Seconds until the last job ends, if jobs go on at the pace so far; None before the first has ended.

    A running job counts as half done, so that many at once do not make the first estimate many times too long.
    """
    return elapsed_s * (waiting + running / 2) / (ended + running / 2) if ended else None


def is_scan(path: Path) -> bool:
    """True if the folder is that of a scan and not of a run."""
    return (path / CONFIG).is_file()


def read_scan_status(path: Path) -> ScanStatus:
    """Status of the scan in `path`; of its jobs only those that are running are read."""
    beat = next((beat for beat in read_beats(path / PROGRESS) if beat.name == "jobs"), None)
    num_failed = failures(read_results(path)).num_rows if beat is None else round(beat.figures.get(FAILED, 0))
    now_s = time.time()
    return ScanStatus(path, beat, num_failed, dict(_at_work(path, now_s)), now_s)


def _at_work(path: Path, now_s: float) -> Iterator[tuple[str, Status | None]]:
    """The jobs that show signs of life: a job whose process died leaves its heartbeat behind."""
    for beat in read_beats(path / PROGRESS / RUNNING):
        status = _status(path / "jobs" / beat.name, beat.since_s)
        if now_s - max(beat.time_s, status.last_sign_s if status else 0.0) < STALE_S:
            yield beat.name, status


def _status(folder: Path, since_s: float) -> Status | None:
    """Status of a job's run; None where it was not begun since then."""
    try:
        status = read_status(folder)
    except ArtifactError:
        return None
    return status if status.started_s >= since_s else None
