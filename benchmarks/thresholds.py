"""False alarms and found defects at the default's threshold, on the real sets of `suite.py`, whose labels no run reads.

    OMP_NUM_THREADS=1 python benchmarks/thresholds.py --out runs/thresholds

Asks for 1 % and 5 %.  *had*: share of the normal test images above the threshold.  *found*: that of the anomalous.
*true rate*: share that the same scores find at the threshold that exactly the rate asked for of the normal test images
exceeds, which only labels know.  Data is looked for under LLB_DATA (default ../shared/data).  What is there already is
not run again.  Writes benchmarks/thresholds.md and the raw rows beside it.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from certify import DATA, HERE
from harness import Row, setting, write_rows
from suite import SETS

import llb_ray
from llb_ray import Manifest
from llb_ray.config import load, with_overrides
from llb_ray.data.contaminate import contaminate_manifest
from llb_ray.data.tables import join_by_image, read_table
from llb_ray.engine.pipeline.pipeline import Result

RATES, ALPHAS = (0.01, 0.05), (0, 0.1, 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--result", type=Path, default=HERE / "thresholds.md")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for name in arguments.sets:
        rows += _measured(name, arguments.seeds, arguments.out)
        write_rows(rows, arguments.result.with_suffix(".csv"))
    command = "python benchmarks/thresholds.py " + " ".join(sys.argv[1:])
    arguments.result.write_text(
        f"# False alarms asked for and had, ten real sets, {date.today()}\n\n{setting(command)}\n\n"
        f"The default configuration, {arguments.seeds} seeds.  *had*: share of the normal test images above the "
        "threshold; *found*: share of the anomalous ones; *true rate*: share of these that the same scores find where "
        "exactly the rate asked for of the normal test images is above.\n\n"
        f"## Over the sets, medians (means)\n\n{_summary(rows)}\n\n"
        f"## Every set, means of the seeds\n\n{_table(rows)}\n\n"
        f"Raw rows: {arguments.result.stem}.csv\n"
    )
    print(arguments.result.read_text())


def _measured(name: str, seeds: int, out: Path) -> Iterator[Row]:
    """A row for each alpha, seed and rate; the rates share one run's work."""
    root = DATA / "suite" / name if (DATA / "suite" / name).is_dir() else DATA / name
    num_objects, alphas = SETS[name]
    config = load(HERE.parent / "configs" / "memory_bank.yaml", ["resources.num_cpus=1"])
    everything = llb_ray.read_folder(root, config)
    for alpha in (alpha for alpha in ALPHAS if alpha in alphas):
        for seed in range(seeds):
            manifest = contaminate_manifest(everything, num_objects, alpha, seed, max(alphas))
            for rate in RATES:
                chosen = with_overrides(config, [f"seed={seed}", f"threshold.false_alarm_rate={rate}"])
                result = llb_ray.run(chosen, manifest, out=out / f"{name}-{alpha:g}-{seed}", executor="serial")
                yield {"set": name, "alpha": alpha, "seed": seed, "asked": rate} | _achieved(result, manifest, rate)


def _achieved(result: Result, manifest: Manifest, rate: float) -> Row:
    """What the labels of the test images say of the run's threshold."""
    scores = join_by_image(read_table(result.path / "image_scores.arrow"), manifest.table)
    test = scores.filter((pc.field("split") == "test") & pc.field("label").is_valid())
    normal, anomalous = (
        test.filter(pc.field("label") == label)["score"].to_numpy().astype(np.float64) for label in (0, 1)
    )
    threshold = float(result.threshold["threshold"])
    return {
        "had": float((normal > threshold).mean()),
        "found": float((anomalous > threshold).mean()),
        "found_at_true_rate": float((anomalous > np.quantile(normal, 1 - rate, method="higher")).mean()),
        "num_normal": len(normal),
        "residual": result.metrics["residual_contamination"],
    }


def _summary(rows: Sequence[Row]) -> str:
    lines = ["| alpha | asked | had | found | true rate | found / true rate |", "|---|---|---|---|---|---|"]
    for alpha, asked in dict.fromkeys((row["alpha"], row["asked"]) for row in rows):
        mine = [row for row in _over_seeds(rows) if (row["alpha"], row["asked"]) == (alpha, asked)]
        had, found, true = ([float(row[key]) for row in mine] for key in ("had", "found", "found_at_true_rate"))
        cells = " | ".join(f"{statistics.median(one):.3f} ({statistics.mean(one):.3f})" for one in (had, found, true))
        lines.append(f"| {alpha:g} | {asked:.2f} | {cells} | {sum(found) / sum(true):.2f} |")
    return "\n".join(lines)


def _table(rows: Sequence[Row]) -> str:
    lines = ["| set | alpha | kept anomalous | asked | had | found | true rate |", "|---|---|---|---|---|---|---|"]
    for row in _over_seeds(rows):
        lines.append(
            f"| {row['set']} | {row['alpha']:g} | {row['residual']:.3f} | {row['asked']:.2f} | {row['had']:.3f} | "
            f"{row['found']:.2f} | {row['found_at_true_rate']:.2f} |"
        )
    return "\n".join(lines)


def _over_seeds(rows: Sequence[Row]) -> Iterator[Row]:
    """Means over the seeds of each set, alpha and rate."""
    keys, figures = ("set", "alpha", "asked"), ("had", "found", "found_at_true_rate", "residual")
    for cell in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        mine = [row for row in rows if tuple(row[key] for key in keys) == cell]
        yield dict(zip(keys, cell, strict=True)) | {key: statistics.mean(row[key] for row in mine) for key in figures}


if __name__ == "__main__":
    main()
