"""A scan of a whole benchmark: the configuration of a run, and which runs there are."""

from typing import Annotated

from pydantic import Field, PositiveInt, field_validator, model_validator

from llb_ray.config.base import Settings
from llb_ray.config.dataset_options import DatasetConfig
from llb_ray.config.ensemble_sections import FilterName
from llb_ray.config.run_config import RunConfig
from llb_ray.config.sections import ThresholdConfig

Alpha = Annotated[float, Field(ge=0, lt=1)]


class ScanSettings(Settings):
    """The jobs of a scan: one per category, alpha, filter and seed, each a whole run."""

    dataset: DatasetConfig
    alphas: tuple[Alpha, ...] | None = Field(
        None,
        description="anomalous shares of the training objects; as the data set's authors mixed them where they did, "
        "else mixed by the FUIAD rule (llb-ray contaminate); default: the training sets as they are",
    )
    num_objects: PositiveInt | None = Field(
        None, description="training objects at every alpha; default: as many as the largest alpha leaves possible"
    )
    filters: tuple[FilterName, ...] = ("none", "llb")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0,)

    @field_validator("alphas", "filters", "seeds")
    @classmethod
    def _each_once(cls, values: object) -> object:
        if isinstance(values, tuple):
            if not values:
                raise ValueError("name at least one")
            if len(set(values)) < len(values):
                raise ValueError("names one of them twice")
        return values


class ScanConfig(RunConfig):
    """Everything a scan depends on besides the images; `seed` and `purify.filter` are each job's own."""

    scan: ScanSettings
    # Its table has no column that a threshold would fill, and folds are two thirds of a reconstruction's cost.
    threshold: ThresholdConfig = ThresholdConfig(method="none")

    @model_validator(mode="after")
    def _jobs_stay_on_their_nodes(self) -> "ScanConfig":
        if self.final.label_selector is not None:
            raise ValueError(
                "final.label_selector: a job of a scan trains all in one place; set resources.label_selector"
            )
        return self

    def of_job(self, filter_name: str, seed: int) -> RunConfig:
        """The configuration of the runs with this filter and seed."""
        tree = self.model_dump(mode="json", exclude={"scan"}, exclude_unset=True)
        purify = {**tree.get("purify", {}), "filter": filter_name}
        threshold = self.threshold.model_dump(mode="json", exclude_unset=True)
        return RunConfig.model_validate({**tree, "seed": seed, "purify": purify, "threshold": threshold})
