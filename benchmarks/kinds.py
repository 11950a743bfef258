"""Does the kind of detector have to be chosen?  Memory bank and reconstruction on the sets of `suite.py`.

    OMP_NUM_THREADS=1 python benchmarks/kinds.py --out runs/kinds

Runs configs/reconstruction_cnn.yaml on every set x alpha, unfiltered.  The memory bank's figures are those rows of
benchmarks/suite.parquet that have the same sets, alphas and seeds.  The regret of a way on a set is what the better
unfiltered kind has more, in points, mean over alphas.  What is there already is not run again.  Writes
benchmarks/kinds.md, and the raw rows as CSV beside it.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from itertools import groupby
from pathlib import Path
from statistics import mean

import pyarrow.parquet as pq
from harness import Row, setting, tell, write_rows
from suite import SETS, suite_config

import llb_ray
from llb_ray.scans.job_results import DONE

HERE = Path(__file__).parent
WAYS = (("memory_bank", "none"), ("memory_bank", "llb"), ("reconstruction", "none"))
UNFILTERED = [way for way in WAYS if way[1] == "none"]
KNOWN = ("category", "alpha", "filter", "seed", "i_auroc", "aupro")
Way = tuple[str, str]  # kind and filter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--result", type=Path, default=HERE / "kinds.md")
    arguments = parser.parse_args()
    rows = [*_remembered(arguments), *_reconstructed(arguments)]
    write_rows(rows, arguments.result.with_suffix(".csv"))
    arguments.result.write_text(_page(rows, arguments))
    print(arguments.result.read_text())


def _remembered(arguments: argparse.Namespace) -> Iterator[Row]:
    """The memory bank's rows of the suite."""
    for row in pq.read_table(HERE / "suite.parquet").to_pylist():
        if (
            row["category"] in arguments.sets
            and ("memory_bank", row["filter"]) in WAYS
            and row["seed"] < arguments.seeds
        ):
            yield {"kind": "memory_bank"} | {name: row[name] for name in KNOWN}


def _reconstructed(arguments: argparse.Namespace) -> Iterator[Row]:
    for category in arguments.sets:
        seeds, out = range(arguments.seeds), arguments.out / category
        config = suite_config(category, ["none"], SETS[category][1], seeds, [], recipe="reconstruction_cnn")
        for row in llb_ray.scan(config, out=out, executor="serial", tell=tell).to_pylist():
            if row["status"] != DONE:
                sys.exit(f"{out}: {row['reason']}")
            yield {"kind": "reconstruction"} | {known: row[known] for known in KNOWN}


def _page(rows: Sequence[Row], arguments: argparse.Namespace) -> str:
    command = "python benchmarks/kinds.py " + " ".join(sys.argv[1:])
    figures = _figures(rows)
    seeds = f"{arguments.seeds} seed{'s' * (arguments.seeds > 1)}"
    titles = " | ".join(f"{kind}, {name}" for kind, name in WAYS)
    return (
        f"# Memory bank and reconstruction on ten real sets, {date.today()}\n\n{setting(command)}\n\n"
        f"{seeds}; image AUROC at alpha 0 / .1 / .2 / .4 as far as a set has them.\n\n"
        f"| set | {titles} |\n|---|{'---|' * len(WAYS)}\n"
        + "\n".join(_set_line(category, figures) for category in arguments.sets)
        + "\n\n## Regret\n\nPoints that the better unfiltered kind has more: mean over alphas, then over sets."
        "\n\n| always | mean | worst set | sets above 5 |\n|---|---|---|---|\n"
        + "\n".join(_regret_line(way, arguments.sets, figures) for way in WAYS)
        + f"\n\nRaw rows: {arguments.result.stem}.csv\n"
    )


def _figures(rows: Sequence[Row]) -> Mapping[tuple[Way, str], Mapping[float, float]]:
    """I-AUROC by kind, filter and set, and then by alpha; mean over seeds."""

    def key(row: Row) -> tuple[Way, str]:
        return (row["kind"], row["filter"]), row["category"]

    found: dict[tuple[Way, str], Mapping[float, float]] = {}
    for cell, mine in groupby(sorted(rows, key=key), key):
        by_alpha: dict[float, list[float]] = {}
        for row in mine:
            by_alpha.setdefault(row["alpha"], []).append(row["i_auroc"])
        found[cell] = {alpha: mean(by_alpha[alpha]) for alpha in sorted(by_alpha)}
    return found


def _set_line(category: str, figures: Mapping[tuple[Way, str], Mapping[float, float]]) -> str:
    told = [" ".join(f"{value:.3f}" for value in figures[way, category].values()) for way in WAYS]
    return f"| {category} | " + " | ".join(told) + " |"


def _regret_line(way: Way, sets: Sequence[str], figures: Mapping[tuple[Way, str], Mapping[float, float]]) -> str:
    regret = {category: _regret(way, category, figures) for category in sets}
    worst = max(regret, key=lambda category: regret[category])
    above = sum(points > 5 for points in regret.values())
    return f"| {way[0]}, {way[1]} | {mean(regret.values()):.1f} | {regret[worst]:.1f} ({worst}) | {above} |"


def _regret(way: Way, category: str, figures: Mapping[tuple[Way, str], Mapping[float, float]]) -> float:
    mine = figures[way, category]
    return 100 * mean(
        max(figures[kind, category][alpha] for kind in UNFILTERED) - value for alpha, value in mine.items()
    )


if __name__ == "__main__":
    main()
