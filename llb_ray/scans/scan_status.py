"""Status of a scan, read from its folder: whether or not its process lives, and without Ray."""

from dataclasses import dataclass
from pathlib import Path

from llb_ray.engine.execution.heartbeat import Beat, read_beats
from llb_ray.engine.inspection.run_status import STALE_S, Status, read_status
from llb_ray.errors import ArtifactError
from llb_ray.scans.job_results import failures, read_results
from llb_ray.scans.scan_plan import CONFIG


@dataclass(frozen=True)
class ScanStatus:
    """A scan as its folder shows it."""

    path: Path
    jobs: Beat | None  # of the driver: jobs done of all jobs; None before the first is begun
    num_failed: int
    at_work: dict[str, Status]  # the run of each job that shows signs of life, by the job's name


def is_scan(path: Path) -> bool:
    """True if the folder is that of a scan and not of a run."""
    return (path / CONFIG).is_file()


def read_scan_status(path: Path) -> ScanStatus:
    """Status of the scan in `path`."""
    beat = next((beat for beat in read_beats(path / "progress") if beat.name == "jobs"), None)
    at_work = {folder.name: status for folder in sorted((path / "jobs").glob("*")) if (status := _at_work(folder))}
    return ScanStatus(path, beat, failures(read_results(path)).num_rows, at_work)


def _at_work(folder: Path) -> Status | None:
    try:
        status = read_status(folder)
    except ArtifactError:  # not begun
        return None
    return status if status.state == "running" and status.silence_s < STALE_S else None
