"""Consequences of a filter for the rest of a configuration."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from llb_ray.config.detector_configs import DetectorConfig
from llb_ray.extensions import FILTERS

if TYPE_CHECKING:
    from llb_ray.config.ensemble_sections import PurifyConfig


class FilterTraits:
    """A filter with the settings of the section purify; `ensemble.filters.base.Filter` adds what it decides.

    All of this is asked before a run starts, so modules of filters import nothing slow.
    """

    reads_labels: ClassVar[bool] = False
    needs_memory: ClassVar[bool] = False  # the detector must have a memory of patches
    final_memory: ClassVar[str] = "placed"  # kind of memory of a final detector with ``memory: by_filter``
    bound: ClassVar[Literal["lower", "upper"] | None] = None  # what `llb-ray certify` measures all others by
    place: ClassVar[int] = 2  # in tables, from no filter to the best that one may hope for

    def __init__(self, settings: "PurifyConfig") -> None:
        self.settings = settings

    @property
    def reads_scores(self) -> bool:
        """True if sub-models are needed."""
        return False

    @property
    def settings_in_use(self) -> frozenset[str]:
        """The keys of the section purify, besides filter, that have an effect."""
        return frozenset()

    @property
    def uses_keep_ratio(self) -> bool:
        """True if the share of images kept is chosen, or estimated with ``keep_ratio: auto``."""
        return "keep_ratio" in self.settings_in_use

    @property
    def rounds(self) -> int:
        """Times that every image is judged, at most."""
        return 1

    def num_members(self, count: int) -> int:
        """Number of sub-models, where `count` are asked for."""
        return count

    def member_detector(self, detector: DetectorConfig) -> DetectorConfig | None:
        """The settings of its sub-models' detector; None leaves them to the section members."""
        return None

    def training_sets(self, shares: Sequence[Sequence[str]]) -> list[Sequence[str]]:
        """The images that each sub-model is trained on, given the disjoint shares of the training images."""
        return list(shares)


def filter_traits(name: str) -> type[FilterTraits]:
    """The traits of a filter that a table names; those of any filter where it is not installed here."""
    return FILTERS.load(name, FilterTraits) if name in FILTERS.names() else FilterTraits
