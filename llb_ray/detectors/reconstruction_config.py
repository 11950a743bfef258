"""The settings of feature reconstruction."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from llb_ray.config import BackboneDetectorConfig, GradientDetectorConfig, ImportanceConfig, Role, SlowCore

if TYPE_CHECKING:
    import torch


class ReconstructionConfig(BackboneDetectorConfig, GradientDetectorConfig):
    """Dinomaly-like: a decoder learns to redraw frozen layers (arXiv 2405.14325; convolutional for CNN backbones)."""

    slow_core = SlowCore(fit=0.5, row=0.0)

    name: Literal["reconstruction"] = "reconstruction"
    neighbourhood: PositiveInt = Field(3, description="side of the local average pool, in cells; odd, 1: none")
    groups: tuple[tuple[int, ...], ...] | None = Field(
        None,
        description="positions in backbone.layers averaged before they are compared; default: each layer on its own, "
        "the only way for a CNN",
    )
    decoder_depth: PositiveInt = Field(2, le=64, description="decoder blocks; for a ViT at least one per layer")
    channels: PositiveInt = Field(64, le=4096, description="width of a CNN's decoder; a ViT's is that of the ViT")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.4, description="share of the bottleneck set to zero")
    standardize: bool = Field(False, description="scale each channel to unit spread over the training images")
    member_steps: PositiveInt = Field(200, description="optimiser steps of a sub-model: few, that is the learning bias")
    final_steps: PositiveInt = Field(300, description="optimiser steps of the final detector")
    batch_size: PositiveInt = 16
    learning_rate: Annotated[float, Field(gt=0)] = Field(5e-3, description="for 16 images; scaled with the batch size")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.5, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    gradient_norm: Annotated[float, Field(gt=0)] = Field(5.0, description="longer gradients are cut to it")
    warmup_steps: int = Field(20, ge=0, description="steps over which the learning rate rises")
    hard_percentile: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of a batch's points counted as easy; 0: no hard mining, which would seek out defects"
    )
    hard_factor: Annotated[float, Field(ge=0, le=1)] = Field(0.1, description="what the gradient of easy points keeps")
    hard_ramp_steps: int = Field(1000, ge=0, description="steps over which the percentile rises from 0")

    @property
    def measuring_passes(self) -> int:
        """The spread of each layer's channels."""
        return self.standardize * self.backbone.num_layers

    def build(self, role: Role, device: "torch.device", importance: ImportanceConfig | None) -> Any:
        """See `DetectorConfig`."""
        from llb_ray.detectors.reconstruction import Reconstruction

        return Reconstruction(self, self.num_steps(role), device, importance)

    def check_layers(self, layers: "tuple[torch.Tensor, ...]") -> list[str]:
        """See `DetectorConfig`: whether there is a decoder for them."""
        import torch

        from llb_ray.detectors.reconstruction import Reconstruction

        return Reconstruction(self, 0, torch.device("cpu")).suits(layers)

    @field_validator("groups")
    @classmethod
    def _groups_name_layers(
        cls, groups: tuple[tuple[int, ...], ...] | None, info: ValidationInfo
    ) -> tuple[tuple[int, ...], ...] | None:
        if groups is None or "backbone" not in info.data:
            return groups
        if not groups or not all(groups):
            raise ValueError("name at least one group, and in each at least one position of backbone.layers")
        last = info.data["backbone"].num_layers - 1
        if not all(0 <= index <= last for group in groups for index in group):
            raise ValueError(f"these are positions in backbone.layers, here 0 to {last}")
        return groups
