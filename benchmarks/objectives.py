"""Do objectives that read no label rank settings as the labelled test set does?  On the sets of `suite.py`.

    OMP_NUM_THREADS=1 python benchmarks/objectives.py --out runs/objectives

Every set, clean and contaminated, is a search of 14 trials: the memory bank's patches, memory and keep ratio, and the
reconstruction.  A trial is run twice on the same training images.  The first run's manifest holds those, the held-back
images and the canaries, and no label: it gives the objectives.  The second has the labelled test images instead: it
gives the true image AUROC, and nothing else of it is read.  Data is looked for under LLB_DATA (default
../shared/data).  A search that was finished is not run again, and its artifacts are removed.  Writes
benchmarks/objectives.md and the raw rows, with the scores of held-back images and canaries, beside it.
"""

import argparse
import itertools
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from certify import HERE
from harness import Row, kept_rows, setting, tell
from scipy import stats
from suite import SETS, suite_root

import llb_ray
from llb_ray import Manifest, RunConfig
from llb_ray.config import load
from llb_ray.data.contaminate import contaminate_manifest
from llb_ray.data.manifest import TEST, TRAIN
from llb_ray.errors import DataError
from llb_ray.search.canary import with_canaries
from llb_ray.search.objective import (
    canary_order,
    canary_scores,
    outscored,
    separation,
    split_half,
    trusted,
)
from llb_ray.search.space import trial_config

Floats = npt.NDArray[np.float64]
ALPHAS = (0, 0.2)  # the second as far as a set has it
SPACES: Mapping[str, Mapping[str, Sequence[object]]] = {
    "memory_bank": {
        "detector.patches": ("detailed", "averaged"),
        "detector.memory": ("by_filter", "plain"),
        "purify.keep_ratio": ("auto", 0.7, 1.0),
    },
    "reconstruction_cnn": {"purify.keep_ratio": ("auto", 1.0)},
}
DEFAULT = {"kind": "memory_bank", "detector.patches": "detailed", "detector.memory": "by_filter"} | {
    "purify.keep_ratio": "auto"
}


# Of the scores of held-back images [N] and of the canaries made of them [N].
OF_CANARIES: Mapping[str, Callable[[Floats, Floats], float]] = {
    "canary": canary_order,
    "auroc": lambda held, canary: outscored(canary[:, None], held),
    "trusted auroc": lambda held, canary: outscored(canary[:, None], trusted(held)),
    "wins": lambda held, canary: outscored(canary, held),
    "rise": lambda held, canary: float(np.median(canary - held) / stats.iqr(held)),
    "recall": lambda held, canary: float((canary > np.quantile(trusted(held), 0.9)).mean()),
}
OF_MEMBERS: Mapping[str, Callable[[Path], float]] = {"split_half": split_half, "separation": separation}
MEANINGS = (
    "*canary*: the default, mean of *auroc* and *wins*; *auroc*: of the canaries against the held-back images; "
    "*trusted auroc*: against the 60 % of these with the lowest scores; *wins*: share of canaries that score above the "
    "picture they were made of; *rise*: the median rise in interquartile ranges, the default before; *recall*: share "
    "above what a tenth of the trusted images exceeds.  The last two know the sub-models alone."
)
MEASURES = (*OF_CANARIES, *OF_MEMBERS)


@dataclass(frozen=True)
class Case:
    """A contaminated set that is searched on."""

    name: str
    alpha: float
    seed: int
    out: Path

    def rows(self) -> Iterator[Row]:
        """A row per trial; all share the artifacts in one folder, the two runs of a trial included."""
        folder = self.out / "search"
        base = self.configs()["memory_bank"]
        manifest = self.manifest(base)
        try:
            searched = with_canaries(manifest, folder / "canaries", base, self.seed)
        except DataError as error:
            tell(f"{self.name} {self.alpha:g} {self.seed}: {error}")
            return
        truth = with_true_test(manifest, set(searched.image_ids(TRAIN)))
        for kind, trial, config in self.trials():
            row = self._row(config, searched, truth, folder / "run")
            tell(f"{self.name} {self.alpha:g} {self.seed} {kind} {trial} {row['i_auroc']:.4f}")
            yield {"set": self.name, "alpha": self.alpha, "seed": self.seed, "kind": kind, **trial, **row}
        shutil.rmtree(folder)

    def manifest(self, config: RunConfig) -> Manifest:
        """The set as `suite.py` contaminates it."""
        num_objects, alphas = SETS[self.name]
        everything = llb_ray.read_folder(suite_root(self.name), config)
        return contaminate_manifest(everything, num_objects, self.alpha, self.seed, max(alphas))

    def configs(self) -> dict[str, RunConfig]:
        """The recipe of each kind of detector."""
        further = ["resources.num_cpus=1", f"seed={self.seed}"]
        return {kind: load(HERE.parent / "configs" / f"{kind}.yaml", further) for kind in SPACES}

    def trials(self) -> Iterator[tuple[str, dict[str, object], RunConfig]]:
        """Kind, settings and configuration of every trial."""
        for kind, base in self.configs().items():
            for values in itertools.product(*SPACES[kind].values()):
                trial = dict(zip(SPACES[kind], values, strict=True))
                yield kind, {name: str(value) for name, value in trial.items()}, trial_config(base, trial)

    @staticmethod
    def _row(config: RunConfig, searched: Manifest, truth: Manifest, run: Path) -> Row:
        llb_ray.run(config, searched, out=run, executor="serial")
        row: Row = {name: _or_none(measure, run) for name, measure in OF_MEMBERS.items()}
        row |= dict(zip(("held_back", "canaries"), (one.tolist() for one in canary_scores(run)), strict=True))
        result = llb_ray.run(config, truth, out=run, executor="serial")
        return row | {name: result.metrics[name] for name in ("i_auroc", "residual_contamination")}


def with_true_test(manifest: Manifest, train: set[str]) -> Manifest:
    """The labelled test images, and the training images that the search trained on; without masks, which take time."""
    table = manifest.table
    chosen = pc.or_(pc.equal(table["split"], TEST), pc.is_in(table["image_id"], pa.array(sorted(train))))
    column = table.column_names.index("mask_path")
    return Manifest.of(
        manifest.root, table.set_column(column, "mask_path", pa.nulls(len(table), pa.string())).filter(chosen)
    )


def _with_measures(row: Row) -> Row:
    held_back_N, canary_N = (np.array(row[name]) for name in ("held_back", "canaries"))
    return row | {name: measure(held_back_N, canary_N) for name, measure in OF_CANARIES.items()}


def _or_none(measure: Callable[[Path], float], run: Path) -> float | None:
    try:
        return measure(run)
    except DataError:
        return None


def correlation(rows: Sequence[Row], name: str) -> float | None:
    """Spearman's, over the trials of one search that the objective is defined on; None where it is the same for all."""
    pairs = np.array([(row[name], row["i_auroc"]) for row in rows if row[name] is not None])
    return float(stats.spearmanr(pairs).statistic) if len(pairs) > 2 and np.ptp(pairs[:, 0]) else None


def regret(rows: Sequence[Row], name: str) -> float:
    """Points of image AUROC that the best trial has more than the one with the best objective; the mean of ties."""
    known = [row for row in rows if row[name] is not None]
    top = max(row[name] for row in known)
    return _below_best(rows, statistics.mean(row["i_auroc"] for row in known if row[name] == top))


def _below_best(rows: Sequence[Row], auroc: float) -> float:
    return 100 * (max(row["i_auroc"] for row in rows) - auroc)


def _default_regret(rows: Sequence[Row]) -> float:
    (mine,) = (row for row in rows if all(row[name] == value for name, value in DEFAULT.items()))
    return _below_best(rows, mine["i_auroc"])


WITHOUT: Mapping[str, Callable[[Sequence[Row]], float]] = {  # ways to choose that are no objective
    "the default, no search": _default_regret,
    "a trial at random": lambda rows: _below_best(rows, statistics.mean(row["i_auroc"] for row in rows)),
    "the worst trial": lambda rows: _below_best(rows, min(row["i_auroc"] for row in rows)),
}


def tables(rows: Sequence[Row]) -> str:
    """Markdown: how each objective ranks all trials and those of the memory bank alone, and what its choice costs."""
    everything = list(_searches(rows))
    bank = [[row for row in search if row["kind"] == "memory_bank"] for search in everything]
    lines = ["| objective | kinds | Spearman | searches above 0 | regret | worst set |", "|---|---|---|---|---|---|"]
    for kinds, searches in (("both", everything), ("memory bank", bank)):
        lines += [_line(name, kinds, searches, [correlation(s, name) for s in searches]) for name in MEASURES]
        lines += [f"| {name} | {kinds} | | | {_regret_cells(way, searches)} |" for name, way in WITHOUT.items()]
    return "\n".join(lines)


def _searches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    for _, group in itertools.groupby(rows, lambda row: (row["set"], row["alpha"], row["seed"])):
        yield list(group)


def _line(name: str, kinds: str, searches: Sequence[Sequence[Row]], ranks: Sequence[float | None]) -> str:
    known = [rank for rank in ranks if rank is not None]
    above = f"{sum(rank > 0 for rank in known)} of {len(known)}"
    rank = f"{statistics.mean(known):.2f} ± {statistics.stdev(known):.2f}"
    return f"| `{name}` | {kinds} | {rank} | {above} | {_regret_cells(lambda one: regret(one, name), searches)} |"


def _regret_cells(way: Callable[[Sequence[Row]], float], searches: Sequence[Sequence[Row]]) -> str:
    """Mean and sd of the regret over searches, and the set with the largest mean."""
    found = [(search[0]["set"], way(search)) for search in searches]
    by_set = {name: statistics.mean(value for one, value in found if one == name) for name, _ in found}
    worst = max(by_set, key=lambda name: by_set[name])
    values = [value for _, value in found]
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} | {by_set[worst]:.1f} ({worst})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--result", type=Path, default=HERE / "objectives.md")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for name, alpha, seed in itertools.product(arguments.sets, ALPHAS, range(arguments.seeds)):
        mixed = min(alpha, max(SETS[name][1]))
        case = Case(name, mixed, seed, arguments.out / f"{name}-alpha{mixed:g}-seed{seed}")
        case.out.mkdir(parents=True, exist_ok=True)
        rows += map(_with_measures, kept_rows(case.out / "rows.json", case.rows))
    pq.write_table(pa.Table.from_pylist(rows), arguments.result.with_suffix(".parquet"))
    command = "python benchmarks/objectives.py " + " ".join(sys.argv[1:])
    searched = dict.fromkeys(row["set"] for row in rows)
    small = [name for name in arguments.sets if name not in searched]
    arguments.result.write_text(
        f"# Objectives without labels against the labelled test sets, {date.today()}\n\n{setting(command)}\n\n"
        f"{len(list(_searches(rows)))} searches on {len(searched)} sets, clean and at alpha .2 (.1 where a set has no "
        f"more anomalies), {len(rows)} trials; 15 % of the training images are held back"
        + (f"; too few to hold any back: {', '.join(small)}" if small else "")
        + f".  Spearman's correlation of the objective with the true image AUROC, mean ± sd over searches; *regret*: "
        "points that the best trial has more than the chosen one.  "
        f"{MEANINGS}\n\n"
        f"{tables(rows)}\n\nRaw rows: {arguments.result.stem}.parquet\n"
    )
    print(arguments.result.read_text())


if __name__ == "__main__":
    main()
