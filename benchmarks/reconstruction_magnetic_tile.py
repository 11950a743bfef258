"""Does purification help the reconstruction detector, and does hard mining hurt it?  Magnetic tile, MobileNetV2.

    python benchmarks/reconstruction_magnetic_tile.py --out runs/reconstruction_tile

The images, the noise levels, the seeds and the keep ratio are those of purification_magnetic_tile.py, whose memory
bank stands beside: its raw rows are read from that benchmark's .csv.  Hard mining multiplies the gradient of the easy
90 % of points, which at alpha above 0 leaves the defects to learn from: here that of LLBNAD's code (factor 0, from the
first step), at two noise levels.
Writes benchmarks/reconstruction_magnetic_tile.md and the raw rows beside it.
"""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

from harness import (
    FILTERS,
    LESS_IS_BETTER,
    METRICS,
    Row,
    gain,
    setting,
    spread,
    stage_seconds,
    sweep,
    table,
    write_rows,
)
from purification_magnetic_tile import DATA, HERE, WEIGHTS

import llb_ray
from llb_ray.config import load, with_overrides
from llb_ray.data.contaminate import contaminate_manifest

MINING = {
    "off": [],
    "on": ["detector.hard_percentile=0.9", "detector.hard_factor=0", "detector.hard_ramp_steps=0"],
}
MINED_ALPHAS = (0, 0.2)
COMPARED = ("i_auroc", "p_auroc", "aupro", "residual_contamination")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--alphas", type=float, nargs="+", default=[0, 0.2, 0.4])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--result", type=Path, default=HERE / "reconstruction_magnetic_tile.md")
    arguments = parser.parse_args()
    if not (DATA / "magnetic_tile").is_dir():
        sys.exit(f"{DATA}/magnetic_tile is missing: set LLB_DATA to the folder that holds it")

    rows = list(_rows(arguments))
    write_rows(rows, arguments.result.with_suffix(".csv"))
    arguments.result.write_text(_page(rows, arguments))
    print(arguments.result.read_text())


def _rows(arguments: argparse.Namespace) -> Iterator[Row]:
    config = load(
        HERE.parent / "configs" / "reconstruction_cnn.yaml",
        [
            "detector.backbone.name=mobilenetv2_100",
            f"detector.backbone.weights={DATA / WEIGHTS}",
            "members.detector=same",
        ],
    )
    everything = llb_ray.read_folder(DATA / "magnetic_tile", config)
    for mining, settings in MINING.items():
        measured = sweep(
            with_overrides(config, settings),
            lambda alpha, seed: contaminate_manifest(everything, arguments.images, alpha, seed),
            [alpha for alpha in arguments.alphas if mining == "off" or alpha in MINED_ALPHAS],
            range(arguments.seeds),
            lambda alpha: 1 - alpha,
            arguments.out,
            "serial",
        )
        yield from ({"mining": mining, **row} for row in measured)


def _page(rows: Sequence[Row], arguments: argparse.Namespace) -> str:
    plain = [row for row in rows if row["mining"] == "off"]
    blind = [row | {"filter": name} for row in plain if row["filter"] == "none" for name in FILTERS]
    command = "python benchmarks/reconstruction_magnetic_tile.py " + " ".join(sys.argv[1:])
    return (
        f"# The reconstruction detector on magnetic tile, {date.today()}\n\n{setting(command)}\n\n"
        f"configs/reconstruction_cnn.yaml, N = {arguments.images} training images, seeds 0 to {arguments.seeds - 1}; "
        "mean ± sd over seeds.  A difference is between runs of the same seed, and so on the same images: its mean, "
        "and in how many seeds it was a gain.\n\n"
        f"{table(plain, list(METRICS))}\n\n"
        f"## Against the memory bank\n\n{_against(_memory_bank(), plain)}\n\n"
        f"## Against no filter\n\n{_against(blind, [row for row in plain if row['filter'] != 'none'])}\n\n"
        f"## Hard mining against none\n\n{_against(plain, [row for row in rows if row['mining'] != 'off'])}\n\n"
        f"## Cost\n\n{stage_seconds(rows)}\n\nRaw rows: {arguments.result.stem}.csv\n"
    )


def _memory_bank() -> list[Row]:
    with (HERE / "purification_magnetic_tile.csv").open() as file:
        return [
            {"filter": row["filter"]} | {name: float(row[name]) for name in ("alpha", "seed", *METRICS)}
            for row in csv.DictReader(file)
        ]


def _against(reference: Sequence[Row], rows: Sequence[Row]) -> str:
    """Markdown: a line per (alpha, mining, filter) of `rows`: what the reference has there, and how they differ.

    At alpha 0 every filter keeps everything, so one line stands for all four.
    """
    names = " | ".join(f"{METRICS[name]}, there | difference" for name in COMPARED)
    lines = [f"| alpha | mining | filter | {names} |", "|---" * (3 + 2 * len(COMPARED)) + "|"]
    distinct = [row for row in rows if row["alpha"] > 0 or row["filter"] == "none"]
    keys = dict.fromkeys((row["alpha"], row["mining"], row["filter"]) for row in distinct)
    for alpha, mining, name in sorted(keys, key=lambda key: key[0]):
        chosen = [row for row in rows if (row["alpha"], row["mining"], row["filter"]) == (alpha, mining, name)]
        theirs = {row["seed"]: row for row in reference if (row["alpha"], row["filter"]) == (alpha, name)}
        pairs = [(row, theirs[row["seed"]]) for row in chosen]
        cells = " | ".join(_difference(pairs, metric) for metric in COMPARED)
        lines.append(f"| {alpha:g} | {mining} | {name} | {cells} |")
    return "\n".join(lines)


def _difference(pairs: Sequence[tuple[Row, Row]], metric: str) -> str:
    differences = [own[metric] - other[metric] for own, other in pairs]
    return f"{spread([other[metric] for _, other in pairs])} | {gain(differences, metric in LESS_IS_BETTER)}"


if __name__ == "__main__":
    main()
