"""Metrics of a scan for Prometheus, through Ray: the figures of `llb-ray status SCAN`, read from the scan's folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ray.util.metrics import Gauge

from llb_ray.distributed.repeating import Repeating
from llb_ray.errors import LlbError
from llb_ray.scans.scan_status import ScanStatus, read_scan_status


class ScanMeters:
    """Every metric of a scan by its name before Ray's prefix; `cluster/README.md` lists them as they are scraped."""

    def __init__(self) -> None:
        self.jobs = Gauge("llb_scan_jobs", "jobs of a scan", ("scan", "state"))
        self.images_rate = Gauge("llb_scan_images_per_second", "images that its running jobs do now", ("scan",))
        self.left = Gauge("llb_scan_left_seconds", "until the last job ends, at the pace so far", ("scan",))


@contextlib.contextmanager
def scan_metrics(scan: Path) -> Iterator[None]:
    """Inside, the metrics of the scan in this folder are kept up to date, until a last time at the end."""
    meters = ScanMeters()

    def look() -> None:
        # A folder that is gone or half written must not end a scan.
        with contextlib.suppress(LlbError, OSError):
            publish(read_scan_status(scan), meters)

    with Repeating(look, "llb-scan-telemetry"):
        yield


def publish(status: ScanStatus, meters: ScanMeters) -> None:
    """Set the metrics to these figures; the time left is 0 when nothing is left, and unset until a job has ended."""
    tags = {"scan": status.path.name}
    for state, count in status.counts().items():
        meters.jobs.set(count, tags | {"state": state})
    meters.images_rate.set(status.images_per_second, tags)
    left_s = status.left_s
    if left_s is not None:
        meters.left.set(left_s, tags)
