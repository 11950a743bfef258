"""Resources that a run needs of the machine, and whether they are available."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llb_ray.engine.evaluation.evaluate import EXACT_PIXELS
from llb_ray.planning.machine import free_disk_bytes, free_memory_bytes, num_cores
from llb_ray.planning.workload import Workload

_GIB = 2**30
# Measured with benchmarks/plan.py; the rest follows from the calibration.
_RAY_BYTES = int(0.5 * _GIB)  # Ray's own processes on a machine
_TABLE_BYTES, _SCORE_BYTES = 900, 40  # memory of the driver, per image, and per image and member
_PIXEL_BYTES = 12  # memory of exact pixel metrics, per pixel of the labelled test images; those counted take less
_GPU_CONTEXT_BYTES = int(0.5 * _GIB)  # beside what torch reserves


@dataclass(frozen=True)
class Need:
    """Needed and available amount of something."""

    name: str
    needed_bytes: int
    free_bytes: int
    what: str
    remedy: str

    @property
    def refusal(self) -> str:
        """One sentence where it cannot fit, else nothing."""
        if self.needed_bytes <= self.free_bytes:
            return ""
        needed, free = self.needed_bytes / _GIB, self.free_bytes / _GIB
        return f"{self.name}: a run needs {needed:.3g} GiB ({self.what}) and {free:.3g} GiB are free; {self.remedy}"


def needs(at: Workload, out: Path) -> Iterator[Need]:
    """Memory, GPU memory where there is a GPU, and disk, for a run in `out`."""
    yield _memory(at)
    if at.measured.gpu_total_bytes:
        yield _gpu(at)
    yield _disk(at, out)


def _memory(at: Workload) -> Need:
    size, measured = at.size, at.measured
    pixels = min(size.num_labelled * math.prod(at.config.detector.size), EXACT_PIXELS)
    driver = measured.resident_bytes + pixels * _PIXEL_BYTES
    driver += size.num_images * (_TABLE_BYTES + _SCORE_BYTES * size.num_members)
    peak = measured.peak_bytes
    if size.num_members:  # a scorer holds all members, the calibration held one
        peak += (size.num_members - 1) * int(measured.costs["member"].state.of(size.fit_rows["member"]))
    if at.cluster.in_process:
        needed, what = max(driver, peak), "one process"
    else:
        here = min(at.cluster.slots, max(1, num_cores() // at.config.resources.num_cpus))
        own = peak - measured.shared_bytes
        needed = driver + _RAY_BYTES + here * own
        each = f"{here} workers of {own / _GIB:.2g} each on this machine"
        what = f"driver {driver / _GIB:.2g}, Ray {_RAY_BYTES / _GIB:.2g}, {each}"
    remedy = "raise resources.num_cpus so that fewer work at once, lower the batch sizes, or take a larger machine"
    # What this process has already is not among what is free.
    return Need("memory", needed, free_memory_bytes() + measured.resident_bytes, what, remedy)


def _gpu(at: Workload) -> Need:
    share = at.config.resources.num_gpus
    needed = at.measured.gpu_bytes + _GPU_CONTEXT_BYTES
    remedy = "raise resources.num_gpus, or lower detector.image_size_px or the batch sizes"
    return Need("GPU memory", needed, int(at.measured.gpu_total_bytes * share), f"{share:g} of a GPU", remedy)


def _disk(at: Workload, out: Path) -> Need:
    size, measured = at.size, at.measured
    layers = measured.layer_bytes * size.cached_images if at.cached else 0
    maps = measured.map_bytes * size.num_images
    detectors = sum(count * measured.costs[role].state.of(rows) for role, rows, count in size.fits)
    tables = (2 * measured.other_bytes + 12 * size.num_members) * size.num_images  # in the store, and to be opened
    what = f"layers {layers / _GIB:.2g}, maps {maps / _GIB:.2g}, detectors {detectors / _GIB:.2g}"
    remedy = "choose another --out, set features.max_gib=0, or lower detector.image_size_px"
    return Need("disk", int(layers + maps + detectors + tables), free_disk_bytes(out), what, remedy)
