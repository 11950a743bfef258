"""Image metrics: how well one score per image separates anomalous images (label 1) from normal ones (label 0).

Shape suffixes: N images, O objects, T thresholds.  Scores rise with abnormality.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from sklearn.utils import assert_all_finite

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer | np.bool_]


def image_metrics(score_N: Floats, label_N: Labels) -> dict[str, float | None]:
    """All `MEASURES`, each in [0, 1]; None unless both classes are present.

    Equal scores share one threshold, so a tied pair counts one half in `i_auroc`, and constant scores give 0.5.
    Raises ValueError for a NaN or infinite score: it has no place in the ranking, and means a broken detector.
    """
    assert score_N.shape == label_N.shape == (label_N.size,), (score_N.shape, label_N.shape)
    assert np.isin(label_N, (0, 1)).all(), "labels are 0 (normal) or 1 (anomalous)"
    assert_all_finite(score_N, input_name="score_N")
    if np.unique(label_N).size < 2:
        return dict.fromkeys(MEASURES)
    return {name: measure(score_N, label_N) for name, measure in MEASURES.items()}


def object_metrics(score_N: Floats, label_N: Labels, group_N: Sequence[str]) -> dict[str, float | None]:
    """`s_auroc` in [0, 1], of objects of which several images were taken; empty if no two images share a group.

    An object's score is the highest of its images', and it is anomalous if one of them is (Real-IAD, Wang et al.,
    CVPR 2024).  None unless there are objects of both kinds.
    """
    _, object_N = np.unique(np.asarray(group_N), return_inverse=True)
    num_objects = int(object_N.max(initial=-1)) + 1
    if num_objects == len(object_N):
        return {}
    score_O, label_O = np.full(num_objects, -np.inf), np.zeros(num_objects, dtype=bool)
    np.maximum.at(score_O, object_N, score_N)
    np.logical_or.at(label_O, object_N, label_N.astype(bool))
    return {"s_auroc": image_metrics(score_O, label_O)["i_auroc"]}


def f1_max(score_N: Floats, label_N: Labels) -> float:
    """The highest F1 of any threshold, in (0, 1]; `label_N` holds at least one anomalous image.

    Chosen with the labels in hand, so an upper bound rather than the F1 of a threshold one could have set.
    """
    precision_T, recall_T, _ = precision_recall_curve(label_N, score_N)
    # Where nothing is found F1 is 0, but precision may be 0 as well and the formula 0/0: such points never win.
    found_T = recall_T > 0
    precision_T, recall_T = precision_T[found_T], recall_T[found_T]
    return float(np.max(2 * precision_T * recall_T / (precision_T + recall_T)))


MEASURES: Mapping[str, Callable[[Floats, Labels], float]] = {
    "i_auroc": lambda score_N, label_N: float(roc_auc_score(label_N, score_N)),
    "i_ap": lambda score_N, label_N: float(average_precision_score(label_N, score_N)),
    "i_f1_max": f1_max,
}
