"""No filter: what the detector makes of contaminated training images."""

from llb_ray.ensemble.filters.base import Decided, Evidence, Filter, keep_all


class NoFilter(Filter):
    """Keeps every image."""

    bound = "lower"
    place = 0

    def decide(self, evidence: Evidence) -> Decided:
        """See `Filter`."""
        return keep_all("none", evidence)
