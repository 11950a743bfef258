"""Objectives: one number for a finished run, higher is better.  All but `val_auroc` do without a single label."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from llb_ray.data.manifest import TEST, path_from_text
from llb_ray.data.tables import read_table
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.engine.workers.fit_log import fall_back_share
from llb_ray.ensemble.decision import KEPT
from llb_ray.ensemble.score_matrix import ScoreMatrix, dense
from llb_ray.errors import DataError
from llb_ray.search.canary import RECORD
from llb_ray.seeding import stream

Floats = npt.NDArray[np.float64]
TRUSTED = 0.6  # share of the held-back images, the lowest scores, that count as normal: they are contaminated too
SPLITS = 20  # of the members into halves, at random


def canary(run: Path) -> float:
    """Mean of two shares in [0, 1]: of pairs of a canary and any held-back image in which the canary scores higher, and
    of canaries that score higher than the picture they were made of.

    Equal scores count half.  Only the order of scores decides, so detectors whose scores have other scales or tails can
    be compared.  The first share is an AUROC and suffers from defects among the held-back images, the second does not.
    Of the objectives in benchmarks/objectives.md its choice is nearest to the best trial.
    """
    return canary_order(*canary_scores(run))


def canary_order(held_back_N: Floats, canary_N: Floats) -> float:
    """`canary` of scores of held-back images [N] and of the canaries made of them [N]."""
    return (outscored(canary_N[:, None], held_back_N) + outscored(canary_N, held_back_N)) / 2


def canary_scores(run: Path) -> tuple[Floats, Floats]:
    """The final detector's scores of the held-back images [N] and of the canaries made of them [N], in one order.

    Raises DataError for a run that was not made with `with_canaries`.
    """
    finished = FinishedRun(RunFolder.open(run), None)
    test = finished.images.filter(pc.equal(finished.images["split"], TEST))
    paths = [Path(path_from_text(path)) for path in test["path"].to_pylist()]
    records = {path.parent / RECORD for path in paths if path.is_absolute()}
    if len(records) != 1 or not min(records).exists():
        raise DataError(f"{run}: scored no canaries; train it on a manifest that has them, or choose another objective")
    record, scores = read_table(min(records)), read_table(finished.folder.file("image_scores.arrow"))
    return _scores_of(record["source"], scores), _scores_of(record["image_id"], scores)


def canary_recall(run: Path, false_alarms: float = 0.1) -> float:
    """Share of the canaries found by a threshold that `false_alarms` of the trusted held-back images exceed.

    Trusted are the `TRUSTED` share with the lowest scores.
    """
    held_back_N, canary_N = canary_scores(run)
    return float((canary_N > np.quantile(trusted(held_back_N), 1 - false_alarms)).mean())


def trusted(held_back_N: Floats) -> Floats:
    """The `TRUSTED` share of the scores of held-back images that are lowest."""
    return np.sort(held_back_N)[: max(1, round(TRUSTED * len(held_back_N)))]


def split_half(run: Path) -> float:
    """Mean rank correlation, in [-1, 1], between what two halves of the members think of images they never saw.

    It knows the members alone: `purify.keep_ratio` and the final detector's settings do not move it.
    Raises DataError for fewer than three members: no image would be new to both halves.
    """
    matrix = _matrix(run)
    num_members = len(matrix.members)
    if num_members < 3:
        raise DataError(f"{run}: split_half needs at least 3 members, this run has {num_members}; raise members.count")
    rank_NK = _held_out_ranks(matrix)
    shuffled = (stream(0, "split half", number).permutation(num_members) for number in range(SPLITS))
    return float(np.mean([_agreement(rank_NK[:, order]) for order in shuffled]))


def separation(run: Path) -> float:
    """Separation of the held-out scores by the cut, beyond that of a Gaussian by the same cut; 0: no better.

    Logarithm of the ratio of two shares of variance between kept and rejected (Otsu's criterion): of the scores as
    they are, and of a Gaussian cut at the same quantile, which is what keeps `keep_ratio` from deciding by itself.
    Where all images are kept nothing is separated and it is 0.
    """
    # Of the first round: a second one cuts other scores than the members'.
    matrix, purified = _matrix(run), FinishedRun(RunFolder.open(run), None).decided[0]
    kept = set(purified.filter(pc.equal(purified["decision"], KEPT))["image_id"].to_pylist())
    kept_N = np.isin(matrix.image_ids, sorted(kept))
    share = float(kept_N.mean())
    if share in (0, 1):
        return 0.0
    value_N = _held_out_logs(matrix)
    between = share * (1 - share) * (value_N[kept_N].mean() - value_N[~kept_N].mean()) ** 2 / value_N.var()
    expected = stats.norm.pdf(stats.norm.ppf(share)) ** 2 / (share * (1 - share))
    return float(np.log(between / expected))


def val_auroc(run: Path) -> float:
    """Image AUROC on the user's labelled validation images, which such a run has in its test split's place."""
    area = json.loads(RunFolder.open(run).file("metrics.json").read_text()).get("i_auroc")
    if area is None:
        raise DataError(f"{run}: val_auroc needs validation images of both kinds, labelled; this run scored none")
    return float(area)


def fell_back(run: Path) -> float:
    """Share of the final detector's steps whose weights were worthless, so that the plain mean was taken.

    Raises DataError for a run whose loss was not weighted.
    """
    share = fall_back_share(FinishedRun(RunFolder.open(run), None).made.final)
    if share is None:
        raise DataError(f"{run}: its final detector's loss was not weighted; set importance.mode")
    return share


OBJECTIVES: dict[str, Callable[[Path], float]] = {
    "canary": canary,
    "split_half": split_half,
    "separation": separation,
    "val_auroc": val_auroc,
}


def label_free_facts(run: Path) -> dict[str, float]:
    """The objectives that need no label, `canary_recall` and `fell_back`; without those that the run does not allow."""
    found: dict[str, float] = {}
    for measure in (canary, canary_recall, split_half, separation, fell_back):
        with contextlib.suppress(DataError):
            found[measure.__name__] = measure(run)
    return found


def outscored(one: Floats, other: Floats) -> float:
    """Share of pairs in which the first scores higher; equal ones count half."""
    return float(((one > other) + (one == other) / 2).mean())


def _scores_of(image_ids: pa.ChunkedArray, scores: pa.Table) -> Floats:
    rows = scores.take(pc.index_in(image_ids, scores["image_id"].combine_chunks()))
    found: Floats = rows["score"].to_numpy().astype(np.float64)
    return found


def _matrix(run: Path) -> ScoreMatrix:
    table = FinishedRun(RunFolder.open(run), None).matrix
    if table is None:
        raise DataError(f"{run}: has no members to compare; search with purify.filter=llb or another objective")
    return dense(table)


def _held_out_ranks(matrix: ScoreMatrix) -> Floats:
    """Ranks within each member [N, K]; NaN where it trained on the image."""
    ranks: Floats = stats.rankdata(_held_out(matrix), axis=0, nan_policy="omit")
    return ranks


def _agreement(rank_NK: Floats) -> float:
    """Spearman's correlation of the mean ranks by the first half of the members and by the others, where both have."""
    half = rank_NK.shape[1] // 2
    seen_N = np.isfinite(rank_NK[:, :half]).any(axis=1) & np.isfinite(rank_NK[:, half:]).any(axis=1)
    means = (np.nanmean(part, axis=1) for part in (rank_NK[seen_N, :half], rank_NK[seen_N, half:]))
    return float(stats.spearmanr(*means).statistic)


def _held_out(matrix: ScoreMatrix) -> Floats:
    return np.where(matrix.in_fold_NK, np.nan, matrix.score_NK)


def _held_out_logs(matrix: ScoreMatrix) -> Floats:
    """Mean log score of each image [N] by the members that did not train on it, relative to each member's median."""
    log_NK = np.log(np.maximum(_held_out(matrix), np.finfo(np.float32).tiny))
    relative: Floats = np.nanmean(log_NK - np.nanmedian(log_NK, axis=0), axis=1)
    return relative
