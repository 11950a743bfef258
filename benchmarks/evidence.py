"""Which evidence per image tells anomalous training images best?  Ways to normalise, to combine and to repeat.

    OMP_NUM_THREADS=1 python benchmarks/evidence.py runs/certify_tile/scan runs/certify_juice/scan

Reads the features of the `llb` jobs of scans that benchmarks/certify.py made, deals their images to five members again
and again, and fits and scores these; nothing else of a job is read.  Every figure is an image AUROC over the training
images; their labels are read for it and for nothing else.  Writes benchmarks/evidence_density.md and the raw rows.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from harness import Row, llb_runs, setting, spread, training_labels, write_rows
from scipy import stats
from sklearn.metrics import roc_auc_score

from llb_ray.config import PurifyConfig
from llb_ray.detectors.density import Density
from llb_ray.detectors.density_config import DensityConfig
from llb_ray.engine.features.feature_access import CachedSource
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.ensemble.partition import partition, shares
from llb_ray.ensemble.purify import aggregate
from llb_ray.ensemble.score_matrix import ScoreMatrix

HERE = Path(__file__).parent
NUM_MEMBERS, BATCH = 5, 32
IN_USE = "held-out mean of ranks"
Floats = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--repeats", type=int, default=5, help="partitions")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.1, 0.2, 0.4])
    arguments = parser.parse_args()
    rows = [row for scan in arguments.scans for row in measured(scan, arguments)]
    result = HERE / "evidence_density.md"
    write_rows(rows, result.with_suffix(".csv"))
    command = "python benchmarks/evidence.py " + " ".join(sys.argv[1:])
    result.write_text(
        f"# Evidence per image, density members, {date.today()}\n\n{setting(command)}\n\n"
        f"Image AUROC of anomalous against normal training images, mean of {arguments.seeds} seeds; at the end the "
        f"difference to *{IN_USE}*, which is the default, mean ± sd over all sets, alphas and seeds.  *gap*: held-out "
        "mean less in-fold score, in ranks (memorisation).  *doubted*: less the spread over members.\n\n"
        f"{table(rows)}\n\nRaw rows: {result.stem}.csv\n"
    )
    print(result.read_text())


def measured(scan: Path, arguments: argparse.Namespace) -> Iterator[Row]:
    """A row per job and kind of evidence."""
    for job, run in llb_runs(scan, arguments.alphas, arguments.seeds):
        truth = training_labels(run)
        matrices = [matrix(run, repeat) for repeat in range(arguments.repeats)]
        label_N = np.array([truth[image_id] for image_id in matrices[0].image_ids])
        for kind, value_N in evidence(matrices):
            auroc = float(roc_auc_score(label_N, value_N))
            yield {key: job[key] for key in ("category", "alpha", "seed")} | {"evidence": kind, "auroc": auroc}
        print(run.folder.where, file=sys.stderr, flush=True)


def matrix(run: FinishedRun, seed: int) -> ScoreMatrix:
    """Every member's score of every training image, of a partition of this seed."""
    train = run.train.sort_by("image_id")
    image_ids, groups = (train[name].to_pylist() for name in ("image_id", "group"))
    owned = shares(partition(image_ids, groups, NUM_MEMBERS, seed))
    read = partial(CachedSource, run.made.features, device=torch.device("cpu"))
    everyone = read(image_ids)
    shared = {name: getattr(run.config.detector, name) for name in ("image_size_px", "backbone", "neighbourhood")}
    score_KN = []
    for number, share in enumerate(owned):
        detector = Density(DensityConfig(**shared), torch.device("cpu")).fit(read(share), NUM_MEMBERS * seed + number)
        parts = [detector.score(layers).score_N for _, layers in everyone.batches(0, len(everyone), BATCH)]
        score_KN.append(np.concatenate(parts).astype(np.float64))
    in_fold_KN = [np.isin(image_ids, share) for share in owned]
    return ScoreMatrix(image_ids, range(NUM_MEMBERS), np.stack(score_KN, axis=1), np.stack(in_fold_KN, axis=1))


def evidence(matrices: Sequence[ScoreMatrix]) -> Iterator[tuple[str, Floats]]:
    """Kinds of evidence, and each one's value per image [N]; but for the repeats they are of the first partition."""
    first = matrices[0]
    for normalize in ("rank", "none", "robust_z"):
        yield f"held-out mean of {_named(normalize)}", aggregate(PurifyConfig(normalize=normalize), first)
    yield "held-out mean of quantiles", _held_out_mean(first, quantile_mapped(first))
    for rule in ("median", "trimmed_mean", "max", "min"):
        yield f"held-out {rule.replace('_', ' ')} of ranks", aggregate(PurifyConfig(aggregate=rule), first)
    yield "all members' mean of ranks", aggregate(PurifyConfig(members="all"), first)
    rank_NK = _ranks(first)
    gap_N = _held_out_mean(first, rank_NK) - rank_NK[first.in_fold_NK]
    yield "gap", gap_N
    yield f"{IN_USE} + gap", _held_out_mean(first, rank_NK) + gap_N
    held_NK = np.ma.array(rank_NK, mask=first.in_fold_NK)
    yield f"{IN_USE}, doubted", np.asarray(held_NK.mean(axis=1) - held_NK.std(axis=1))
    for count in sorted({2, len(matrices)}):
        repeated = [aggregate(PurifyConfig(), one) for one in matrices[:count]]
        yield f"{IN_USE}, {count} partitions", np.mean(repeated, axis=0)


def quantile_mapped(scores: ScoreMatrix) -> Floats:
    """Each member's held-out scores on the scale of all members' together [N, K], by their quantiles."""
    everything_M = np.sort(scores.score_NK[~scores.in_fold_NK])
    mapped_NK = np.zeros_like(scores.score_NK)
    for column in range(scores.score_NK.shape[1]):
        held_N = ~scores.in_fold_NK[:, column]
        share_N = (stats.rankdata(scores.score_NK[held_N, column]) - 0.5) / held_N.sum()
        mapped_NK[held_N, column] = np.quantile(everything_M, share_N)
    return mapped_NK


def _ranks(scores: ScoreMatrix) -> Floats:
    ranks: Floats = stats.rankdata(scores.score_NK, axis=0) / len(scores.score_NK)
    return ranks


def _held_out_mean(scores: ScoreMatrix, value_NK: Floats) -> Floats:
    return np.asarray(np.ma.array(value_NK, mask=scores.in_fold_NK).mean(axis=1))


def _named(normalize: str) -> str:
    return {"rank": "ranks", "none": "raw scores", "robust_z": "robust z"}[normalize]


def table(rows: list[Row]) -> str:
    """Markdown: a line per kind of evidence, a column per set and alpha."""
    cases = list(dict.fromkeys((row["category"], row["alpha"]) for row in rows))
    heads = [f"{category.replace('mvtec_loco_', '').replace('_', ' ')} {alpha:g}" for category, alpha in cases]
    lines = [f"| evidence | {' | '.join(heads)} | difference |", "|---|" + "---|" * (len(cases) + 1)]
    usual = {_case(row): row["auroc"] for row in rows if row["evidence"] == IN_USE}
    for kind in dict.fromkeys(row["evidence"] for row in rows):
        mine = [row for row in rows if row["evidence"] == kind]
        means = [
            statistics.mean(row["auroc"] for row in mine if (row["category"], row["alpha"]) == case) for case in cases
        ]
        change = spread([row["auroc"] - usual[_case(row)] for row in mine])
        lines.append(f"| {kind} | {' | '.join(f'{mean:.3f}' for mean in means)} | {change} |")
    return "\n".join(lines)


def _case(row: Row) -> tuple[str, float, int]:
    return row["category"], row["alpha"], row["seed"]


if __name__ == "__main__":
    main()
