"""Output of `llb-ray status`: a running run in a few plain lines, a finished one as its closing table."""

from collections.abc import Iterator

from rich.console import Console

from llb_ray.engine.execution.heartbeat import Beat, State
from llb_ray.engine.inspection.run_status import STALE_S, Status
from llb_ray.engine.rundir.stage_timer import duration
from llb_ray.report.console import show_outcome
from llb_ray.scans.scan_status import ScanStatus

_SHOWN_WORKERS = 16


def show_status(console: Console, status: Status) -> None:
    """Print the progress of the run in plain lines."""
    for line in _lines(status):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if status.outcome is not None:
        show_outcome(console, status, status.outcome)


def show_scan_status(console: Console, scan: ScanStatus) -> None:
    """Print the progress of the scan and of each of its running jobs."""
    for line in _scan_lines(scan):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _scan_lines(scan: ScanStatus) -> Iterator[str]:
    if scan.jobs is None:
        yield f"no job was begun in this call{f', {scan.num_failed} failed' if scan.num_failed else ''}"
        return
    counts = ", ".join(f"{count} {state}" for state, count in scan.counts().items())
    rate = f", {scan.images_per_second:.1f} images/s" if scan.images_per_second else ""
    left = f", about {duration(scan.left_s)} left" if scan.left_s else ""
    yield f"{scan.jobs.total} jobs: {counts}{rate}{left}"
    for name, status in list(scan.at_work.items())[:_SHOWN_WORKERS]:
        stage = "reading images" if status is None else f"{status.stage or 'between stages'}, {_headline(status)}"
        yield f"  {name}: {stage}"
    if len(scan.at_work) > _SHOWN_WORKERS:
        yield f"  ... and {len(scan.at_work) - _SHOWN_WORKERS} more running"


def _lines(status: Status) -> Iterator[str]:
    yield _headline(status)
    if status.state == "finished":
        return
    for time in status.times:
        yield f"{time.stage}: {'up to date' if time.reused else f'{time.seconds:.1f} s'}"
    if status.stage:
        yield f"{status.stage}: {'running' if status.state == 'running' else 'not finished'}"
    for kind, states in status.workers().items():
        shown: tuple[State, ...] = ("done", "working", "waiting", *(("failed",) if states["failed"] else ()))
        counts = ", ".join(f"{states[state]} {state}" for state in shown)
        yield f"{kind}: {counts}{_images_per_second(status, kind)}"
    working = [beat for beat in status.beats if beat.state == "working"]
    yield from (f"  {_worker(beat, status.now_s)}" for beat in working[:_SHOWN_WORKERS])
    if len(working) > _SHOWN_WORKERS:
        yield f"  ... and {len(working) - _SHOWN_WORKERS} more working"


def _headline(status: Status) -> str:
    if status.state == "finished":
        return f"finished after {duration(status.last_sign_s - status.started_s)}"
    if status.state == "failed":
        return f"failed: {status.error}"
    if status.state == "stopped":
        return "stopped: rerun the same command to resume"
    if status.silence_s > STALE_S:
        return f"silent for {duration(status.silence_s)}: if its process is gone, rerun the same command to resume"
    return f"running for {duration(status.now_s - status.started_s)}"


def _images_per_second(status: Status, kind: str) -> str:
    beats = [beat for beat in status.beats if (beat.kind, beat.state, beat.unit) == (kind, "working", "images")]
    return f", {status.images_per_second(kind):.1f} images/s" if beats else ""


def _worker(beat: Beat, now_s: float) -> str:
    rate = f", {beat.per_second:.1f} {beat.unit}/s" if beat.per_second else ""
    silence_s = now_s - beat.time_s
    silent = f", silent for {duration(silence_s)}" if silence_s > STALE_S else ""
    far = f"{beat.done} of {beat.total}" if beat.total else "begins"
    again = f", started {beat.starts} times" if beat.starts > 1 else ""
    figures = "".join(f", {name.replace('_', ' ')} {value:.4g}" for name, value in beat.figures.items())
    return f"{beat.name} {beat.step} {far}{rate}{figures}{again}{silent}"
