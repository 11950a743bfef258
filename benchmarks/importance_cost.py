"""What the importance-weighted loss adds to a training step: a plain and a weighted fit step in turn, on one core.

    python benchmarks/importance_cost.py

Batch 16; the autoencoder at 64 px, and the reconstruction detector on layers 2 and 3 of MobileNetV2 at 224 px.  Images
and layers are random: the cost does not depend on them.  The two fits hand over after every step, so that whatever else
the machine does disturbs both, and the thread's CPU time is taken, not the clock's.  Density and target are taken anew
about every sixteenth step, so ratios are of blocks of sixteen.  Fits are repeated: where their tensors happen to lie in
memory is worth a few percent.  The control is a plain fit against a plain one.
"""

import math
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from threading import Semaphore, Thread
from time import thread_time

import numpy as np
import numpy.typing as npt
import torch
from harness import Row, setting, write_rows

from llb_ray.config import ImportanceConfig
from llb_ray.detectors.autoencoder import Autoencoder
from llb_ray.detectors.autoencoder_config import AutoencoderConfig
from llb_ray.detectors.base import Layers
from llb_ray.detectors.reconstruction import Reconstruction
from llb_ray.detectors.reconstruction_config import ReconstructionConfig

RESULT = Path(__file__).with_suffix(".md")
CPU = torch.device("cpu")
BLOCK = 16
LOSSES = {
    "plain": None,
    "moments": ImportanceConfig(mode="moments", buffer=4096),
    "moments, log": ImportanceConfig(mode="moments", buffer=4096, log_scores=True),
    "robust": ImportanceConfig(mode="robust", buffer=4096),
}
CASES = {
    "autoencoder, 64 px": (Autoencoder, AutoencoderConfig(image_size_px=64), ((3, 64, 64),), 320, 8),
    "reconstruction, 224 px": (Reconstruction, ReconstructionConfig(), ((32, 28, 28), (96, 14, 14)), 80, 4),
}


class Noise:
    """A `Source` of 64 images, or their layers, of random numbers."""

    def __init__(self, shapes: Sequence[tuple[int, int, int]]) -> None:
        self.image_ids = [str(row) for row in range(64)]
        generator = torch.Generator().manual_seed(0)
        self._layers = [128 + 30 * torch.randn(64, *shape, generator=generator) for shape in shapes]

    def __len__(self) -> int:
        return len(self.image_ids)

    def batch(self, rows: npt.NDArray[np.int64]) -> Layers:
        return tuple(layer[torch.from_numpy(rows)] for layer in self._layers)


def main() -> None:
    torch.set_num_threads(1)
    rows = list(_rows())
    write_rows(rows, RESULT.with_suffix(".csv"))
    command = "python benchmarks/importance_cost.py"
    RESULT.write_text(
        f"# What the importance-weighted loss costs, {date.today()}\n\n{setting(command)}\n\n"
        f"CPU time of blocks of {BLOCK} steps of two fits that take turns, one thread, batch 16.\n\n"
        f"{_table(rows)}\n\nRaw blocks: {RESULT.stem}.csv\n"
    )
    print(RESULT.read_text())


def _rows() -> Iterator[Row]:
    for case, (kind, config, shapes, steps, repeats) in CASES.items():
        for loss, importance in LOSSES.items():
            for repeat in range(repeats):
                fits = [kind(config, steps, CPU, one) for one in (None, importance)]
                block_2B = [_blocks(seconds) for seconds in _seconds(fits, Noise(shapes))]
                for plain_s, loss_s in zip(*block_2B, strict=True):
                    yield {"case": case, "loss": loss, "repeat": repeat, "plain_s": plain_s, "loss_s": loss_s}


def _blocks(seconds: Sequence[float]) -> list[float]:
    """Seconds of each whole block of the weighted steps."""
    late = np.array(seconds[math.ceil(len(seconds) * ImportanceConfig().warmup) :])
    return late[: len(late) // BLOCK * BLOCK].reshape(-1, BLOCK).sum(axis=1).round(6).tolist()


def _seconds(detectors: Sequence[Autoencoder | Reconstruction], source: Noise) -> list[list[float]]:
    """CPU seconds of every step of both fits, which take turns; the first holds what is measured before."""
    turns = [Semaphore(1), Semaphore(0)]
    seconds: list[list[float]] = [[], []]
    threads = [Thread(target=_fit, args=(detectors[i], source, seconds[i], turns[i], turns[1 - i])) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds


def _fit(
    detector: Autoencoder | Reconstruction, source: Noise, seconds: list[float], mine: Semaphore, other: Semaphore
) -> None:
    mine.acquire()
    started = thread_time()

    def hand_over(done: int, total: int, unit: str) -> None:
        nonlocal started
        seconds.append(thread_time() - started)
        other.release()
        mine.acquire()
        started = thread_time()

    detector.fit(source, 0, hand_over)
    other.release()


def _table(rows: Sequence[Row]) -> str:
    lines = ["| detector | loss | plain step, ms | weighted over plain, median (quartiles) |", "|---|---|---|---|"]
    for case, loss in dict.fromkeys((row["case"], row["loss"]) for row in rows):
        pairs = [(row["plain_s"], row["loss_s"]) for row in rows if (row["case"], row["loss"]) == (case, loss)]
        plain_B, loss_B = np.array(pairs).T
        low, middle, high = np.quantile(loss_B / plain_B, [0.25, 0.5, 0.75])
        name = loss if loss != "plain" else "plain (control)"
        step_ms = 1000 * np.median(plain_B) / BLOCK
        lines.append(f"| {case} | {name} | {step_ms:.2f} | {middle:.3f} ({low:.3f} to {high:.3f}) |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
