"""The default detector in bfloat16 beside float32: what it saves on a CPU that multiplies it, and what it costs.

    OMP_NUM_THREADS=1 python benchmarks/precision.py --out runs/precision

Quality: scans of sets of the suite (benchmarks/suite.py), clean and with a tenth of anomalies among the training
images, by `llb`, two seeds.  Time: CPU milliseconds an image of the network and of the final detector, in batches of 32
and one thread, the two formats in turns; medians of five rounds.
Data is looked for under LLB_DATA (default ../shared/data).  Writes benchmarks/precision.md and the raw rows beside it.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from certify import HERE
from harness import Row, software, tell, write_rows
from suite import suite_config

import llb_ray
from llb_ray.detectors.factory import build_detector, build_encoder
from llb_ray.scans.job_results import DONE

FORMATS = ("float32", "bfloat16")
SETS = ("lenses", "glass_fabric", "commutator", "fabric", "bottle_cap")
ALPHAS, SEEDS, METRICS = (0.0, 0.1), (0, 1), ("i_auroc", "aupro")
TRAINED, BATCH, ROUNDS = 64, 32, 5
WIDE_PRODUCTS = ("avx512_bf16", "amx_bf16")  # what Linux calls a CPU's products of bfloat16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    arguments = parser.parse_args()
    times = list(timed())
    tell(f"{times}")
    rows = [row for name in arguments.sets for form in FORMATS for row in scanned(arguments.out, name, form)]
    write_rows([*times, *rows], HERE / "precision.csv")
    (HERE / "precision.md").write_text(page(times, rows))
    print((HERE / "precision.md").read_text())


def scanned(out: Path, name: str, form: str) -> Iterator[Row]:
    """The figures of a set's jobs."""
    further = [f"detector.backbone.precision={form}", "threshold.method=none"]
    config, folder = suite_config(name, ["llb"], ALPHAS, SEEDS, further), out / name / form
    llb_ray.scan(config, out=folder, executor="serial", tell=tell)
    table = llb_ray.table(folder)
    for row in table.filter(pc.equal(table["status"], DONE)).to_pylist():
        yield {"set": name, "format": form} | {key: row[key] for key in ("alpha", "seed", *METRICS)}


def timed() -> Iterator[Row]:
    """CPU milliseconds of each part of a prediction, in both formats."""
    torch.set_num_threads(1)
    image_N3HW = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (TRAINED, 3, 224, 224), dtype=np.uint8))
    parts = {form: _parts(form, image_N3HW) for form in FORMATS}
    for number in range(ROUNDS):
        for form in FORMATS:
            yield {"format": form, "round": number} | {name: _ms(part) for name, part in parts[form].items()}


def _parts(form: str, image_N3HW: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Encoding of a batch and its scoring, once everything was tried."""
    config = llb_ray.load_config(None, [f"detector.backbone.precision={form}"]).detector
    encoder = build_encoder(config, torch.device("cpu"))
    source = _Source([layer.float() for layer in encoder.encode(image_N3HW)])
    detector = build_detector(config, "final", torch.device("cpu"), None).fit(source, 0)
    batch, layers = image_N3HW[:BATCH], source.batch(np.arange(BATCH))
    parts: dict[str, Callable[[], object]] = {
        "network_ms": lambda: encoder.encode(batch),
        "detector_ms": lambda: detector.score(layers),
    }
    for part in parts.values():
        part()
    return parts


class _Source:
    def __init__(self, layers: Sequence[torch.Tensor]) -> None:
        self._layers = layers
        self.image_ids = [f"{number:032x}" for number in range(len(layers[0]))]

    def __len__(self) -> int:
        return len(self.image_ids)

    def batch(self, rows: np.ndarray) -> tuple[torch.Tensor, ...]:
        return tuple(layer[torch.from_numpy(rows)] for layer in self._layers)


def _ms(part: Callable[[], object]) -> float:
    began_s = time.process_time()
    part()
    return 1000 * (time.process_time() - began_s) / BATCH


def page(times: Sequence[Row], rows: Sequence[Row]) -> str:
    """The tables of times and of quality."""
    lines = ["| format | network, ms an image | detector, ms an image |", "|---|---|---|"]
    for form in FORMATS:
        own = [row for row in times if row["format"] == form]
        network, detector = (statistics.median(row[name] for row in own) for name in ("network_ms", "detector_ms"))
        lines.append(f"| {form} | {network:.1f} | {detector:.1f} |")
    command = software("OMP_NUM_THREADS=1 python benchmarks/precision.py --out runs/precision")
    return (
        f"# bfloat16 on a CPU, {date.today()}\n\n{command}; the CPU has {_products()}\n\n"
        f"{chr(10).join(lines)}\n\n{chr(10).join(_quality(rows))}\n\nRaw rows: precision.csv\n"
    )


def _products() -> str:
    flags = Path("/proc/cpuinfo").read_text().split()
    return ", ".join(flag for flag in WIDE_PRODUCTS if flag in flags) or "no products of bfloat16"


def _quality(rows: Sequence[Row]) -> Iterator[str]:
    yield "| set | alpha | I-AUROC, float32 | bfloat16 | points | AUPRO, float32 | bfloat16 | points |"
    yield "|---|---|" + "---|" * 6
    for name, alpha in dict.fromkeys((row["set"], row["alpha"]) for row in rows):
        cells = [cell for metric in METRICS for cell in _compared(rows, name, alpha, metric)]
        yield f"| {name} | {alpha:g} | {' | '.join(cells)} |"


def _compared(rows: Sequence[Row], name: str, alpha: float, metric: str) -> Iterator[str]:
    """Mean and standard deviation over seeds in each format, and the difference of the means in points."""
    means = []
    for form in FORMATS:
        own = [row[metric] for row in rows if (row["set"], row["alpha"], row["format"]) == (name, alpha, form)]
        if None in own:
            yield from ("-", "-", "-")
            return
        means.append(statistics.mean(own))
        yield f"{means[-1]:.3f} ± {statistics.stdev(own):.3f}"
    yield f"{100 * (means[1] - means[0]):+.1f}"


if __name__ == "__main__":
    main()
