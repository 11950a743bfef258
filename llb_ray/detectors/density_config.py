"""The settings of the density detector."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt, field_validator

from llb_ray.config import BackboneDetectorConfig, ImportanceConfig, Role, SlowCore, TilesConfig

if TYPE_CHECKING:
    import torch


class DensityConfig(BackboneDetectorConfig):
    """Outlying patches, place by place (local outlier factors): for screening, on features of any backbone."""

    leaves_out = True
    draws_at_random = False  # unless there are more images than it compares with
    slow_core = SlowCore(fit=0.1, row=0.0005, score=0.001)

    name: Literal["density"] = "density"
    places: PositiveInt = Field(100, description="cells of the first layer's grid that are looked at, about")
    rescue: bool = Field(
        True, description="an odd image that has a twin is rare, and scores lower than one that has none"
    )

    @field_validator("tiles")
    @classmethod
    def _has_few_places(cls, tiles: TilesConfig | None) -> None:
        if tiles is not None:
            raise ValueError("density looks at few places of a photograph, at none of most tiles; leave tiles out")

    def reads(self, role: Role, num_rows: int) -> int:
        """See `DetectorConfig`."""
        from llb_ray.detectors.local_outlier_factor import MAX_REFERENCES

        return min(num_rows, MAX_REFERENCES)

    def build(self, role: Role, device: "torch.device", importance: ImportanceConfig | None) -> Any:
        """See `DetectorConfig`."""
        from llb_ray.detectors.density import Density

        return Density(self, device)
