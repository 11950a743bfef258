"""From score matrix to purified set: normalise, aggregate, cut (arXiv 2508.07441, stage 1, steps 4 and 5).

The published rule is ``members=all, normalize=none, aggregate=mean``.  The defaults depart from it in two places,
because a sub-model has memorised the anomalies of its own share, and because the sub-model with the largest scale
would otherwise outvote the rest: ``members=held_out, normalize=rank``.

Everything here works by image_id: shuffling the rows of the score table or renaming members changes nothing.
Shapes: N images, K members, M members used per image (K, or K - 1 where the image is in the share of one of them).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from llb_ray.config import PurifyConfig
from llb_ray.ensemble import baseline_filters
from llb_ray.ensemble.contamination import anomalous_share
from llb_ray.ensemble.decision import KEPT, REJECTED
from llb_ray.ensemble.score_matrix import ScoreMatrix
from llb_ray.errors import DataError
from llb_ray.seeding import stream

DECISIONS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("aggregate", pa.float64()),  # null where the filter looks at no score
        pa.field("rank", pa.int64()),  # 1 = most normal; ties are broken by image_id
        pa.field("decision", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
Floats = npt.NDArray[np.float64]
Labels = Mapping[str, int | None]  # by image_id: 0 normal, 1 anomalous, None unknown
Decide = Callable[[str], tuple[str, str]]  # image_id -> (decision, reason)


@dataclass(frozen=True)
class Evidence:
    """What a filter may look at; `labels` is given to the oracle only."""

    image_ids: Sequence[str]
    seed: int
    matrix: ScoreMatrix | None = None
    labels: Labels | None = None


def purify(config: PurifyConfig, evidence: Evidence) -> pa.Table:
    """Every image's decision and its reason (schema `DECISIONS`, in image_id order).

    Raises DataError when the evidence that the filter needs is missing or the rule is undefined on it.
    """
    if config.filter == "llb":
        return _purify_llb(config, evidence)
    if config.filter == "random":
        return _purify_random(config, evidence)
    if config.filter == "oracle":
        return _purify_oracle(evidence)
    if config.filter in baseline_filters.RULES:
        return _purify_by_rule(config.filter, _checked(evidence))
    return _table(sorted(evidence.image_ids), lambda image_id: (KEPT, f"filter {config.filter} keeps every image"))


def aggregate(config: PurifyConfig, matrix: ScoreMatrix) -> Floats:
    """One number per image [N], rising with abnormality, by the rule in `config`.

    The in-fold scores that ``members=held_out`` leaves out have no influence, not even on ranks.
    """
    used_NK = _used(config, matrix)
    score_NK = matrix.score_NK.copy()
    for column, member in enumerate(
        matrix.members
    ):  # one at a time: a million images' columns fit, copies of all do not
        used_N = used_NK[:, column]
        score_NK[used_N, column] = _normalized(config.normalize, score_NK[used_N, column], member)
    return _combined(config, score_NK, used_NK)


def _used(config: PurifyConfig, matrix: ScoreMatrix) -> npt.NDArray[np.bool_]:
    """Which scores count [N, K]."""
    return ~matrix.in_fold_NK if config.members == "held_out" else np.ones_like(matrix.in_fold_NK)


def _combined(config: PurifyConfig, score_NK: Floats, used_NK: npt.NDArray[np.bool_]) -> Floats:
    """Each image's used scores as one number [N]; images of a lost member's share have one score more than others."""
    count_N = used_NK.sum(axis=1)
    value_N = np.empty(len(count_N))
    for count in np.unique(count_N):
        rows = np.flatnonzero(count_N == count)
        value_N[rows] = _combine(config, score_NK[rows][used_NK[rows]].reshape(len(rows), -1))
    return value_N


def num_kept(keep_ratio: float, num_images: int) -> int:
    """floor(t N), at least 1; rounded first, so that 0.29 of 100 is 29 in spite of binary fractions."""
    return max(1, int(np.floor(round(keep_ratio * num_images, 9))))


def _purify_llb(config: PurifyConfig, evidence: Evidence) -> pa.Table:
    matrix = _checked(evidence)
    rule = f"{config.members} {config.aggregate} of {config.normalize} scores"
    return cut(matrix.image_ids, aggregate(config, matrix), _keep_ratio(config, matrix), rule)


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
    """What ``keep_ratio=auto`` estimates the share of anomalies from, one number per image [N].

    The mean of each member's scores in spreads of its own, whatever rule ranks the images: ranks have no tail.  Scores
    are taken as logarithms unless one is 0 or less, as distances have a longer tail upwards.
    Raises DataError where a member gives more than half of the images one score.
    """
    held_NK = _used(config, matrix)
    if (matrix.score_NK[held_NK] > 0).all():
        matrix = replace(matrix, score_NK=np.log(matrix.score_NK, where=held_NK, out=matrix.score_NK.copy()))
    return aggregate(config.model_copy(update={"normalize": "robust_z", "aggregate": "mean"}), matrix)


def _keep_ratio(config: PurifyConfig, matrix: ScoreMatrix) -> float:
    if config.keep_ratio == "auto":
        return 1 - anomalous_share(anomaly_evidence(config, matrix))
    return config.keep_ratio


def _checked(evidence: Evidence) -> ScoreMatrix:
    if evidence.matrix is None or set(evidence.matrix.image_ids) != set(evidence.image_ids):
        raise DataError("purify: the score matrix and the training images are not the same set; run the members again")
    return evidence.matrix


def _places(image_ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """Each id's place among the sorted ids [N]."""
    place_N = np.empty(len(image_ids), dtype=np.int64)
    place_N[pc.sort_indices(pa.array(image_ids)).to_numpy()] = np.arange(len(image_ids))
    return place_N


def _purify_random(config: PurifyConfig, evidence: Evidence) -> pa.Table:
    image_ids = sorted(evidence.image_ids)
    share = _keep_ratio(config, _checked(evidence)) if config.keep_ratio == "auto" else config.keep_ratio
    keep = num_kept(share, len(image_ids))
    drawn = stream(evidence.seed, "purify", "random").permutation(len(image_ids))[:keep]
    kept = {image_ids[row] for row in drawn}
    reason = f"filter random keeps {keep} of {len(image_ids)}"
    return _table(image_ids, lambda image_id: (KEPT if image_id in kept else REJECTED, reason))


def _purify_by_rule(name: str, matrix: ScoreMatrix) -> pa.Table:
    value_N, most = baseline_filters.RULES[name](matrix.score_NK)
    if value_N.min() > most:
        raise DataError(f"purify: filter {name} rejects all {len(value_N)} images; choose another filter")
    decisions = [KEPT if value <= most else REJECTED for value in value_N]
    reasons = [f"{name}: {value:.4g}, and up to {most:.4g} is kept" for value in value_N]
    ranks = _ranks(matrix.image_ids, value_N)
    return pa.table([matrix.image_ids, value_N, ranks, decisions, reasons], schema=DECISIONS)


def _purify_oracle(evidence: Evidence) -> pa.Table:
    labels = evidence.labels or {}
    unknown = [image_id for image_id in evidence.image_ids if labels.get(image_id) is None]
    if unknown:
        raise DataError(
            f"purify.filter=oracle reads labels, and {len(unknown)} of {len(evidence.image_ids)} training images "
            "have none; lay the folder out as train/good, train/<defect> or choose another filter"
        )
    decision = {0: (KEPT, "oracle: labelled normal"), 1: (REJECTED, "oracle: labelled anomalous")}
    return _table(sorted(evidence.image_ids), lambda image_id: decision[labels[image_id] or 0])


def _table(image_ids: Sequence[str], decide: Decide) -> pa.Table:
    rows = [decide(image_id) for image_id in image_ids]
    nothing = [None] * len(image_ids)
    return pa.table([image_ids, nothing, nothing, *zip(*rows, strict=True)], schema=DECISIONS)


def _normalized(how: str, score_N: Floats, member: int) -> Floats:
    """One member's scores of the images it is asked about, on a scale of their own."""
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
