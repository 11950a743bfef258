"""The method itself: sub-models on disjoint shares judge the images that they did not train on (arXiv 2508.07441)."""

from llb_ray.ensemble.filters.base import Decided, Evidence, Filter
from llb_ray.ensemble.purify import aggregate, anomaly_evidence, cut, selection

_NUMBERS = {"rank": "rank", "robust_z": "robust z-score", "none": "score"}
_PLURALS = {"rank": "ranks", "robust_z": "robust z-scores", "none": "raw scores"}


class Llb(Filter):
    """Keeps the share of images with the lowest scores by sub-models that had not seen them."""

    place = 3

    @property
    def reads_scores(self) -> bool:
        """See `FilterTraits`."""
        return True

    @property
    def settings_in_use(self) -> frozenset[str]:
        """See `FilterTraits`."""
        trims = {"trim"} if self.settings.aggregate == "trimmed_mean" else set()
        return frozenset({"keep_ratio", "aggregate", "members", "normalize", "rounds", "doubted"} | trims)

    @property
    def rounds(self) -> int:
        """See `FilterTraits`."""
        return self.settings.rounds

    def decide(self, evidence: Evidence) -> Decided:
        """See `Filter`."""
        settings, matrix = self.settings, evidence.scores
        rule = f"{settings.members} {settings.aggregate} of {settings.normalize} scores"
        value_N = aggregate(settings, matrix)
        anomaly_N = anomaly_evidence(settings, matrix) if settings.keep_ratio == "auto" else None
        keep_ratio, doubted = selection(settings, anomaly_N)
        return Decided(cut(matrix.image_ids, value_N, keep_ratio, rule), anomaly_N, doubted)

    @property
    def value_name(self) -> str:
        """See `Filter`."""
        return f"{self.settings.aggregate.replace('_', ' ')} {_NUMBERS[self.settings.normalize]}"

    @property
    def value_source(self) -> str:
        """See `Filter`."""
        return " over the members"

    def summary(self, num_kept: int, members: str) -> str:
        """See `Filter`."""
        asked = "that did not train on it" if self.settings.members == "held_out" else "in all"
        rule = f"{self.settings.aggregate.replace('_', ' ')} of the {_PLURALS[self.settings.normalize]}"
        return (
            f"kept the {num_kept:,} most normal, by the {rule} that an image has with the members {asked} ({members})"
        )
