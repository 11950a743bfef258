"""Small maps and masks, and what pixel metrics are by definition: for the exact code and for the counting one."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from scipy.ndimage import label
from sklearn.metrics import precision_recall_curve

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Case = tuple[Floats, Bools]

UNDEFINED = {"p_auroc": None, "p_ap": None, "p_f1_max": None, "aupro": None}
limits = st.sampled_from([0.01, 0.05, 0.3, 0.5, 1.0])


@st.composite
def cases(draw: Callable[..., object]) -> Case:
    """Small maps with few distinct scores (ties) and masks of any density, holding both kinds of pixel."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 4)), draw(st.integers(2, 9)), draw(st.integers(1, 9)))
    map_NHW = rng.integers(0, draw(st.sampled_from([1, 2, 5, 40, 10**6])), shape).astype(np.float32)
    mask_NHW = rng.random(shape) < draw(st.floats(0.05, 0.95))
    mask_NHW[0, :2, 0] = True, False
    return map_NHW, mask_NHW


def regions_of(mask_NHW: Bools) -> Iterator[tuple[int, Bools]]:
    """One (image, boolean HW) per 8-connected region, labelled image by image."""
    for image, mask_HW in enumerate(mask_NHW):
        region_HW, count = label(mask_HW, structure=np.ones((3, 3)))
        yield from ((image, region_HW == number) for number in range(1, count + 1))


def brute_force_aupro(map_NHW: Floats, mask_NHW: Bools, limit: float) -> float:
    """AUPRO by its definition: threshold by threshold, region by region, trapezoid by trapezoid."""
    regions, area, fpr0, pro0 = list(regions_of(mask_NHW)), 0.0, 0.0, 0.0
    for threshold in np.unique(map_NHW)[::-1]:
        passed_NHW = map_NHW >= threshold
        fpr = passed_NHW[~mask_NHW].mean()
        pro = np.mean([passed_NHW[image][region].mean() for image, region in regions])
        if fpr > limit:
            pro_at_limit = pro0 + (pro - pro0) * (limit - fpr0) / (fpr - fpr0)
            return float((area + (limit - fpr0) * (pro0 + pro_at_limit) / 2) / limit)
        area, fpr0, pro0 = area + (fpr - fpr0) * (pro0 + pro) / 2, fpr, pro
    return float(area / limit)


def scikit_f1_max(map_NHW: Floats, mask_NHW: Bools) -> float:
    """The highest F1 of scikit-learn's precision-recall curve."""
    precision_T, recall_T, _ = precision_recall_curve(mask_NHW.ravel(), map_NHW.ravel())
    return float(np.max(2 * precision_T * recall_T / np.maximum(precision_T + recall_T, 1e-12)))


def one_square() -> Bools:
    """A mask of one 3x3 region in the first of two images."""
    mask_NHW = np.zeros((2, 8, 8), dtype=bool)
    mask_NHW[0, 2:5, 2:5] = True
    return mask_NHW
