"""The scan from outside: what is still to be done, who does it, how far it is, and the one table of results."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout

from llb_ray.artifacts import Store
from llb_ray.disk import write_atomic
from llb_ray.engine.execution.executor import SerialExecutor, Tell, refuse_labels
from llb_ray.engine.execution.heartbeat import Heartbeat
from llb_ray.engine.execution.protocols import WorkerContext
from llb_ray.engine.rundir.output_guard import LOCK, refuse_foreign, refuse_inside
from llb_ray.engine.rundir.stage_timer import duration
from llb_ray.errors import ArtifactError
from llb_ray.scans.datasets import Material, read_materials
from llb_ray.scans.job import key, run_job
from llb_ray.scans.job_results import DONE, Results, Row, read_row
from llb_ray.scans.scan_plan import CONFIG, Job, Scan
from llb_ray.scans.scan_status import FAILED, UP_TO_DATE, time_left_s

Todo = Sequence[tuple[Job, Material]]
Ended = Iterator[tuple[Job, Row]]
Runner = Callable[[Scan, Todo, Tell], tuple[int, Ended]]  # how many jobs run at once, and each as it ends


def serially(scan: Scan, todo: Todo, tell: Tell) -> tuple[int, Ended]:
    """Every job in this process, one after the other."""
    executor = SerialExecutor()
    refuse_labels(executor, scan.config)
    return 1, ((job, run_job(scan, job, material, executor)) for job, material in todo)


def run_scan(scan: Scan, runner: Runner, tell: Tell) -> pa.Table:
    """The rows of all jobs (schema `results.ROWS`), failed ones included; only what is missing is done.

    Raises DataError for a data set that cannot be used, ArtifactError for a folder that cannot.
    """
    root = scan.config.scan.dataset.root
    refuse_inside(root, scan.out)
    with _locked(scan.out):
        tell(f"reading {root}")
        materials = {material.category: material for material in read_materials(scan.config)}
        write_atomic(scan.out / CONFIG, scan.config.to_yaml().encode())
        Store(scan.store).clear_unfinished()
        jobs = [(job, materials[job.category]) for job in scan.jobs(list(materials))]
        todo = [(job, material) for job, material in jobs if _is_missing(scan, job, material)]
        if len(todo) < len(jobs):
            tell(f"{len(jobs) - len(todo)} of {len(jobs)} jobs up to date")
        return _through(scan, todo, len(jobs), runner, tell)


def _through(scan: Scan, todo: Todo, total: int, runner: Runner, tell: Tell) -> pa.Table:
    results = Results(scan)
    results.write()
    if todo:
        at_once, ended = runner(scan, todo, tell)
        progress = _Progress(scan, total, len(todo), at_once, tell)
        for job, row in ended:
            results.add(row)
            progress.ended(job, row)
    return results.table()


def _is_missing(scan: Scan, job: Job, material: Material) -> bool:
    row = read_row(scan, job)
    return row is None or row["status"] != DONE or row["key"] != key(scan, job, material)


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """The scan's folder, ours alone; raises ArtifactError if it cannot be."""
    try:
        refuse_foreign(out, CONFIG)
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise ArtifactError(f"{out}: another scan is active here; wait for it or choose another --out") from error
    except OSError as error:
        raise ArtifactError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    try:
        yield
    finally:
        lock.release()


class _Progress:
    """Reports after every job how many are done, running and waiting, and when the last will be."""

    def __init__(self, scan: Scan, total: int, to_do: int, at_once: int, tell: Tell) -> None:
        self._total, self._to_do, self._at_once, self._tell = total, to_do, at_once, tell
        self._left, self._num_failed, self._started_s = to_do, 0, time.monotonic()
        self._running = scan.running
        for beat in (*scan.progress.glob("*.json"), *scan.running.glob("*.json")):
            beat.unlink()
        # A heartbeat like a worker's: bars on a terminal and `llb-ray status` need no other source.
        context = WorkerContext(Store(scan.store), scan.progress, scan.config.resources)
        self._report = Heartbeat(context, "jobs", interval_s=0).report("scan")
        self._beat()

    def ended(self, job: Job, row: Row) -> None:
        """Report the outcome of a job."""
        (self._running / f"{job.name}.json").unlink(missing_ok=True)
        self._left -= 1
        self._num_failed += row["status"] != DONE
        self._beat()
        done, rest = self._total - self._left, f"; {self._rest()}" if self._left else ""
        self._tell(f"job {done} of {self._total}: {job.title}: {_outcome(row)}{rest}")

    def _beat(self) -> None:
        figures = {FAILED: self._num_failed, UP_TO_DATE: self._total - self._to_do}
        self._report(self._total - self._left, self._total, "jobs", figures)

    def _rest(self) -> str:
        running = min(self._at_once, self._left)
        waiting, elapsed_s = self._left - running, time.monotonic() - self._started_s
        left_s = time_left_s(self._to_do - self._left, running, waiting, elapsed_s) or 0.0
        return f"{running} running, {waiting} waiting, about {duration(left_s)} left"


def _outcome(row: Row) -> str:
    if row["status"] != DONE:
        return f"failed: {row['reason']}"
    measured = "" if row["i_auroc"] is None else f"I-AUROC {row['i_auroc']:.3f}, "
    return f"{measured}{duration(row['seconds'])}"
