"""The settings of the frozen network whose features most detectors learn from."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

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
        "float32",
        description="what the network computes in (autocast); its layers are stored as float16 in any case. Unless it "
        "is float32, a memory bank is searched in bfloat16",
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
