"""The oracle: what knowing the labels would be worth."""

from llb_ray.ensemble.decision import KEPT, REJECTED
from llb_ray.ensemble.filters.base import Decided, Evidence, Filter, decisions
from llb_ray.errors import DataError

_DECISION = {0: (KEPT, "oracle: labelled normal"), 1: (REJECTED, "oracle: labelled anomalous")}


class Oracle(Filter):
    """Keeps the images that are labelled normal; the one filter that reads labels."""

    reads_labels = True
    bound = "upper"
    place = 4

    def decide(self, evidence: Evidence) -> Decided:
        """See `Filter`; raises DataError for an image without a label."""
        labels = evidence.labels or {}
        unknown = [image_id for image_id in evidence.image_ids if labels.get(image_id) is None]
        if unknown:
            raise DataError(
                f"purify.filter=oracle reads labels, and {len(unknown)} of {len(evidence.image_ids)} training images "
                "have none; organise the folder as train/good, train/<defect> or choose another filter"
            )
        return Decided(decisions(evidence.image_ids, lambda image_id: _DECISION[labels[image_id] or 0]))
