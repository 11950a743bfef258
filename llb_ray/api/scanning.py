"""Scans of whole benchmarks."""

from pathlib import Path
from typing import TYPE_CHECKING

from llb_ray.api.running import make_executor
from llb_ray.engine.execution.executor import Tell
from llb_ray.errors import ConfigError
from llb_ray.remote import local_folder

if TYPE_CHECKING:
    import pyarrow as pa

    from llb_ray.config import ScanConfig
    from llb_ray.scans.scan_status import ScanStatus


def scan(
    config: "ScanConfig",
    *,
    out: str | Path,
    executor: str = "ray",
    ray_address: str | None = None,
    tell: Tell = lambda line: None,
) -> "pa.Table":
    """A row for every job of a scan (`llb_ray.scans.job_results.ROWS`): each category, alpha, filter and seed a run.

    Jobs share the cluster, or run one after the other with the executor ``serial``; one that fails is a row with its
    reason and stops no other.  Calling again does only what is missing, failed jobs included.  `out`, a local folder,
    then holds results.parquet, and a run folder for each job.  Raises a `LlbError` for a scan that cannot be.
    """
    from llb_ray.scans.runner import run_scan, serially
    from llb_ray.scans.scan_plan import Scan
    from llb_ray.tracking.track import refuse_untracked

    refuse_untracked(config.tracking)
    plan = Scan(config, local_folder("--out", out).absolute())
    if executor == "serial":
        make_executor("serial", ray_address)  # refuses an address
        return run_scan(plan, serially, tell)
    if executor != "ray":
        raise ConfigError(f"executor {executor!r} is unknown; choose ray or serial")
    from llb_ray.distributed import cluster
    from llb_ray.distributed.ray_scan_runner import on_cluster
    from llb_ray.distributed.scan_telemetry import scan_metrics

    with cluster.connect(ray_address), scan_metrics(plan.out):
        return run_scan(plan, on_cluster, tell)


def scan_status(scan: str | Path) -> "ScanStatus":
    """Progress of the scan in a folder; raises ArtifactError if none was ever started there."""
    from llb_ray.scans.scan_status import read_scan_status

    return read_scan_status(local_folder("SCAN", scan))


def table(scan: str | Path) -> "pa.Table":
    """The rows of a scan that are available so far; raises ArtifactError if there is none in the folder."""
    from llb_ray.scans.job_results import read_results

    return read_results(local_folder("RUN", scan))
