"""How fast, large and equal is a detector in torch, ONNX Runtime and OpenVINO?  `llb-ray bench` of two detectors.

    python benchmarks/runtimes.py --out runs/runtimes

Trained on synthetic photographs of 224 px; each runtime in a process of its own, on one thread.  OpenVINO is
measured where it is installed.  Writes benchmarks/runtimes.md and the raw rows beside it.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path

from harness import Row, setting, wait_for_calm, write_rows

import llb_ray

HERE = Path(__file__).parent
DETECTORS = ("memory_bank", "reconstruction_cnn")  # configs of these names
TITLES = {
    "detector": "detector",
    "runtime": "runtime",
    "threads": "threads",
    "images_per_s": "images/s",
    "p50_s": "p50, ms",
    "p95_s": "p95, ms",
    "peak_bytes": "memory, MiB",
    "model_bytes": "model, MiB",
    "difference": "difference from torch",
    "num_other_decisions": "other decisions",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--result", type=Path, default=HERE / "runtimes.md")
    arguments = parser.parse_args()
    rows = list(measured(arguments.out, arguments.images, arguments.threads))
    write_rows(rows, arguments.result.with_suffix(".csv"))
    arguments.result.write_text(page(rows, arguments.images))
    print(arguments.result.read_text())


def measured(out: Path, images: int, threads: Sequence[int]) -> Iterator[Row]:
    """A row for each detector, runtime and number of threads."""
    photos = out / "photos" / "weave"
    if not photos.exists():
        llb_ray.synth(photos.parent, categories=["weave"], alpha=0.2, size_px=224)
    for name in DETECTORS:
        # How well it is trained does not matter here; of a reconstruction, training is most of the time.
        steps = [] if name == "memory_bank" else ["detector.member_steps=5", "detector.final_steps=10"]
        config = llb_ray.load_config(HERE.parent / "configs" / f"{name}.yaml", steps)
        run = llb_ray.run(config, llb_ray.read_folder(photos, config), out=out / name, executor="serial").path
        for count in threads:
            wait_for_calm(share=0.1, patience_s=20)
            speed = llb_ray.bench(run, images=images, threads=count)
            for one in speed.runtimes:
                difference = max(one.score_difference, one.map_difference) / speed.scale
                yield {
                    "detector": name,
                    "threads": count,
                    "read_s": speed.read_s,
                    **asdict(one),
                    "difference": difference,
                }


def page(rows: Sequence[Row], images: int) -> str:
    lines = ["| " + " | ".join(TITLES.values()) + " |", "|" + "---|" * len(TITLES)]
    lines += ["| " + " | ".join(cell(name, row) for name in TITLES) + " |" for row in rows]
    command = "python benchmarks/runtimes.py " + " ".join(sys.argv[1:])
    said = (
        f"{images} images of 224 px, from pixels to score and map; images/s in batches of 32, latency of one image.  "
        "Memory is the peak of a process that does nothing else, interpreter and libraries included.  The difference "
        "is the largest of scores and maps, as a share of the largest value in torch's maps.  The machine was not "
        "idle: compare within the table."
    )
    title = f"# A detector in three runtimes, {date.today()}\n\n{setting(command)}"
    return "\n\n".join([title, said, "\n".join(lines), "Raw rows: runtimes.csv"]) + "\n"


def cell(name: str, row: Row) -> str:
    value = row[name]
    if name == "runtime":
        return f"{value} {row['version']}"
    if name.endswith("_s") and name != "images_per_s":
        return f"{1000 * value:.1f}"
    if name.endswith("_bytes"):
        return f"{value / 2**20:,.0f}"
    if name == "difference":
        return f"{value:.0e}"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
