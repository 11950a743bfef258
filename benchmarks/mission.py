"""What does the search of configs/spaces/mission.yaml find on real photographs?  Sets of `suite.py`, contaminated.

    OMP_NUM_THREADS=1 python benchmarks/mission.py --out runs/mission

`llb-ray tune` of the reconstruction over partition count, keep ratio and target Gaussian, at random, judged by the
default objective without a label.  Then every trial is run once more on the same training images with the labelled test
images, for its true image AUROC; so is the recipe without a search.  Data is looked for under LLB_DATA (default
../shared/data).  A search that was finished is not made again.  Writes benchmarks/mission.md, the raw rows beside it,
and the picture of the first set's trials.
"""

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from harness import Row, kept_rows, setting, tell, write_rows
from objectives import Case, correlation, with_true_test

import llb_ray
from llb_ray import Manifest, RunConfig
from llb_ray.config import load, with_overrides
from llb_ray.data.manifest import TRAIN
from llb_ray.search.search_plan import trial_images
from llb_ray.search.space import read_space, trial_config
from llb_ray.search.trials import FINISHED

HERE = Path(__file__).parent
SPACE = HERE.parent / "configs" / "spaces" / "mission.yaml"
RECIPE = HERE.parent / "configs" / "reconstruction_cnn.yaml"
NO_SEARCH: Mapping[str, object] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["glass_fabric", "commutator"])
    parser.add_argument("--alpha", type=float, default=0.2)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--result", type=Path, default=HERE / "mission.md")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for name in arguments.sets:
        out = arguments.out / name
        rows += kept_rows(out / "rows.json", partial(_searched, name, out, arguments))
    picture = arguments.result.with_suffix(".png")
    shutil.copyfile(arguments.out / arguments.sets[0] / "trials.png", picture)
    write_rows(rows, arguments.result.with_suffix(".csv"))
    command = "python benchmarks/mission.py " + " ".join(sys.argv[1:])
    arguments.result.write_text(
        f"# The search of the mission on real photographs, {date.today()}\n\n{setting(command)}\n\n"
        f"{arguments.trials} random trials of `configs/spaces/mission.yaml` with the recipe {RECIPE.name} on each set "
        f"at alpha {arguments.alpha:g}, seed 0.  True image AUROC, which no trial knew.\n\n{_table(rows)}\n\n"
        f"## Every trial\n\n{_trials(rows)}\n\n"
        f"![The objective against each setting, {arguments.sets[0]}]({picture.name})\n\n"
        f"Raw rows: {arguments.result.stem}.csv\n"
    )
    print(arguments.result.read_text())


def _searched(name: str, out: Path, arguments: argparse.Namespace) -> Iterator[Row]:
    """A row for every trial of a search, and one for the recipe without a search, trained on the same images."""
    config = load(RECIPE)
    manifest = Case(name, arguments.alpha, 0, out).manifest(config)
    ways: dict[str, Any] = {"searcher": "random", "trials": arguments.trials, "max_concurrent": 1}
    table = llb_ray.tune(config, manifest, read_space(SPACE, config), out=out, tell=tell, **ways)
    train = set(trial_images("canary", manifest, None, out.absolute(), config).image_ids(TRAIN))
    truth = with_true_test(manifest, train)
    for trial in table.to_pylist():
        if trial["status"] != FINISHED:
            sys.exit(f"{out}: trial {trial['trial']} {trial['status']}: {trial['reason']}")
        settings = json.loads(trial["settings"])
        yield {"set": name, **settings, "objective": trial["objective"]} | _truth(config, settings, truth, out)
    yield {"set": name, "objective": None} | _truth(config, NO_SEARCH, truth, out)


def _truth(config: RunConfig, settings: Mapping[str, object], truth: Manifest, out: Path) -> Row:
    chosen = with_overrides(trial_config(config, settings), ["threshold.method=none"])  # it needs further fits
    result = llb_ray.run(chosen, truth, out=out / "truth", store=out / "artifacts", executor="serial", tell=tell)
    return {name: result.metrics[name] for name in ("i_auroc", "residual_contamination", "normals_lost")}


def _table(rows: Sequence[Row]) -> str:
    lines = ["| set | no search | chosen | mean of trials | best possible | Spearman |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(row["set"] for row in rows):
        mine = [row for row in rows if row["set"] == name]
        trials = [row for row in mine if row["objective"] is not None]
        (plain,) = (row["i_auroc"] for row in mine if row["objective"] is None)
        chosen = max(trials, key=lambda row: row["objective"])["i_auroc"]
        aurocs = [row["i_auroc"] for row in trials]
        figures = " | ".join(f"{value:.3f}" for value in (plain, chosen, statistics.mean(aurocs), max(aurocs)))
        rank = correlation(trials, "objective")
        lines.append(f"| {name} | {figures} | {'-' if rank is None else f'{rank:.2f}'} |")
    return "\n".join(lines)


def _trials(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(_cell(row.get(name)) for name in names) + " |" for row in rows)])


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
