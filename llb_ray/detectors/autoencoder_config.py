"""The settings of the autoencoder."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt

from llb_ray.config import GradientDetectorConfig, ImportanceConfig, Role, SlowCore

if TYPE_CHECKING:
    import torch


class AutoencoderConfig(GradientDetectorConfig):
    """A small convolutional autoencoder trained from scratch: needs no weights, suits regular textures."""

    max_bands = 4096
    slow_core = SlowCore(fit=0.5, row=0.0)

    name: Literal["autoencoder"] = "autoencoder"
    image_size_px: PositiveInt = Field(64, multiple_of=16, le=4096)
    channels: PositiveInt = Field(
        16, description="width of the first and last layer; the middle ones are 2 and 4 times"
    )
    latent_dim: PositiveInt = Field(32, le=4096, description="numbers that a whole image is squeezed into")
    member_steps: PositiveInt = Field(150, description="optimiser steps of a sub-model: few, that is the learning bias")
    final_steps: PositiveInt = Field(600, description="optimiser steps of the final detector")
    batch_size: PositiveInt = 16
    learning_rate: Annotated[float, Field(gt=0)] = 5e-3

    @property
    def measuring_passes(self) -> int:
        """The mean image before the steps, and the usual errors after them."""
        return 2

    def build(self, role: Role, device: "torch.device", importance: ImportanceConfig | None) -> Any:
        """See `DetectorConfig`."""
        from llb_ray.detectors.autoencoder import Autoencoder

        return Autoencoder(self, self.num_steps(role), device, importance)
