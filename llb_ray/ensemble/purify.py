"""From score matrix to purified set: normalise, aggregate, cut (arXiv 2508.07441, stage 1, steps 4 and 5).

The published rule is ``members=all, normalize=none, aggregate=mean``.  The defaults depart from it in two places,
because a sub-model has memorised the anomalies of its own share, and because the sub-model with the largest scale
would otherwise outvote the rest: ``members=held_out, normalize=rank``.

Everything here works by image_id: shuffling the rows of the score table or renaming members changes nothing.
Shapes: N images, K members, M members used per image (K, or K - 1 where the image is in the share of one of them).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.config import PurifyConfig
from llb_ray.ensemble.decision import KEPT, REJECTED
from llb_ray.ensemble.filters.base import DECISIONS
from llb_ray.ensemble.score_matrix import ScoreMatrix
from llb_ray.errors import DataError

Floats = npt.NDArray[np.float64]
_ROWS = 65_536  # combined at once: of a million images a copy of all scores is a tenth of a gigabyte


def aggregate(config: PurifyConfig, matrix: ScoreMatrix, in_logs: bool = False) -> Floats:
    """One number per image [N], rising with abnormality, by the rule in `config`; of the scores or their logarithms.

    The in-fold scores that ``members=held_out`` leaves out have no influence, not even on ranks.
    """
    used_NK = _used(config, matrix)
    score_NK = matrix.score_NK.copy()
    for column, member in enumerate(matrix.members):
        # One at a time: a million images' columns fit, copies of all do not.
        used_N = used_NK[:, column]
        score_N = np.log(score_NK[used_N, column]) if in_logs else score_NK[used_N, column]
        score_NK[used_N, column] = _normalized(config.normalize, score_N, member)
    return _combined(config, score_NK, used_NK)


def _used(config: PurifyConfig, matrix: ScoreMatrix) -> npt.NDArray[np.bool_]:
    """Mask of the scores that count [N, K]."""
    return ~matrix.in_fold_NK if config.members == "held_out" else np.ones_like(matrix.in_fold_NK)


def _combined(config: PurifyConfig, score_NK: Floats, used_NK: npt.NDArray[np.bool_]) -> Floats:
    """Each image's used scores as one number [N]; images of a lost member's share have one score more than others."""
    count_N = used_NK.sum(axis=1)
    value_N = np.empty(len(count_N))
    for count in np.unique(count_N):
        alike = np.flatnonzero(count_N == count)
        for rows in np.array_split(alike, -(-len(alike) // _ROWS)):
            value_N[rows] = _combine(config, score_NK[rows][used_NK[rows]].reshape(len(rows), -1))
    return value_N


def num_kept(keep_ratio: float, num_images: int) -> int:
    """floor(t N), at least 1; rounded first, so that 0.29 of 100 is 29 in spite of binary fractions."""
    return max(1, int(np.floor(round(keep_ratio * num_images, 9))))


def cut(image_ids: Sequence[str], value_N: Floats, keep_ratio: float, rule: str) -> pa.Table:
    """The decisions (schema `DECISIONS`) that keep a share of the images, those with the lowest values [N]."""
    keep, rank_N = num_kept(keep_ratio, len(value_N)), _ranks(image_ids, value_N)
    kept = f"the {keep} most normal of {len(value_N)} are kept" if keep < len(value_N) else f"all {keep} are kept"
    decisions = [KEPT if rank <= keep else REJECTED for rank in rank_N]
    reasons = [f"{rule} is {value:.4g}, rank {rank}; {kept}" for value, rank in zip(value_N, rank_N, strict=True)]
    return pa.table([image_ids, value_N, rank_N, decisions, reasons], schema=DECISIONS)


def _ranks(image_ids: Sequence[str], value_N: Floats) -> npt.NDArray[np.int64]:
    """From 1, the most normal; ties are broken by image_id."""
    rank_N = np.empty(len(value_N), dtype=np.int64)
    rank_N[np.lexsort((_places(image_ids), value_N))] = np.arange(1, len(value_N) + 1)
    return rank_N


def anomaly_evidence(config: PurifyConfig, matrix: ScoreMatrix) -> Floats:
    """Scores that ``keep_ratio=auto`` estimates the share of anomalies from, one number per image [N].

    The mean of each member's scores in spreads of its own, whatever rule ranks the images: ranks have no tail.  Scores
    are taken as logarithms unless one is 0 or less, as distances have a longer tail upwards.
    Raises DataError where a member gives more than half of the images one score.
    """
    in_logs = bool((matrix.score_NK > 0).all(where=_used(config, matrix)))
    return aggregate(config.model_copy(update={"normalize": "robust_z", "aggregate": "mean"}), matrix, in_logs)


def evidence_if_estimated(config: PurifyConfig, matrix: ScoreMatrix) -> Floats | None:
    """`anomaly_evidence` where the share of anomalies is to be estimated: a number that is given needs none."""
    return anomaly_evidence(config, matrix) if config.keep_ratio == "auto" else None


class Selection(NamedTuple):
    """The share of images to keep, and the share of these to trust less (see `trust`)."""

    keep_ratio: float
    doubted: float


def selection(config: PurifyConfig, anomaly_N: Floats | None) -> Selection:
    """The ratio as given, or with ``keep_ratio=auto`` what the evidence against N images leaves.

    What stands apart, but not clearly, is not rejected: it is doubted, unless no image is to be.  A second kind of
    normal image looks so: 120 clean commutators of two kinds, 42 of them in the second, lost 12 points of image AUROC
    with it (MobileNetV2).
    """
    if config.keep_ratio != "auto":
        return Selection(config.keep_ratio, config.doubted)
    from llb_ray.ensemble.contamination import apart  # scipy, as in `_normalized`

    assert anomaly_N is not None, "it is estimated from scores"
    stands_N, clearly_N = apart(anomaly_N)
    keep_ratio = 1 - float(clearly_N.mean())
    unclear = float((stands_N & ~clearly_N).mean()) / keep_ratio
    return Selection(keep_ratio, max(unclear, config.doubted) if config.doubted else 0.0)


def limit(image_ids: Sequence[str], value_N: Floats, most: float, name: str) -> pa.Table:
    """The decisions (schema `DECISIONS`) that keep the images with values [N] up to `most`, by the filter of this name.

    Raises DataError if it is none.
    """
    if value_N.min() > most:
        raise DataError(f"purify: filter {name} rejects all {len(value_N)} images; choose another filter")
    decisions = [KEPT if value <= most else REJECTED for value in value_N]
    reasons = [f"{name}: {value:.4g}, and up to {most:.4g} is kept" for value in value_N]
    return pa.table([image_ids, value_N, _ranks(image_ids, value_N), decisions, reasons], schema=DECISIONS)


def _places(image_ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """Each id's place among the sorted ids [N]."""
    place_N = np.empty(len(image_ids), dtype=np.int64)
    place_N[pc.sort_indices(pa.array(image_ids)).to_numpy()] = np.arange(len(image_ids))
    return place_N


def _normalized(how: str, score_N: Floats, member: int) -> Floats:
    """One member's scores of the images it is asked about, on a scale of their own."""
    from scipy import stats  # half a second, which those who only read a configuration are spared

    if how == "rank":
        ranks: Floats = stats.rankdata(score_N) / len(score_N)
        return ranks
    if how == "robust_z":
        mad = stats.median_abs_deviation(score_N, scale="normal")
        if mad == 0:
            raise DataError(
                f"purify: robust_z, and keep_ratio=auto, are undefined: member {member} gives more than half of the "
                "images the same score; use purify.normalize=rank, and give purify.keep_ratio as a number"
            )
        z_N: Floats = (score_N - np.median(score_N)) / mad
        return z_N
    return score_N


def _combine(config: PurifyConfig, score_NM: Floats) -> Floats:
    from scipy import stats

    rule = config.aggregate
    if rule == "trimmed_mean":
        trimmed: Floats = stats.trim_mean(score_NM, config.trim, axis=1)
        return trimmed
    if rule == "max_var":
        # The authors' third rule: a high score that the members disagree on counts most.
        if score_NM.min() < 0:
            raise DataError("purify.aggregate=max_var is undefined for negative scores; use purify.normalize=rank")
        product: Floats = score_NM.max(axis=1) * score_NM.var(axis=1)
        return product
    combine: dict[str, Callable[..., Floats]] = {"mean": np.mean, "median": np.median, "min": np.min, "max": np.max}
    return combine[rule](score_NM, axis=1)
