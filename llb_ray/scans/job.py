"""One job of a scan: a whole run, and the row that says what came of it."""

import json
import time
import traceback
from pathlib import Path
from typing import Any

from llb_ray.artifacts import Store, digest
from llb_ray.disk import LOCAL, write_atomic
from llb_ray.engine.execution.executor import Executor
from llb_ray.engine.execution.heartbeat import Heartbeat
from llb_ray.engine.execution.protocols import WorkerContext
from llb_ray.engine.pipeline.pipeline import Result, RunSpec, run_stages
from llb_ray.engine.rundir.run_lock import RETRY_WAIT_S
from llb_ray.errors import LlbError
from llb_ray.scans.datasets import Material, draw_images
from llb_ray.scans.job_results import DONE, METRICS, Row, failed_row, identity, write_row
from llb_ray.scans.scan_plan import Job, Scan


def key(scan: Scan, job: Job, material: Material) -> str:
    """A digest of all that the job's figures depend on."""
    config = scan.config.of_job(job.filter, job.seed).keyed_settings()
    alphas = scan.config.scan.alphas  # the largest fixes the test set
    listing = {
        name: made.inputs for name, made in ((f"{a}", material.recipe(a)) for a in sorted(material.given, key=str))
    }
    masks = [scan.masks] if scan.masks else []
    return digest([config, job.alpha, alphas and max(alphas), scan.config.scan.num_objects, listing, *masks])[:16]


def run_job(scan: Scan, job: Job, material: Material, executor: Executor) -> Row:
    """The job's row, also written to the scan's folder; a failure is a row too, and never an exception.

    Its heartbeat stays until the driver has the row.
    """
    try:
        Heartbeat(WorkerContext(Store(scan.store), scan.running, scan.config.resources), job.name).report("job")
        row = _row(scan, job, material, executor)
    except (LlbError, OSError) as error:
        row = failed_row(scan, job, str(error))
    except Exception as error:  # noqa: BLE001  an error of ours in one job must not cost a night of the others
        where = scan.out / "errors" / f"{job.name}.txt"
        write_atomic(where, traceback.format_exc().encode())
        row = failed_row(scan, job, f"{type(error).__name__}: {error} ({where})")
    write_row(scan, job, row)
    return row


def _row(scan: Scan, job: Job, material: Material, executor: Executor) -> Row:
    started_s = time.perf_counter()
    config, store = scan.config.of_job(job.filter, job.seed), Store(scan.store)
    manifest, pool = draw_images(scan.config, job, material, store)
    spec = RunSpec(config, manifest, scan.run(job), scan.store, pool.unlabelled(), lock_wait_s=RETRY_WAIT_S)
    result = run_stages(spec, executor, _silent)
    seconds = time.perf_counter() - started_s
    return {
        **identity(job),
        "status": DONE,
        "reason": None,
        **{name: result.metrics.get(name) for name in METRICS},
        "estimated_contamination": _estimate(result.path),
        "num_train": result.num_input,
        "num_kept": result.num_kept,
        "num_quarantined": result.num_quarantined,
        "num_test": result.metrics.get("num_test"),
        **_costs(result, seconds, manifest.table.num_rows),
        "setting": scan.setting,
        "key": key(scan, job, material),
    }


def _estimate(run: Path) -> float | None:
    """The share of anomalies that the run estimated, if it did (purify.keep_ratio=auto)."""
    content = LOCAL.read(run / "contamination.json")
    return None if content is None else float(json.loads(content)["share"])


def _costs(result: Result, seconds: float, num_images: int) -> dict[str, Any]:
    return {
        "seconds": round(seconds, 3),
        "worker_seconds": round(result.worker_s, 3),
        "gpu_seconds": round(result.gpu_s, 3),
        "images_per_second": round(num_images / seconds, 2),
    }


def _silent(line: str) -> None:
    """A job's own lines would drown the scan's; `llb-ray status` of its folder shows how it is doing."""
