"""Would the constants of the default be others without the set that they are judged on?  One set left out at a time.

    OMP_NUM_THREADS=1 python benchmarks/leave_out.py --out runs/leave_out

Constants and settings of the default that were chosen on data are listed in `CHOICES`, with their other candidates.
For each set of `suite.py` the candidate with the best mean over the other sets is chosen, and its figures on this set
are compared with those of the shipped value.  Detector choices are judged without a filter, those of the estimate with
filter llb; I-AUROC, clean and with a fifth of anomalies, one seed.  Features, and for the estimate the members' scores,
are computed once and linked.  What is there already is not run again.  Writes benchmarks/leave_out.md, and the raw rows
as CSV beside it.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from shutil import copytree, ignore_patterns
from statistics import mean
from typing import NamedTuple
from unittest.mock import patch

from harness import Row, setting, write_rows
from suite import SETS, suite_config

import llb_ray
from llb_ray.scans.job_results import DONE
from llb_ray.scans.scan_plan import CONFIG

HERE = Path(__file__).parent
ALPHAS, SEEDS = (0, 0.2), (0,)


class Choice(NamedTuple):
    """A constant (module and name) or a setting (dotted key), and its candidates, the shipped one first."""

    candidates: Sequence[object]
    filter: str = "none"
    module: str = ""  # of a constant


DETECTORS, ENSEMBLE = "llb_ray.detectors", "llb_ray.ensemble"
CHOICES: Mapping[str, Choice] = {
    "detector.patches": Choice(("detailed", "averaged")),
    "detector.memory": Choice(("by_filter", "plain")),
    "detector.context": Choice((True, False)),
    "detector.neighbourhood": Choice((3, 1, 5)),
    "TOP_SHARE": Choice((0.05, 0.02, 0.1), module=f"{DETECTORS}.memory_bank"),
    "SHRINKAGE": Choice((0.1, 0.03, 0.3), module=f"{DETECTORS}.place_gaussians"),
    "purify.doubted": Choice((0.1, 0, 0.05, 0.2), "llb"),
    "DOUBTED": Choice((0.75, 0.6, 0.9), "llb", f"{ENSEMBLE}.trust"),
    "_SEPARATIONS": Choice(((2.75, 3.25), (2.25, 2.75), (3.25, 3.75)), "llb", f"{ENSEMBLE}.contamination"),
    "_CLEAR_EVIDENCE": Choice((0.6, 0.4, 1), "llb", f"{ENSEMBLE}.contamination"),
    "_TAIL": Choice((1.8, 1.5, 2.2), "llb", f"{ENSEMBLE}.contamination"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--choices", nargs="+", choices=list(CHOICES), default=list(CHOICES))
    parser.add_argument("--result", type=Path, default=HERE / "leave_out.md")
    arguments = parser.parse_args()
    rows = [row for name in arguments.choices for row in _measured(name, arguments.sets, arguments.out)]
    write_rows(rows, arguments.result.with_suffix(".csv"))
    arguments.result.write_text(_page(rows, arguments))
    print(arguments.result.read_text())


def _measured(name: str, sets: Sequence[str], out: Path) -> Iterator[Row]:
    """A row for each candidate and cell of one choice."""
    choice = CHOICES[name]
    for place, candidate in enumerate(choice.candidates):
        shipped = place == 0
        for category in sets:
            folder = out / (choice.filter if shipped else f"{name}={candidate}") / category
            for cell in _cells(name, choice, candidate, shipped, category, folder):
                yield {"choice": name, "candidate": candidate, "shipped": shipped, "set": category} | cell


def _cells(
    name: str, choice: Choice, candidate: object, shipped: bool, category: str, folder: Path
) -> Iterator[Mapping[str, object]]:
    overrides = [] if shipped or choice.module else [f"{name}={str(candidate).lower()}"]
    alphas = [alpha for alpha in SETS[category][1] if alpha in ALPHAS]
    config = suite_config(category, [choice.filter], alphas, SEEDS, overrides)
    patched = choice.module and not shipped
    if not shipped and not folder.exists():
        _begin(choice, folder.parents[1] / choice.filter / category / "artifacts", folder)
    with patch(f"{choice.module}.{name}", candidate) if patched else nullcontext():
        table = llb_ray.scan(config, out=folder, executor="serial")
    for row in table.to_pylist():
        if row["status"] != DONE:
            sys.exit(f"{folder}: {row['reason']}")
        yield {"alpha": row["alpha"], "i_auroc": row["i_auroc"]}


def _begin(choice: Choice, shipped: Path, folder: Path) -> None:
    """Give the scan of a candidate those artifacts of the shipped value that the choice does not reach.

    A constant of a module is in no artifact's key, so what depends on it may not be there.
    """
    changed = ["purify*"] if choice.filter == "llb" else ["fit", "score*", "purify*", "pool", "evaluate"]
    copytree(shipped, folder / "artifacts", copy_function=os.link, ignore=ignore_patterns(*changed))
    (folder / CONFIG).touch()  # a folder of a scan, not somebody's files


def _page(rows: Sequence[Row], arguments: argparse.Namespace) -> str:
    command = "python benchmarks/leave_out.py " + " ".join(sys.argv[1:])
    return (
        f"# The default's constants, one set left out, {date.today()}\n\n{setting(command)}\n\n"
        f"{len(arguments.sets)} sets, alpha {' and '.join(f'{alpha:g}' for alpha in ALPHAS)}, one seed.  *shipped*: "
        "mean I-AUROC over sets; *left out*: the same where, for each set, the candidate is taken that is best on the "
        "others; *in sample*: of the best candidate over all sets; *chosen*: how often each candidate was.\n\n"
        "| choice | shipped | left out | in sample | worst set, left out less shipped | chosen |\n"
        "|---|---|---|---|---|---|\n"
        + "\n".join(_line(name, [row for row in rows if row["choice"] == name]) for name in arguments.choices)
        + f"\n\nRaw rows: {arguments.result.stem}.csv\n"
    )


def _line(name: str, rows: Sequence[Row]) -> str:
    candidates = list(dict.fromkeys(row["candidate"] for row in rows))
    sets = list(dict.fromkeys(str(row["set"]) for row in rows))
    score = {
        (candidate, category): mean(
            float(str(row["i_auroc"])) for row in rows if (row["candidate"], row["set"]) == (candidate, category)
        )
        for candidate in candidates
        for category in sets
    }

    def best(among: Sequence[str]) -> object:
        return max(candidates, key=lambda candidate: mean(score[candidate, category] for category in among))

    chosen = {left: best([category for category in sets if category != left]) for left in sets}
    lost = {left: score[chosen[left], left] - score[candidates[0], left] for left in sets}
    worst = min(lost, key=lambda left: lost[left])
    means = (
        mean(score[candidates[0], category] for category in sets),
        mean(score[chosen[category], category] for category in sets),
        mean(score[best(sets), category] for category in sets),
    )
    counts = ", ".join(f"{candidate} {[*chosen.values()].count(candidate)}" for candidate in candidates)
    figures = " | ".join(f"{value:.3f}" for value in means)
    return f"| {name} | {figures} | {100 * lost[worst]:+.1f} ({worst}) | {counts} |"


if __name__ == "__main__":
    main()
