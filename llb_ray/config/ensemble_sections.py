"""Settings of the ensemble and of what is made of its scores."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from llb_ray.config.base import Settings, Share
from llb_ray.config.filter_traits import FilterTraits
from llb_ray.extensions import FILTERS


class MembersConfig(Settings):
    """The ensemble of sub-models."""

    count: int = Field(5, ge=2, description="K: disjoint shares, one sub-model each")
    detector: Literal["same", "density"] = Field(
        "same",
        description="same is the final detector's kind; density looks for outlying patches with its backbone",
    )
    rescue: bool = Field(
        True, description="density takes an odd image that has a twin in another share for rare rather than defective"
    )
    min_members: Annotated[int, Field(ge=2)] | None = Field(
        None, description="go on without sub-models that fail while this many come through; default: all must"
    )

    @model_validator(mode="after")
    def _least_is_possible(self) -> "MembersConfig":
        if self.fewest > self.count:
            raise ValueError(f"min_members={self.fewest} is more than count={self.count}; lower it")
        return self

    @property
    def fewest(self) -> int:
        """Number of sub-models that must succeed."""
        return self.count if self.min_members is None else self.min_members


_KINDS = Annotated[Share, Tag("share")] | Annotated[Literal["auto"], Tag("auto")]
# Distinguished before they are checked, so that an error speaks of the one that was meant.
KeepRatio = Annotated[_KINDS, Discriminator(lambda value: "auto" if isinstance(value, str) else "share")]
_SETTINGS = ("aggregate", "members", "normalize", "rounds", "trim", "keep_ratio", "memories", "doubted")  # of filters
Aggregate = Literal["mean", "median", "min", "max", "max_var", "trimmed_mean"]


def _known(name: str) -> str:
    if problem := FILTERS.problem(name):
        raise ValueError(problem)
    return name


FilterName = Annotated[str, AfterValidator(_known)]


class PurifyConfig(Settings):
    """The selection of the images that the final detector is trained on."""

    filter: FilterName = Field(
        "llb",
        description="controls: none keeps all, random drops blindly, oracle reads labels; rivals: softpatch (doubts "
        "patches of a memory bank), memory_ensemble and srr (reject images by rules of their own)",
    )
    keep_ratio: KeepRatio = Field(
        "auto", description="share of the images kept (llb and random); auto: as many as look normal to the sub-models"
    )
    aggregate: Aggregate = "mean"
    members: Literal["held_out", "all"] = Field(
        "held_out", description="held_out ignores the score of the member that trained on the image"
    )
    normalize: Literal["none", "rank", "robust_z"] = Field("rank", description="applied to each member's scores first")
    rounds: Annotated[int, Field(ge=1)] = Field(
        1,
        description="times that llb judges every image: first by the members, then by detectors like the final one, "
        "fitted on what the round before kept, each without a fold (threshold.folds) of the images; ends early once no "
        "decision changes",
    )
    doubted: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1,
        description="share of the images that llb keeps, those with the highest anomaly scores, that a memory bank "
        "learns less from; 0 trusts all alike",
    )
    memories: int = Field(20, ge=2, description="random small memories that are averaged (memory_ensemble)")
    trim: Annotated[float, Field(gt=0, lt=0.5)] = Field(0.25, description="share cut at each end (trimmed_mean)")

    @property
    def rule(self) -> FilterTraits:
        """The filter with these settings; raises ConfigError for a broken one of another package."""
        return FILTERS.load(self.filter, FilterTraits)(self)

    def notices(self) -> list[str]:
        """One sentence for each setting that has no effect here, for a run to say."""
        in_use = self.rule.settings_in_use
        idle = [name for name in _SETTINGS if name not in in_use]
        changed = [name for name in idle if getattr(self, name) != type(self).model_fields[name].default]
        return [
            f"purify.{name} has no effect with filter {self.filter}, aggregate {self.aggregate}" for name in changed
        ]
