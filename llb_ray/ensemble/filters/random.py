"""Blind rejection: how much of a filter's gain is owed to fewer images alone."""

from llb_ray.ensemble.decision import KEPT, REJECTED
from llb_ray.ensemble.filters.base import Decided, Evidence, Filter, decisions
from llb_ray.ensemble.purify import anomaly_evidence, num_kept, selection
from llb_ray.seeding import stream


class Random(Filter):
    """Keeps images drawn at random, as many as ``keep_ratio`` says, or as the sub-models let one estimate."""

    place = 1

    @property
    def reads_scores(self) -> bool:
        """See `FilterTraits`."""
        return self.settings.keep_ratio == "auto"

    @property
    def settings_in_use(self) -> frozenset[str]:
        """See `FilterTraits`."""
        return frozenset({"keep_ratio"})

    def decide(self, evidence: Evidence) -> Decided:
        """See `Filter`."""
        anomaly_N = anomaly_evidence(self.settings, evidence.scores) if self.reads_scores else None
        image_ids = sorted(evidence.image_ids)
        keep = num_kept(selection(self.settings, anomaly_N).keep_ratio, len(image_ids))
        drawn = stream(evidence.seed, "purify", "random").permutation(len(image_ids))[:keep]
        kept = {image_ids[row] for row in drawn}
        reason = f"filter random keeps {keep} of {len(image_ids)}"
        table = decisions(image_ids, lambda image_id: (KEPT if image_id in kept else REJECTED, reason))
        return Decided(table, anomaly_N)
