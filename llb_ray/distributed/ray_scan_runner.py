"""The jobs of a scan on a Ray cluster, as tasks: Ray's own scheduler deals GPUs to jobs, or to their members.

While at least as many jobs wait as there are places, a job holds one place and does its members one after the other in
it: nothing is started for a member alone, and no GPU waits.  The members of the last jobs go to places of their own, so
that places that run out of jobs take part in those that are left (`benchmarks/cluster.md` has the idle share).
"""

from collections import deque
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from llb_ray.data.manifest import path_from_text
from llb_ray.distributed import capacity, cluster
from llb_ray.distributed.death_reason import why
from llb_ray.distributed.drain_watch import watching_drains
from llb_ray.distributed.ray_executor import RayExecutor
from llb_ray.engine.execution.executor import Executor, SerialExecutor, Tell
from llb_ray.scans.datasets import Material
from llb_ray.scans.job import run_job
from llb_ray.scans.job_results import Row, failed_row, write_row
from llb_ray.scans.runner import Ended, Todo
from llb_ray.scans.scan_plan import Job, Scan


def on_cluster(scan: Scan, todo: Todo, tell: Tell) -> tuple[int, Ended]:
    """Number of jobs that run at once, and each with its row as it ends; call inside `cluster.connect`.

    Raises ResourceError where not even one worker fits, or a node does not see the images or the scan's folder.
    """
    asked = scan.config.resources
    capacity.wait_for_node(asked, tell)
    places = capacity.slots(asked)
    proof = scan.progress / ".proof"
    proof.parent.mkdir(exist_ok=True)
    proof.touch()
    cluster.refuse_unshared({scan.progress: proof} | _an_image(todo))
    proof.unlink()
    return min(places, len(todo)), _ended(scan, todo, places)


def _do(scan: Scan, job: Job, material: Material, spread: bool) -> Row:
    """The job, in a process of the cluster."""
    executor: Executor = RayExecutor() if spread else SerialExecutor()
    with executor, watching_drains():
        return run_job(scan, job, material, executor)


def _ended(scan: Scan, todo: Todo, places: int) -> Ended:
    """Jobs as they end; never more of them submitted than there are places, so that a stop leaves nothing queued.

    A job's material is in the object store while the job runs, and no longer: neighbours differ in the category, so a
    thousand categories would be there, 1 GB, from the first round of jobs to the last.
    """
    waiting = deque(todo)
    in_flight: dict[Any, Job] = {}
    while waiting or in_flight:
        while waiting and len(in_flight) < places:
            spread = scan.config.final_workers.most > 1 or len(waiting) < places
            job, material = waiting.popleft()
            in_flight[_submit(scan, job, material, spread)] = job
        (reference, *_), _ = ray.wait(list(in_flight), num_returns=1)
        job = in_flight.pop(reference)
        yield job, _row(scan, job, reference)


def _submit(scan: Scan, job: Job, material: Material, spread: bool) -> Any:
    """Reference of the job's row; a job whose members have places of their own asks for none itself."""
    asked = scan.config.resources
    task = ray.remote(_do).options(
        name=f"llb-{job.name}",
        scheduling_strategy="SPREAD" if spread else "DEFAULT",  # else those that ask for nothing share one node
        max_retries=asked.max_restarts,  # of a process that died; an error is a row
        **({"num_cpus": 0} if spread else capacity.placement(asked)),
    )
    return task.remote(scan, job, material, spread)


def _row(scan: Scan, job: Job, reference: Any) -> Row:
    try:
        row: Row = ray.get(reference)
    except RayError as error:  # its process died: everything else is in the row
        row = failed_row(scan, job, f"its process died ({why(error)})")
        write_row(scan, job, row)
    return row


def _an_image(todo: Todo) -> dict[Path, Path]:
    """The folder of the images, and one of them that is there."""
    listings = (listing for _, material in todo for listing in material.given.values())
    root = next(listings).root
    paths = (root / path_from_text(path) for _, material in todo for path in material.paths())
    return {root: next((path for path in paths if path.exists()), root)}
