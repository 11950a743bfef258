"""The settings of the autoencoder."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator

from llb_ray.config import GradientDetectorConfig, ImageSize, ImportanceConfig, Role, Size, SlowCore, sides

if TYPE_CHECKING:
    import torch

_STEP_PX = 16


class AutoencoderConfig(GradientDetectorConfig):
    """A small convolutional autoencoder trained from scratch: needs no weights, suits regular textures."""

    max_bands = 4096
    slow_core = SlowCore(fit=0.5, row=0.0)

    name: Literal["autoencoder"] = "autoencoder"
    image_size_px: ImageSize = Field(
        64, description="size that images are brought to: the side of a square, or [height, width]; multiples of 16"
    )
    channels: PositiveInt = Field(
        16, description="width of the first and last layer; the middle ones are 2 and 4 times"
    )
    latent_dim: PositiveInt = Field(32, le=4096, description="numbers that a whole image is squeezed into")
    member_steps: PositiveInt = Field(150, description="optimiser steps of a sub-model: few, that is the learning bias")
    final_steps: PositiveInt = Field(600, description="optimiser steps of the final detector")
    batch_size: PositiveInt = 16
    learning_rate: Annotated[float, Field(gt=0)] = 5e-3

    @field_validator("image_size_px")
    @classmethod
    def _shrinks_evenly(cls, image_size_px: int | Size) -> int | Size:
        if any(side % _STEP_PX for side in sides(image_size_px)):
            raise ValueError(f"each side should be a multiple of {_STEP_PX}")
        return image_size_px

    @property
    def measuring_passes(self) -> int:
        """The mean image before the steps, and the usual errors after them."""
        return 2

    def build(self, role: Role, device: "torch.device", importance: ImportanceConfig | None) -> Any:
        """See `DetectorConfig`."""
        from llb_ray.detectors.autoencoder import Autoencoder

        return Autoencoder(self, self.num_steps(role), device, importance)
