"""What purification and a person's review are worth in the demo: synthetic fabric at alpha 0.2, three seeds.

    python benchmarks/demo_filters.py --out runs/demo_filters

One normal piece in twenty has a coloured thread, which scores cannot tell from a defect: the filter rejects them.
`llb, reviewed` is the same run after a person has kept these look-alikes in the report.  Each seed makes its own
photographs and is run in a process of its own with the serial executor.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pyarrow.compute as pc
from harness import METRICS, Row, setting, table, write_rows

import llb_ray
from llb_ray.config import with_overrides
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.ensemble.decision import REJECTED
from llb_ray.ensemble.overrides import KEEP

CATEGORY, ALPHA, SIZE_PX = "weave", 0.2, 224
CONFIG = Path(__file__).parent.parent / "configs" / "demo.yaml"
FILTERS = ("none", "oracle", "llb")  # the last is reviewed


def one_seed(out: Path, seed: int) -> list[Row]:
    """The rows of every filter on the photographs of one seed, and of the review of the last."""
    config = with_overrides(llb_ray.load_config(CONFIG), [f"seed={seed}"])
    root = out / f"photos{seed}" / CATEGORY
    if not root.exists():
        llb_ray.synth(root.parent, categories=[CATEGORY], alpha=ALPHA, seed=seed, size_px=SIZE_PX)
    manifest, folder = llb_ray.read_folder(root, config), out / f"seed{seed}"
    results = {
        name: llb_ray.run(
            with_overrides(config, [f"purify.filter={name}"]), manifest, out=folder, executor="serial"
        ).metrics
        for name in FILTERS
    }
    overrides = out / f"seed{seed}-overrides.csv"
    overrides.write_text(_kept_by_a_person(folder))
    reviewed = llb_ray.repurify(folder, overrides, out=out / f"seed{seed}-reviewed", executor="serial")
    results[f"{FILTERS[-1]}, reviewed"] = reviewed.metrics
    return [
        {"alpha": ALPHA, "seed": seed, "filter": name} | {metric: found.get(metric) for metric in METRICS}
        for name, found in results.items()
    ]


def _kept_by_a_person(folder: Path) -> str:
    """Decisions that keep the rejected pieces with a thread."""
    decided = FinishedRun(RunFolder.open(folder), None).purified.filter(pc.field("decision") == REJECTED)
    rows = [f"{row['image_id']},{KEEP}" for row in decided.to_pylist() if "_rare" in row["path"]]
    return "\n".join(["image_id,decision", *rows]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--result", type=Path, help="also write the table, with its setting and raw rows, to this .md")
    arguments = parser.parse_args()
    # spawn: a forked copy of a process that has loaded torch may deadlock
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        rows = [row for rows in pool.map(partial(one_seed, arguments.out), range(arguments.seeds)) for row in rows]
    print(f"\nSynthetic fabric, alpha {ALPHA:g}, {arguments.seeds} seeds, mean ± sd\n")
    print(table(rows, list(METRICS)))
    if arguments.result:
        write_rows(rows, arguments.result.with_suffix(".csv"))
        command = "python benchmarks/demo_filters.py " + " ".join(sys.argv[1:])
        arguments.result.write_text(
            f"# The demo's filters on synthetic fabric, {date.today()}\n\n{setting(command)}\n\n"
            f"220 training and 120 test images a seed, seeds 0 to {arguments.seeds - 1}, configs/demo.yaml; "
            "mean ± sd over seeds.\n\n"
            f"{table(rows, list(METRICS))}\n\nRaw rows: {arguments.result.stem}.csv\n"
        )


if __name__ == "__main__":
    main()
