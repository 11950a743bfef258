"""The settings of the memory bank."""

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, PositiveInt

from llb_ray.config import BackboneDetectorConfig, ImportanceConfig, Role, SlowCore

if TYPE_CHECKING:
    import torch

_STANDARDIZED_BY = 32  # images: 25,000 cells of a layer, enough for the spread of a channel
_TRIAL_CORESET = 4000  # entries are chosen in seconds


class MemoryBankConfig(BackboneDetectorConfig):
    """PatchCore-like: a coreset of frozen patch features, distances to the nearest (arXiv 2106.08265)."""

    has_memory = True
    leaves_out = True
    memory_tensors = ("memory_MD", "weight_M", "reach_M")
    slow_core = SlowCore(fit=2.0, row=0.006)

    name: Literal["memory_bank"] = "memory_bank"
    standardize: bool = Field(True, description="scale each channel to unit spread over the training patches")
    patches: Literal["detailed", "averaged"] = Field(
        "detailed",
        description="patches in the memory: averaged over the cells of a neighbourhood, or detailed, a random "
        "projection of all of them, which tells finer textures",
    )
    memory: Literal["by_filter", "plain", "placed", "softpatch"] = Field(
        "by_filter",
        description="plain is PatchCore's distance to the nearest patch; placed multiplies it by the Mahalanobis "
        "distance at the same place (PaDiM's), which contamination hurts less; softpatch is that paper's; by_filter: "
        "softpatch for purify.filter softpatch, else placed",
    )
    context: bool = Field(
        True,
        description="a deeper layer (stride 32) has a memory of its own, which takes part in the image's score and not "
        "in its map; of a placed memory alone, where the network has such a layer",
    )
    coreset: Literal["k_center", "random"] = "k_center"
    coreset_size: PositiveInt = Field(2000, description="patches kept in the memory")
    candidates: PositiveInt = Field(40_000, description="patches the coreset is chosen from (bounds memory)")
    projection_dim: PositiveInt = Field(32, description="dimensions of the random projection that k_center works in")

    @property
    def reads_context(self) -> bool:
        """See `DetectorConfig`."""
        return self.context and self.memory in ("by_filter", "placed")

    @property
    def weighs_images(self) -> bool:
        """See `DetectorConfig`."""
        return self.memory in ("by_filter", "placed")

    def reads(self, role: Role, num_rows: int) -> int:
        """Every image once for the memory, and for a placed one once more for the places; a few first to standardise
        channels."""
        return num_rows * (2 if self.weighs_images else 1) + self.first_reads(num_rows)

    def first_reads(self, num_rows: int) -> int:
        """Images by which channels are standardised before detailed patches, or those of places, are made of them."""
        needed = self.patches == "detailed" or self.weighs_images
        return min(num_rows, self.images_at_once(_STANDARDIZED_BY)) if needed else 0

    def shortened(self, steps: int) -> tuple[Self, float]:
        """See `DetectorConfig`."""
        size = min(self.coreset_size, _TRIAL_CORESET)
        return self.model_copy(update={"coreset_size": size}), self.coreset_size / size

    def with_memory(self, kind: str) -> Self:
        """See `DetectorConfig`."""
        return self.model_copy(update={"memory": kind}) if self.memory == "by_filter" else self

    def build(self, role: Role, device: "torch.device", importance: ImportanceConfig | None) -> Any:
        """See `DetectorConfig`."""
        from llb_ray.detectors.memory_bank import MemoryBank

        return MemoryBank(self, device)
