"""How long does one image take?  `Detector.predict` of single photographs on one core: median and 95th percentile.

    python benchmarks/latency.py --out runs/latency

The default detector, trained on synthetic photographs of 224 px.  Everything from the file to the verdict is timed:
reading, resizing, the backbone, the memory.  So are the stages by themselves, and a batch of 32.  One torch thread.
Writes benchmarks/latency.md and the raw rows beside it.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch
from harness import Row, setting, wait_for_calm, write_rows

import llb_ray
from llb_ray.detectors.base import Layers
from llb_ray.engine.features.encoding import layers_of

HERE = Path(__file__).parent
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100, help="times that each is measured")
    parser.add_argument("--result", type=Path, default=HERE / "latency.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    paths = trained(arguments.out)
    wait_for_calm(share=0.1, patience_s=20)
    rows = list(measured(arguments.out / "run", paths, arguments.images))
    write_rows(rows, arguments.result.with_suffix(".csv"))
    arguments.result.write_text(page(rows))
    print(arguments.result.read_text())


def trained(out: Path) -> list[Path]:
    """Test photographs; their detector is trained where it is missing."""
    photos = out / "photos" / "weave"
    if not photos.exists():
        llb_ray.synth(photos.parent, categories=["weave"], alpha=0.2, size_px=224)
    config = llb_ray.load_config(HERE.parent / "configs" / "demo.yaml")
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=out / "run", executor="serial")
    return sorted((photos / "test").rglob("*.png"))


def measured(run: Path, paths: Sequence[Path], count: int) -> list[Row]:
    """A row for each thing that is timed, in milliseconds of one image."""
    detector = llb_ray.Detector.load(run)
    pixels = [detector.photographs.pixels(path) for path in paths]
    stored = [detector.encoding.encode(image_HW3[None]) for image_HW3 in pixels]
    layers: list[Layers] = [layers_of(layer, detector.encoding.device) for layer in stored]
    many = [path for _ in range(BATCH) for path in paths][:BATCH]
    return [
        row("predict, one image", lambda at: detector.predict([paths[at % len(paths)]]), count),
        row("read and resize", lambda at: detector.photographs.pixels(paths[at % len(paths)]), count),
        row("backbone", lambda at: detector.encoding.encode(pixels[at % len(pixels)][None]), count),
        row("memory", lambda at: detector.detector.score(layers[at % len(layers)]), count),
        row(f"predict, per image of {BATCH}", lambda _: detector.predict(many), max(3, count // BATCH), BATCH),
    ]


def row(name: str, work: Callable[[int], object], count: int, images: int = 1) -> Row:
    """How long `work` took, by image, after three times to warm up; CPU time leaves out what other programs took."""
    for at in range(3):
        work(at)
    wall_ms, cpu_ms = [], []
    for at in range(count):
        started_s, used_s = time.perf_counter(), time.process_time()
        work(at)
        wall_ms.append(1000 * (time.perf_counter() - started_s) / images)
        cpu_ms.append(1000 * (time.process_time() - used_s) / images)
    p95 = float(np.quantile(wall_ms, 0.95))
    median, cpu = statistics.median(wall_ms), statistics.median(cpu_ms)
    return {"what": name, "median_ms": median, "p95_ms": p95, "cpu_ms": cpu, "times": count}


def page(rows: Sequence[Row]) -> str:
    lines = ["| what | median, ms | p95, ms | median of CPU, ms | times |", "|---|---|---|---|---|"]
    told = ("median_ms", "p95_ms", "cpu_ms")
    for row in rows:
        lines.append(f"| {row['what']} | " + " | ".join(f"{row[key]:.1f}" for key in told) + f" | {row['times']} |")
    command = "python benchmarks/latency.py " + " ".join(sys.argv[1:])
    said = (
        "The default detector (memory bank on tf_efficientnet_lite0, 224 px), trained on 220 synthetic photographs of "
        "weave; one torch thread.  CPU time leaves out what other programs took of a busy machine."
    )
    title = f"# Latency of one image on one core, {date.today()}\n\n{setting(command)}"
    return "\n\n".join([title, said, "\n".join(lines), "Raw rows: latency.csv"]) + "\n"


if __name__ == "__main__":
    main()
