"""The settings of each detector; `detector.name` chooses among them."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from llb_ray.config.base import Settings

WEIGHTS_BY_NAME = ("bundled", "hub", "random")  # what `weights` may be besides the path of a file


class BackboneConfig(Settings):
    """A frozen timm network; its weights are never random unless `weights: random` is typed."""

    name: str = Field("tf_efficientnet_lite0", description="timm model name")
    weights: str = Field(
        "bundled",
        description="'bundled' (an installed package, for tf_efficientnet_lite0, -lite1 and -lite2), a .safetensors or "
        ".pth file (a relative path is relative to the YAML file it is in), 'hub' (download by timm name) or 'random' "
        "(for tests)",
    )
    layers: tuple[int, ...] | None = Field(
        None,
        description="timm feature indices, shallow to deep; the first sets the map's resolution; default: those of "
        "strides 8 and 16, or halfway and three quarters deep in a network of one stride (ViT)",
    )
    precision: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="what the network computes in (autocast); its layers are stored as float16 in any case"
    )

    @field_validator("weights")
    @classmethod
    def _absolute(cls, weights: str) -> str:
        """A file's path as every worker can use it: theirs is not the user's working directory."""
        return weights if weights in WEIGHTS_BY_NAME else str(Path(weights).expanduser().absolute())

    @property
    def num_layers(self) -> int:
        """Number of layers, whether named or chosen by rule."""
        return 2 if self.layers is None else len(self.layers)


class AutoencoderConfig(Settings):
    """A small convolutional autoencoder trained from scratch: needs no weights, suits regular textures."""

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


def _odd(neighbourhood: int) -> int:
    if neighbourhood % 2 == 0:
        raise ValueError("the side must be odd, so that each cell is the centre of its neighbourhood")
    return neighbourhood


class MemoryBankConfig(Settings):
    """PatchCore-like: a coreset of frozen patch features, distances to the nearest (arXiv 2106.08265)."""

    name: Literal["memory_bank"] = "memory_bank"
    image_size_px: PositiveInt = Field(224, le=4096)
    backbone: BackboneConfig = BackboneConfig()
    neighbourhood: PositiveInt = Field(3, description="side of the local average pool, in cells; odd")
    standardize: bool = Field(True, description="scale each channel to unit spread over the training patches")
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

    @field_validator("neighbourhood")
    @classmethod
    def _has_a_centre(cls, neighbourhood: int) -> int:
        return _odd(neighbourhood)

    @property
    def reads_context(self) -> bool:
        """True if the encoder is to give a deeper layer, after the others."""
        return self.context and self.memory in ("by_filter", "placed")


class DensityConfig(Settings):
    """Outlying patches, place by place (local outlier factors): for screening, on features of any backbone."""

    name: Literal["density"] = "density"
    image_size_px: PositiveInt = Field(224, le=4096)
    backbone: BackboneConfig = BackboneConfig()
    neighbourhood: PositiveInt = Field(3, description="side of the local average pool, in cells; odd")
    places: PositiveInt = Field(100, description="cells of the first layer's grid that are looked at, about")
    rescue: bool = Field(
        True, description="an odd image that has a twin is rare, and scores lower than one that has none"
    )

    @field_validator("neighbourhood")
    @classmethod
    def _has_a_centre(cls, neighbourhood: int) -> int:
        return _odd(neighbourhood)


class ReconstructionConfig(Settings):
    """Dinomaly-like: a decoder learns to redraw frozen layers (arXiv 2405.14325; convolutional for CNN backbones)."""

    name: Literal["reconstruction"] = "reconstruction"
    image_size_px: PositiveInt = Field(224, le=4096)
    backbone: BackboneConfig = BackboneConfig()
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

    @field_validator("neighbourhood")
    @classmethod
    def _has_a_centre(cls, neighbourhood: int) -> int:
        return _odd(neighbourhood)

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


DetectorConfig = Annotated[
    AutoencoderConfig | MemoryBankConfig | DensityConfig | ReconstructionConfig, Field(discriminator="name")
]
