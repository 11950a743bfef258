"""Times one runtime on a detector, in a process of its own, so that its peak memory is its own.

``python -m llb_ray.exporting.speed_worker SPEC.json``: see `SpeedSpec`; torch is imported only where it is measured.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from llb_ray.exporting.runtimes import LOADERS, Answer, Judge, Pixels

_WARM_UP = 3  # batches: a runtime allocates and plans on the first


@dataclass(frozen=True)
class SpeedSpec:
    """One measurement: what is loaded, which pixels it is given, and where answers and times go."""

    runtime: str
    model: str  # the run of torch, an ONNX file of the others
    threads: int
    batch: int
    images: str  # .npy, uint8 [N, H, W, 3]
    answers: str  # .npz: score_N and map_NHW, of single images
    times: str  # JSON of `Times`


@dataclass(frozen=True)
class Times:
    """Seconds and bytes of one runtime."""

    load_s: float
    single_s: list[float]  # of each image by itself
    batch_s: list[float]  # of each batch, per image
    peak_bytes: int  # resident memory, the interpreter and the images included


def measure(spec: SpeedSpec) -> Times:
    """Load, warm up, judge every image by itself, then in batches; answers of the former are written."""
    image_NHW3: Pixels = np.load(spec.images)
    started_s = time.perf_counter()
    judge = LOADERS[spec.runtime](spec.model, spec.threads)
    load_s = time.perf_counter() - started_s
    single_s, answers = _timed(judge, image_NHW3, 1)
    batch_s, _ = _timed(judge, image_NHW3, spec.batch)
    score_N, map_NHW = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    np.savez(spec.answers, score_N=score_N, map_NHW=map_NHW)
    return Times(load_s, single_s, batch_s, _peak_bytes())


def _timed(judge: Judge, image_NHW3: Pixels, size: int) -> tuple[list[float], list[Answer]]:
    """Seconds per image of each batch of this size, and the answers."""
    for _ in range(_WARM_UP):
        judge(next(_batches(image_NHW3, size)))
    seconds, answers = [], []
    for batch in _batches(image_NHW3, size):
        started_s = time.perf_counter()
        answers.append(judge(batch))
        seconds.append((time.perf_counter() - started_s) / len(batch))
    return seconds, answers


def _batches(image_NHW3: Pixels, size: int) -> Iterator[Pixels]:
    """Full batches; the images as one batch where they are fewer."""
    size = min(size, len(image_NHW3))
    for start in range(0, len(image_NHW3) - size + 1, size):
        yield image_NHW3[start : start + size]


def _peak_bytes() -> int:
    """Peak resident memory of this process; on Linux without that of the process which started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Measure what the file named on the command line asks for."""
    spec = SpeedSpec(**json.loads(Path(sys.argv[1]).read_text()))
    Path(spec.times).write_text(json.dumps(asdict(measure(spec))))


if __name__ == "__main__":
    main()
