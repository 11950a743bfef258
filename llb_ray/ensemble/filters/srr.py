"""SRR (arXiv 2106.06115): an image is kept where no sub-model calls it anomalous.

Shapes: N images, K sub-models, B histogram bins.
"""

import numpy as np
import numpy.typing as npt

from llb_ray.ensemble.filters.base import Decided, Evidence, Filter, Floats
from llb_ray.ensemble.purify import evidence_if_estimated, limit

_BINS = 256


class Srr(Filter):
    """Keeps what all one-class models on disjoint shares agree to be normal.

    Each one's threshold is Otsu's, which the paper takes where the share of anomalies is unknown, on images that it has
    not seen: a memory bank has a score near 0 for those it has, and would part the seen from the unseen.  The paper's
    rounds retrain the representation, which is frozen here, so that there is one.
    """

    @property
    def reads_scores(self) -> bool:
        """See `FilterTraits`."""
        return True

    def decide(self, evidence: Evidence) -> Decided:
        """See `Filter`."""
        matrix = evidence.scores
        table = limit(matrix.image_ids, objections(matrix.score_NK, matrix.in_fold_NK), 0.0, "srr")
        return Decided(table, evidence_if_estimated(self.settings, matrix))


def objections(score_NK: Floats, in_fold_NK: npt.NDArray[np.bool_]) -> Floats:
    """Number of sub-models that call each image anomalous [N], of those that have not seen it."""
    held_out_NK = ~in_fold_NK
    columns = zip(score_NK.T, held_out_NK.T, strict=True)
    threshold_K = np.array([otsu(score_N[held_out_N]) for score_N, held_out_N in columns])
    count_N: Floats = ((score_NK > threshold_K) & held_out_NK).sum(axis=1).astype(np.float64)
    return count_N


def otsu(score_N: Floats) -> float:
    """The threshold that parts scores into two classes with the largest variance between them (Otsu, 1979).

    The largest score where all are equal.
    """
    count_B, edge_B = np.histogram(score_N, bins=_BINS)
    centre_B = (edge_B[:-1] + edge_B[1:]) / 2
    below_B, sum_B = np.cumsum(count_B), np.cumsum(count_B * centre_B)
    above_B = len(score_N) - below_B
    with np.errstate(divide="ignore", invalid="ignore"):
        gap_B = sum_B / below_B - (sum_B[-1] - sum_B) / above_B
        between_B = np.nan_to_num(below_B * above_B * gap_B**2)
    return float(edge_B[1:][between_B.argmax()]) if between_B.any() else float(score_N.max())
