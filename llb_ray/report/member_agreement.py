"""Votes of each member on each image: would it, alone, have rejected the image?

Shapes: N images in image_id order, K members that were not lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import stats

from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.ensemble.decision import KEPT
from llb_ray.ensemble.purified_dataset import kept_ids
from llb_ray.ensemble.score_matrix import dense

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
_UNASKED = 255


@dataclass(frozen=True)
class Votes:
    """A member objects to an image that is among the highest scores it gave, a share as large as round 1 rejected."""

    image_ids: Sequence[str]
    members: Sequence[int]
    share_NK: Floats  # the image's place among those the member was asked about, in (0, 1]; 1 is the most anomalous
    asked_NK: Bools  # members that trained on an image are asked about it under purify.members=all alone
    objects_NK: Bools
    in_fold_NK: Bools
    rejected_share: float  # of the training images, by round 1

    @classmethod
    def of(cls, run: FinishedRun) -> "Votes | None":
        """The votes; None where the filter looked at no score."""
        if run.matrix is None:
            return None
        matrix = dense(run.matrix)
        held_out = run.config.purify.members == "held_out"
        asked_NK = ~matrix.in_fold_NK if held_out else np.ones_like(matrix.in_fold_NK)
        share_NK = np.ones(asked_NK.shape)
        for column in range(asked_NK.shape[1]):
            asked_N = asked_NK[:, column]
            share_NK[asked_N, column] = stats.rankdata(matrix.score_NK[asked_N, column]) / asked_N.sum()
        kept = len(kept_ids(run.derived[0])) / len(matrix.image_ids)
        objects_NK = asked_NK & (share_NK > kept)
        return cls(matrix.image_ids, matrix.members, share_NK, asked_NK, objects_NK, matrix.in_fold_NK, 1 - kept)

    def codes(self) -> npt.NDArray[np.uint8]:
        """A byte per image and member [N, K]: the percentile, plus 128 for an objection; 255 where it was not asked."""
        percent_NK = np.ceil(100 * self.share_NK).astype(np.uint8)
        codes: npt.NDArray[np.uint8] = np.where(self.asked_NK, percent_NK + 128 * self.objects_NK, _UNASKED)
        return codes.astype(np.uint8)


@dataclass(frozen=True)
class Agreement:
    """Agreement of one member with the others."""

    member: int
    num_trained_on: int
    num_asked: int
    num_objections: int
    with_others: float | None  # Spearman's correlation with the mean place that the others give; None if undefined
    with_decision: float  # share of its votes that became the decision


def agreements(votes: Votes, purified: pa.Table) -> list[Agreement]:
    """One for each member; `purified` is in image_id order."""
    rejected_N = np.array(purified["decision"].to_pylist()) != KEPT
    return [_agreement(votes, column, rejected_N) for column in range(len(votes.members))]


def _agreement(votes: Votes, column: int, rejected_N: Bools) -> Agreement:
    asked_N, objects_N = votes.asked_NK[:, column], votes.objects_NK[:, column]
    others_NK = np.delete(np.where(votes.asked_NK, votes.share_NK, np.nan), column, axis=1)
    rows = np.flatnonzero(asked_N & ~np.isnan(others_NK).all(axis=1))
    mine, theirs = votes.share_NK[rows, column], np.nanmean(others_NK[rows], axis=1)
    defined = len(rows) > 1 and np.ptp(mine) > 0 and np.ptp(theirs) > 0
    return Agreement(
        member=votes.members[column],
        num_trained_on=int(votes.in_fold_NK[:, column].sum()),
        num_asked=int(asked_N.sum()),
        num_objections=int(objects_N.sum()),
        with_others=float(stats.spearmanr(mine, theirs).statistic) if defined else None,
        with_decision=float((objects_N == rejected_N)[asked_N].mean()),
    )
