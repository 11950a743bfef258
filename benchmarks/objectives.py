"""Do objectives that read no label rank settings as the labelled test set does?

    python benchmarks/objectives.py --out runs/objectives

Magnetic tile (memory bank on MobileNetV2) and synthetic gears (the demo's autoencoder), 12 trials each.  A trial is
run twice on the same training images.  The first run's manifest holds those, the held-back images and the canaries,
and no label: it gives the objectives.  The second has the labelled test images instead: it gives the true image AUROC,
and nothing else of it is read.  Data and weights are looked for under LLB_DATA (default ../shared/data).  Writes
benchmarks/objectives.md and the raw rows beside it.
"""

import argparse
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from harness import Row, setting, write_rows
from scipy.stats import spearmanr

import llb_ray
from llb_ray import Manifest, RunConfig
from llb_ray.config import load
from llb_ray.data.contaminate import contaminate_manifest
from llb_ray.data.manifest import TEST, TRAIN
from llb_ray.errors import DataError
from llb_ray.metrics.image_metrics import image_metrics
from llb_ray.search.canary import with_canaries
from llb_ray.search.objective import TRUSTED, canary, canary_recall, canary_scores, separation, split_half
from llb_ray.search.space import trial_config

HERE = Path(__file__).parent
DATA = Path(os.environ.get("LLB_DATA", HERE.parent.parent / "shared" / "data"))
NUM_IMAGES = 300  # of magnetic tile, before any is held back
TILE_SETTINGS = ["detector.coreset_size=1000", "resources.num_cpus=1"]
TILE_SPACE = {
    "members.count": (3, 6),
    "purify.keep_ratio": (0.5, 0.7, 0.95),
    "detector.coreset": ("k_center", "random"),
}
GEAR_SPACE = {"members.count": (3, 6), "purify.keep_ratio": (0.6, 0.8, 0.95), "importance.mode": ("off", "moments")}


def canary_auroc(run: Path, share: float = 1.0) -> float:
    """AUROC of the canaries against the `share` of the held-back images with the lowest scores."""
    held_back_N, canary_N = canary_scores(run)
    normal_M = np.sort(held_back_N)[: round(share * len(held_back_N))]
    label = np.repeat([0, 1], [len(normal_M), len(canary_N)])
    return float(image_metrics(np.concatenate([normal_M, canary_N]), label)["i_auroc"] or 0)


MEASURES: dict[str, Callable[[Path], float]] = {
    "canary": canary,
    "canary_recall": canary_recall,
    "canary_auroc": canary_auroc,
    "canary_auroc, trusted": partial(canary_auroc, share=TRUSTED),
    "split_half": split_half,
    "separation": separation,
}


@dataclass(frozen=True)
class Case:
    """A contaminated set and what is searched on it."""

    name: str
    alpha: float
    seed: int
    base: RunConfig
    manifest: Manifest
    space: dict[str, tuple[object, ...]]

    def trials(self, out: Path) -> Iterator[Row]:
        """A row per combination; all share the artifacts in one folder, the two runs of a trial included."""
        searched = with_canaries(self.manifest, out / "canaries", self.base, self.seed)
        truth = tested_truly(self.manifest, set(searched.image_ids(TRAIN)))
        for values in itertools.product(*self.space.values()):
            trial = dict(zip(self.space, values, strict=True))
            config, started = trial_config(self.base, trial), time.perf_counter()
            llb_ray.run(config, searched, out=out / "run", executor="serial")
            row: Row = {"set": self.name, "alpha": self.alpha, "seed": self.seed, **trial}
            row |= {name: _or_nan(measure, out / "run") for name, measure in MEASURES.items()}
            row["seconds"] = time.perf_counter() - started
            result = llb_ray.run(config, truth, out=out / "run", executor="serial")
            row |= {name: result.metrics[name] for name in ("i_auroc", "residual_contamination")}
            print(self.name, self.alpha, self.seed, trial, f"{row['i_auroc']:.4f}", file=sys.stderr, flush=True)
            yield row


def tested_truly(manifest: Manifest, train: set[str]) -> Manifest:
    """The labelled test images, and the training images that the search trained on; without masks, which take time."""
    table = manifest.table
    chosen = pc.or_(pc.equal(table["split"], TEST), pc.is_in(table["image_id"], pa.array(sorted(train))))
    column = table.column_names.index("mask_path")
    return Manifest.of(
        manifest.root, table.set_column(column, "mask_path", pa.nulls(len(table), pa.string())).filter(chosen)
    )


def cases(out: Path, seeds: Sequence[int]) -> Iterator[Case]:
    """Every set, noise level and seed."""
    weights = [
        "detector.backbone.name=mobilenetv2_100",
        f"detector.backbone.weights={DATA / 'weights' / 'mobilenetv2_100.safetensors'}",
    ]
    bank = HERE.parent / "configs" / "memory_bank.yaml"
    everything = llb_ray.read_folder(DATA / "magnetic_tile", load(bank, weights))
    for alpha, seed in itertools.product((0.1, 0.3), seeds):
        base = load(bank, [*weights, *TILE_SETTINGS, f"seed={seed}"])
        manifest = contaminate_manifest(everything, NUM_IMAGES, alpha, seed)
        yield Case("magnetic tile", alpha, seed, base, manifest, TILE_SPACE)
    for seed in seeds:
        base = load(HERE.parent / "configs" / "autoencoder.yaml", [f"seed={seed}"])
        photos = out / f"photos{seed}" / "gear"
        if not photos.exists():
            llb_ray.synth(photos.parent, categories=["gear"], alpha=0.2, seed=seed)
        yield Case("gears", 0.2, seed, base, llb_ray.read_folder(photos, base), GEAR_SPACE)


def _or_nan(measure: Callable[[Path], float], run: Path) -> float:
    try:
        return measure(run)
    except DataError:
        return float("nan")


def correlation(rows: Sequence[Row], name: str) -> float:
    """Spearman's, over the trials of one case that the objective is defined on; NaN where it cannot tell them apart."""
    pairs = np.array([(row[name], row["i_auroc"]) for row in rows if np.isfinite(row[name])])
    return float(spearmanr(pairs).statistic) if len(pairs) > 2 and np.ptp(pairs[:, 0]) else float("nan")


def chosen(rows: Sequence[Row], name: str) -> float:
    """The true image AUROC of the trial that the objective likes best; the mean of those where several tie."""
    top = np.nanmax([row[name] for row in rows])
    return statistics.mean(row["i_auroc"] for row in rows if row[name] == top)


def tables(rows: Sequence[Row]) -> str:
    """Markdown: how each objective ranks the trials, and what its choice is worth."""
    by_case: dict[tuple[str, float], list[list[Row]]] = {}
    for (name, alpha, _), group in itertools.groupby(rows, lambda row: (row["set"], row["alpha"], row["seed"])):
        by_case.setdefault((name, alpha), []).append(list(group))
    everything = [group for groups in by_case.values() for group in groups]
    columns = [*by_case.values(), everything]
    head = " | ".join([*(f"{name}, alpha {alpha:g}" for name, alpha in by_case), "all"])
    rule = "---|" * (len(columns) + 1)
    ranks = [_line(name, [[correlation(g, name) for g in groups] for groups in columns], 2) for name in MEASURES]
    worth = [_line(name, [[chosen(g, name) for g in groups] for groups in columns], 3) for name in MEASURES]
    truths = [[[row["i_auroc"] for row in g] for g in groups] for groups in columns]
    ends = {"mean of all trials": statistics.mean, "best possible": max, "worst possible": min}
    worth += [_line(name, [[end(t) for t in groups] for groups in truths], 3) for name, end in ends.items()]
    return (
        f"Spearman's correlation with the true I-AUROC over the trials:\n\n| objective | {head} |\n|{rule}\n"
        + "\n".join(ranks)
        + f"\n\nTrue I-AUROC of the trial that each objective chooses:\n\n| chosen by | {head} |\n|{rule}\n"
        + "\n".join(worth)
    )


def _line(name: str, columns: Sequence[Sequence[float]], digits: int) -> str:
    return f"| {name} | " + " | ".join(_spread(values, digits) for values in columns) + " |"


def _spread(values: Sequence[float], digits: int) -> str:
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return "-"
    spread = statistics.stdev(known) if len(known) > 1 else 0
    return f"{statistics.mean(known):.{digits}f} ± {spread:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--result", type=Path, default=HERE / "objectives.md")
    arguments = parser.parse_args()
    if not (DATA / "magnetic_tile").is_dir():
        sys.exit(f"{DATA}/magnetic_tile is missing: set LLB_DATA to the folder that holds it")
    rows: list[Row] = []
    for case in cases(arguments.out, arguments.seeds):
        rows += case.trials(arguments.out / f"{case.name.replace(' ', '_')}-alpha{case.alpha:g}-seed{case.seed}")
    write_rows(rows, arguments.result.with_suffix(".csv"))
    command = "python benchmarks/objectives.py " + " ".join(sys.argv[1:])
    arguments.result.write_text(
        f"# Objectives without labels against the labelled test set, {date.today()}\n\n{setting(command)}\n\n"
        f"Seeds {', '.join(map(str, arguments.seeds))}; mean ± sd over the settings in the column's title.  15 % of "
        f"the training images are held back ({NUM_IMAGES} of magnetic tile, 220 gears, before).\n\n"
        f"{tables(rows)}\n\nRaw rows: {arguments.result.stem}.csv\n"
    )
    print(arguments.result.read_text())


if __name__ == "__main__":
    main()
