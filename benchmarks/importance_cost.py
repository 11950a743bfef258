"""What the importance-weighted loss adds to a training step: a plain and a weighted fit step in turn, on one core.

    python benchmarks/importance_cost.py

Batch 16; the autoencoder at 64 px, and the reconstruction detector on layers 2 and 3 of MobileNetV2 at 224 px.  Images
and layers are random: the cost does not depend on them.  The two fits hand over after every step, so that whatever else
the machine does disturbs both.  Density and target are taken anew in one step of sixteen at the default buffer, so the
ratio is taken of blocks of sixteen steps too.  The control is a plain fit against a plain one.
"""

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from threading import Semaphore, Thread
from time import perf_counter

import numpy as np
import numpy.typing as npt
import torch
from harness import Row, setting, write_rows

from llb_ray.config import AutoencoderConfig, ImportanceConfig, ReconstructionConfig
from llb_ray.detectors.autoencoder import Autoencoder
from llb_ray.detectors.base import Layers
from llb_ray.detectors.reconstruction import Reconstruction

RESULT = Path(__file__).with_suffix(".md")
CPU = torch.device("cpu")
BLOCK = 16
LOSSES = {
    "plain": None,
    "moments": ImportanceConfig(mode="moments"),
    "moments, log": ImportanceConfig(mode="moments", log_scores=True),
    "robust": ImportanceConfig(mode="robust"),
}
CASES = {
    "autoencoder, 64 px": (Autoencoder, AutoencoderConfig(image_size_px=64), ((3, 64, 64),), 2000),
    "reconstruction, 224 px": (Reconstruction, ReconstructionConfig(), ((32, 28, 28), (96, 14, 14)), 200),
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
        f"Steps of two fits in turn, one thread, batch {BLOCK}; with the loss over plain, median (quartiles).\n\n"
        f"{_table(rows)}\n\nRaw pairs: {RESULT.stem}.csv\n"
    )
    print(RESULT.read_text())


def _rows() -> Iterator[Row]:
    for case, (kind, config, shapes, steps) in CASES.items():
        for loss, importance in LOSSES.items():
            fits = [kind(config, steps, CPU, one) for one in (None, importance)]
            for step, (plain_s, other_s) in enumerate(zip(*_seconds(fits, Noise(shapes)), strict=True)):
                yield {"case": case, "loss": loss, "step": step} | _rounded(plain_s=plain_s, loss_s=other_s)


def _rounded(**seconds: float) -> Row:
    return {name: round(value, 6) for name, value in seconds.items()}


def _seconds(detectors: Sequence[Autoencoder | Reconstruction], source: Noise) -> list[list[float]]:
    """Seconds of every step but the first of both fits, which take turns."""
    turns = [Semaphore(1), Semaphore(0)]
    seconds: list[list[float]] = [[], []]
    threads = [Thread(target=_fit, args=(detectors[i], source, seconds[i], turns[i], turns[1 - i])) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [column[1:] for column in seconds]  # the first holds what is measured before


def _fit(
    detector: Autoencoder | Reconstruction, source: Noise, seconds: list[float], mine: Semaphore, other: Semaphore
) -> None:
    mine.acquire()
    started = perf_counter()

    def hand_over(done: int, total: int, unit: str) -> None:
        nonlocal started
        seconds.append(perf_counter() - started)
        other.release()
        mine.acquire()
        started = perf_counter()

    detector.fit(source, 0, hand_over)
    other.release()


def _table(rows: Sequence[Row]) -> str:
    lines = [
        "| detector | loss | plain step, ms | ratio, step by step | ratio, blocks of 16 |",
        "|---|---|---|---|---|",
    ]
    for case, loss in dict.fromkeys((row["case"], row["loss"]) for row in rows):
        pair_S2 = np.array([(r["plain_s"], r["loss_s"]) for r in rows if (r["case"], r["loss"]) == (case, loss)])
        # The warm-up, a tenth of the steps, is not weighted.
        pair_S2 = pair_S2[len(pair_S2) // 10 :]
        block_B2 = pair_S2[: len(pair_S2) // BLOCK * BLOCK].reshape(-1, BLOCK, 2).sum(axis=1)
        cells = [f"{1000 * np.median(pair_S2[:, 0]):.2f}", _quartiles(pair_S2), _quartiles(block_B2)]
        lines.append(f"| {case} | {loss if loss != 'plain' else 'plain (control)'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _quartiles(pair_N2: npt.NDArray[np.float64]) -> str:
    low, middle, high = np.quantile(pair_N2[:, 1] / pair_N2[:, 0], [0.25, 0.5, 0.75])
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
