"""Does the demo's purification help?  Synthetic fabric at alpha 0.2, three seeds, against the three controls.

    python benchmarks/demo_filters.py --out runs/demo_filters

Each seed makes its own photographs and is run in a process of its own with the serial executor.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from harness import METRICS, Row, setting, sweep, table, write_rows

import llb_ray

CATEGORY, ALPHA, SIZE_PX = "weave", 0.2, 224
CONFIG = Path(__file__).parent.parent / "configs" / "demo.yaml"


def one_seed(out: Path, seed: int) -> list[Row]:
    """The rows of every filter on the photographs of one seed."""
    config = llb_ray.load_config(CONFIG)
    root = out / f"photos{seed}" / CATEGORY
    if not root.exists():
        llb_ray.synth(root.parent, categories=[CATEGORY], alpha=ALPHA, seed=seed, size_px=SIZE_PX)
    manifest = llb_ray.read_folder(root, config)
    return list(sweep(config, lambda alpha, seed: manifest, [ALPHA], [seed], lambda alpha: 1 - alpha, out, "serial"))


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
