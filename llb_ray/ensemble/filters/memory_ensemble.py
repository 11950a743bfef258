"""MeDS's selection (arXiv 2605.26676): the mean distance to many small memories of randomly drawn patches.

The paper averages 100 memories of a random tenth of all patches, and selects by this rule; it goes on to distil and to
fine-tune, which is not done here.  Shapes: N images, K memories.
"""

from collections.abc import Sequence

import numpy as np

from llb_ray.config import DetectorConfig
from llb_ray.ensemble.filters.base import Decided, Evidence, Filter, Floats
from llb_ray.ensemble.purify import evidence_if_estimated, limit

_MEMORY_SHARE = 0.1  # of the candidate patches, in each memory
_DEVIATIONS = 3


class MemoryEnsemble(Filter):
    """Keeps images whose mean score by memories of random patches is not far above the median.

    Its members draw patches, so all of them are trained on all images.
    """

    needs_memory = True

    @property
    def reads_scores(self) -> bool:
        """See `FilterTraits`."""
        return True

    @property
    def settings_in_use(self) -> frozenset[str]:
        """See `FilterTraits`."""
        return frozenset({"memories"})

    def num_members(self, count: int) -> int:
        """See `FilterTraits`."""
        return self.settings.memories

    def member_detector(self, detector: DetectorConfig) -> DetectorConfig:
        """See `FilterTraits`."""
        size = round(_MEMORY_SHARE * detector.model_dump()["candidates"])
        return detector.model_copy(update={"memory": "plain", "coreset": "random", "coreset_size": size})

    def training_sets(self, shares: Sequence[Sequence[str]]) -> list[Sequence[str]]:
        """See `FilterTraits`."""
        return [sorted(image_id for share in shares for image_id in share)] * len(shares)

    def decide(self, evidence: Evidence) -> Decided:
        """See `Filter`."""
        matrix = evidence.scores
        table = limit(matrix.image_ids, *average_and_limit(matrix.score_NK), "memory_ensemble")
        return Decided(table, evidence_if_estimated(self.settings, matrix))


def average_and_limit(score_NK: Floats) -> tuple[Floats, float]:
    """The mean score of each image [N], and the largest that is kept: their median plus three deviations.

    The median absolute deviation is scaled to a Gaussian's standard deviation.
    """
    from scipy import stats  # half a second, which those who only read a configuration are spared

    value_N = score_NK.mean(axis=1)
    mad = stats.median_abs_deviation(value_N, scale="normal")
    return value_N, float(np.median(value_N) + _DEVIATIONS * mad)
