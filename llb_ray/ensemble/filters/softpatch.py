"""SoftPatch (arXiv 2403.14233): all images are kept, and the memory doubts outlying patches."""

from llb_ray.ensemble.filters.base import Decided, Evidence, Filter, keep_all


class SoftPatch(Filter):
    """Keeps every image, for a final detector whose memory weights its patches (see `detectors.patch_selection`)."""

    needs_memory = True
    final_memory = "softpatch"

    def decide(self, evidence: Evidence) -> Decided:
        """See `Filter`."""
        return keep_all("softpatch", evidence)
