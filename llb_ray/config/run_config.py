"""A run's configuration as a whole: what its sections say together."""

from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from llb_ray.config.base import Settings
from llb_ray.config.detector_configs import (
    ChosenDetector,
    DetectorConfig,
    Role,
    default_detector,
    detector_class,
)
from llb_ray.config.ensemble_sections import MembersConfig, PurifyConfig
from llb_ray.config.filter_traits import FilterTraits
from llb_ray.config.sections import (
    DataConfig,
    EvaluationConfig,
    FeaturesConfig,
    FinalConfig,
    ImportanceConfig,
    ResourcesConfig,
    ThresholdConfig,
)
from llb_ray.config.worker_range import ALONE, WorkerRange

Tracker = Literal["mlflow", "wandb", "tensorboard"]
UNKEYED = ("resources", "tracking")  # sections that no result depends on
_UNKEYED_SETTINGS = {  # of other sections
    "features": {"max_gib", "local", "local_gib"},  # where they are read
    "final": {"label_selector"},
}


class RunConfig(Settings):
    """Everything a run depends on besides the images."""

    seed: int = Field(0, ge=0, strict=True)
    data: DataConfig = DataConfig()
    features: FeaturesConfig = FeaturesConfig()
    detector: ChosenDetector = Field(default_factory=default_detector)
    members: MembersConfig = MembersConfig()
    purify: PurifyConfig = PurifyConfig()
    importance: ImportanceConfig = ImportanceConfig()
    final: FinalConfig = FinalConfig()
    threshold: ThresholdConfig = ThresholdConfig()
    resources: ResourcesConfig = ResourcesConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: tuple[Tracker, ...] = Field((), description="trackers that a finished run is sent to")

    @model_validator(mode="after")
    def _rule_has_enough_members(self) -> "RunConfig":
        # With no more than the fewest members, the rule must still be defined.
        rule, used = self.purify, self.fewest_members - (self.purify.members == "held_out")
        if rule.aggregate == "trimmed_mean" and int(rule.trim * used) < 1:
            raise ValueError(
                f"purify.trim={rule.trim:g} of {used} scores per image cuts none; raise it or members.count"
            )
        if rule.aggregate == "max_var" and (used < 2 or rule.normalize == "robust_z"):
            raise ValueError("purify.aggregate=max_var needs two scores per image, none negative: not with robust_z")
        return self

    @model_validator(mode="after")
    def _weighted_loss_has_a_loss(self) -> "RunConfig":
        mode, buffer = self.importance.mode, self.importance.buffer
        if mode == "off":
            return self
        if not self.detector.trains_by_gradient:
            raise ValueError(
                f"importance.mode={mode} weights a training loss, and detector {self.detector.name} has none; "
                "choose importance.mode=off or a detector that is trained by gradients"
            )
        if buffer < self.detector.images_per_step:
            raise ValueError(f"importance.buffer={buffer} is less than one batch; raise it to detector.batch_size")
        return self

    @model_validator(mode="after")
    def _detector_takes_bands(self) -> "RunConfig":
        bands, most = self.data.bands, self.detector.max_bands
        if bands is not None and bands > most:
            known = f"{most} bands at most" if most else "RGB photographs alone"
            raise ValueError(
                f"data.bands={bands}: detector {self.detector.name} knows {known}; choose detector.name=autoencoder, "
                "or leave data.bands out"
            )
        return self

    @model_validator(mode="after")
    def _ignored_regions_are_left_out(self) -> "RunConfig":
        named = [name for name in ("ignore_mask", "inspect_mask") if getattr(self.data, name) is not None]
        if named and not self.detector.leaves_out:
            raise ValueError(
                f"data.{named[0]}: detector {self.detector.name} cannot leave out regions; choose "
                "detector.name=memory_bank, or paint the regions over in the photographs"
            )
        if named and self.features.augment:
            raise ValueError(f"features.augment moves what data.{named[0]} is about; leave one of them out")
        return self

    @model_validator(mode="after")
    def _turned_copies_fit(self) -> "RunConfig":
        height, width = self.detector.size
        turned = [kind for kind in self.features.augment if kind in ("rot90", "rot270")]
        if height != width and turned:
            raise ValueError(
                f"features.augment={turned[0]} turns images on their side, and detector.image_size_px is "
                f"{height} x {width}; leave it out, or choose a square size"
            )
        return self

    @model_validator(mode="after")
    def _every_worker_has_something_to_do(self) -> "RunConfig":
        count, most = self.final_workers, self.final_workers.most
        if most > 1 and most > self.detector.images_per_step:
            raise ValueError(f"final.num_workers={count} share a batch; raise detector.batch_size to {most} at least")
        if most > 1 and 0 < self.resources.num_gpus < 1:
            # NCCL refuses two processes on one GPU.
            raise ValueError(f"final.num_workers={count} need a GPU each; set resources.num_gpus to 1, or to 0")
        return self

    @model_validator(mode="after")
    def _screening_has_a_backbone(self) -> "RunConfig":
        if self.screens_by_density and self.detector.network is None:
            raise ValueError(
                f"members.detector=density looks at a backbone's features, and detector {self.detector.name} has none; "
                "choose members.detector=same or another detector"
            )
        if self.screens_by_density and self.detector.tiling is not None:
            raise ValueError(
                "members.detector=density looks at few places of a photograph, at none of most of detector.tiles; "
                "choose members.detector=same"
            )
        return self

    @property
    def screens_by_density(self) -> bool:
        """True if the sub-models look for outlying patches, whatever the final detector does."""
        return self.members.detector == "density"

    @property
    def num_members(self) -> int:
        """Number of sub-models."""
        return self.purify.rule.num_members(self.members.count)

    @property
    def fewest_members(self) -> int:
        """Number of sub-models that must succeed."""
        return self.num_members if self.members.min_members is None else self.members.min_members

    @model_validator(mode="after")
    def _filter_has_what_it_needs(self) -> "RunConfig":
        if self.purify.rule.needs_memory and not self.detector.has_memory:
            raise ValueError(
                f"purify.filter={self.purify.filter} is about a memory of patches, and detector {self.detector.name} "
                "has none; choose detector.name=memory_bank or another filter"
            )
        return self

    def detector_of(self, role: Role) -> DetectorConfig:
        """The settings of a sub-model's detector or of the final one; they share a backbone, and its layers."""
        rule = self.purify.rule
        if role == "final":
            return self.detector.with_memory(rule.final_memory)
        return rule.member_detector(self.detector) or self._member_detector

    @property
    def _member_detector(self) -> DetectorConfig:
        """The settings of a sub-model's detector by the section members."""
        if not self.screens_by_density:
            return self.detector.with_memory(FilterTraits.final_memory)
        shared = self.detector.model_dump(include={"image_size_px", "backbone", "neighbourhood"})
        return detector_class("density").model_validate({**shared, "rescue": self.members.rescue})

    @property
    def rounds(self) -> int:
        """Upper bound on how often every image is judged."""
        return self.purify.rule.rounds

    @property
    def why_folds(self) -> str:
        """Reason why a threshold needs folds, whatever is rejected, although members were to set it; empty if none."""
        if self.threshold.method != "members":
            return ""
        if self.rounds > 1:
            return "images are judged by folds"
        return "" if self.purify.rule.reads_scores else "there are no members"

    def importance_of(self, role: Role) -> ImportanceConfig | None:
        """The weighting of a sub-model's loss or of the final detector's; None where it has none."""
        return self.importance.for_role(role) if self.detector_of(role).trains_by_gradient else None

    @property
    def final_workers(self) -> WorkerRange:
        """Numbers of workers that train the final detector: one that takes no steps is fitted by one."""
        return WorkerRange.of(self.final.num_workers) if self.detector.trains_by_gradient else ALONE

    def resources_of(self, role: Role) -> ResourcesConfig:
        """The resources that a sub-model or the final detector is trained with."""
        labels = self.final.label_selector
        if role == "member" or labels is None:
            return self.resources
        return self.resources.model_copy(update={"label_selector": labels})

    def notices(self) -> list[str]:
        """One sentence for each setting that has no effect here; a run logs them."""
        idle = [*self.purify.notices(), *self.importance.notices(), *self.threshold.notices()]
        if not self.members.rescue and not self.screens_by_density:
            idle.append("members.rescue has no effect: the sub-models are not density members")
        if self.threshold.method == "none" and self.rounds == 1 and self.threshold.folds != ThresholdConfig().folds:
            idle.append("threshold.folds has no effect with threshold.method none: one round takes no folds")
        if self.final_workers != WorkerRange.of(self.final.num_workers):
            idle.append(f"final.num_workers has no effect: detector {self.detector.name} is fitted by one worker")
        if self.importance.for_role("member") and not self.purify.rule.reads_scores:
            idle.append(f"importance.members has no effect with purify.filter {self.purify.filter}: it has no members")
        elif self.importance.for_role("member") and self.importance_of("member") is None:
            idle.append("importance.members has no effect: density members have no loss; set members.detector=same")
        return idle

    def keyed_settings(self) -> dict[str, Any]:
        """The settings that results depend on, JSON-ready: with others a run is the same run."""
        unkeyed: dict[str, Any] = dict.fromkeys(UNKEYED, True) | _UNKEYED_SETTINGS
        return self.model_dump(mode="json", exclude=unkeyed)

    def to_yaml(self) -> str:
        """The resolved configuration, complete; `load` reads it back equal."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
