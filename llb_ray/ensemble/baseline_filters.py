"""How other methods decide which images to keep, by the scores of their sub-models, to compare with.

Shapes: N images, K sub-models, B histogram bins.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Rule = Callable[[Floats], tuple[Floats, float]]  # scores [N, K] to a value per image [N], and the largest that is kept
_DEVIATIONS = 3
_BINS = 256


def memory_ensemble(score_NK: Floats) -> tuple[Floats, float]:
    """The mean score of each image by memories of random patches, and the median of these plus three MADs.

    MeDS (arXiv 2605.26676) averages 100 memories of a random tenth of all patches, and selects by this rule; it goes on
    to distil and to fine-tune, which is not done here.  The MAD is scaled to a Gaussian's standard deviation.
    """
    value_N = score_NK.mean(axis=1)
    mad = stats.median_abs_deviation(value_N, scale="normal")
    return value_N, float(np.median(value_N) + _DEVIATIONS * mad)


def srr(score_NK: Floats) -> tuple[Floats, float]:
    """How many sub-models call each image anomalous, and 0: it is kept where none does.

    SRR (arXiv 2106.06115): one-class models on disjoint shares, all of which must agree; each one's threshold is
    Otsu's, which the paper takes where the share of anomalies is unknown.  Its rounds retrain the representation, which
    is frozen here, so that there is one.
    """
    called_NK = score_NK > [otsu(score_N) for score_N in score_NK.T]
    return called_NK.sum(axis=1).astype(np.float64), 0.0


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


RULES: Mapping[str, Rule] = {"memory_ensemble": memory_ensemble, "srr": srr}
