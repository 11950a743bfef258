"""The sections of a run's configuration, and the whole of it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PositiveInt, field_validator, model_validator

from llb_ray.config.base import Settings, Share
from llb_ray.config.detectors import AutoencoderConfig, DensityConfig, DetectorConfig, MemoryBankConfig
from llb_ray.config.purify import Filter, MembersConfig, PurifyConfig
from llb_ray.errors import ConfigError

_STEPLESS = MemoryBankConfig | DensityConfig  # they are fitted in one pass by one worker
_MEMORY_SHARE = 0.1  # of the candidate patches, in each of the memories that memory_ensemble averages
_MEMORIES: Mapping[Filter, str] = {"llb": "robust", "softpatch": "softpatch"}


class DataConfig(Settings):
    """How a folder becomes a manifest."""

    category: str | None = Field(None, description="name in the tables; default: the folder's name")
    group_pattern: str | None = Field(
        None, description="regular expression searched in the relative path; its first group names the object"
    )
    max_pixels: PositiveInt = Field(90_000_000, description="larger images are quarantined as decompression bombs")
    bands: Annotated[PositiveInt, Field(le=4096)] | None = Field(
        None,
        description="images are arrays (.npy, .npz) or TIFFs of this many bands or pages; default: photographs, as RGB",
    )

    def refuse_beside_manifest(self) -> None:
        """Raise ConfigError for a setting that a manifest file decides."""
        for name in ("category", "group_pattern"):
            if getattr(self, name) is not None:
                remedy = f"drop it (--set data.{name}=null)"
                raise ConfigError(f"data.{name} has no effect with a manifest file, which says it itself; {remedy}")


Augmentation = Literal["hflip", "vflip", "rot90", "rot180", "rot270"]


class FeaturesConfig(Settings):
    """The frozen layers that every detector is trained on: made once per image and kept on disk."""

    augment: tuple[Augmentation, ...] = Field(
        (), description="a further copy of each training image for each of these, for detectors to be trained on"
    )
    max_gib: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="disk that the cache may take; larger ones are not written, and images are encoded whenever they "
        "are read; default: what is free where the run is",
    )


class ImportanceConfig(Settings):
    """The importance-weighted loss of a detector trained by gradients (arXiv 2601.02440, reconstructed)."""

    mode: Literal["off", "fixed", "moments", "robust"] = Field(
        "off", description="target Gaussian: given, or mean/std (moments) or median/MAD (robust) of recent scores"
    )
    mu: float | None = Field(None, description="mean of the target, in units of the score (fixed)")
    sigma: Annotated[float, Field(gt=0)] | None = Field(None, description="spread of the target (fixed)")
    mu_scale: Annotated[float, Field(gt=0)] = Field(1, description="times the mean found (moments and robust)")
    sigma_scale: Annotated[float, Field(gt=0)] = Field(1, description="times the spread found (moments and robust)")
    log_scores: bool = Field(False, description="work on the logarithm of the scores; mu and sigma are then in logs")
    cap: Annotated[float, Field(gt=1)] = Field(10, description="largest weight before they are brought to mean one")
    eps: Annotated[float, Field(gt=0)] = Field(1e-6, description="least density of the scores that is divided by")
    buffer: PositiveInt = Field(
        4096,
        description="recent scores that density and target are taken from; in a fit of a few hundred steps most of "
        "4096 are stale, and 256 with sigma_scale 3 gained more (benchmarks/long_tail_juice_bottle.md)",
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="share of the steps, the first, with weight 1")
    members: bool = Field(False, description="weight the sub-models too, not the final detector alone")

    @field_validator("mode", mode="before")
    @classmethod
    def _off_is_a_word(cls, mode: Any) -> Any:
        """YAML reads a bare `off` as false."""
        return "off" if mode is False else mode

    @model_validator(mode="after")
    def _target_is_given_once(self) -> "ImportanceConfig":
        if self.mode == "fixed" and (self.mu is None or self.sigma is None):
            raise ValueError("mode fixed needs mu and sigma, the target Gaussian")
        if self.mode != "fixed" and (self.mu is not None or self.sigma is not None):
            raise ValueError(f"mode {self.mode} takes no mu and sigma; drop them, or choose mode fixed")
        return self

    def for_role(self, role: str) -> "ImportanceConfig | None":
        """Itself where it weights the loss of a `member` or of the `final` detector, else None."""
        return self if self.mode != "off" and (role == "final" or self.members) else None

    def effective_settings(self) -> dict[str, Any]:
        """The settings that a weighted fit depends on, JSON-ready."""
        return self.model_dump(mode="json", exclude=self._idle() | {"members"})

    def notices(self) -> list[str]:
        """One sentence for each setting that has no effect here; a run says them aloud."""
        changed = [name for name in type(self).model_fields if name in self._idle() and not self._is_default(name)]
        return [f"importance.{name} has no effect with mode {self.mode}" for name in changed]

    def _idle(self) -> set[str]:
        if self.mode == "off":
            return set(type(self).model_fields) - {"mode"}
        return {"mu_scale", "sigma_scale"} if self.mode == "fixed" else {"mu", "sigma"}

    def _is_default(self, name: str) -> bool:
        return bool(getattr(self, name) == type(self).model_fields[name].default)


class FinalConfig(Settings):
    """How the final detector is trained."""

    num_workers: int = Field(
        1, ge=1, le=1024, description="workers that share each batch (Ray Train), each with `resources` of its own"
    )


class ThresholdConfig(Settings):
    """The score above which an image is called anomalous, from normal images that were held out; reads no label."""

    false_alarm_rate: Annotated[float, Field(gt=0, le=0.5)] = Field(
        0.01, description="share of images like the kept ones that may score above it"
    )
    normals: Literal["kept", "all"] = Field(
        "kept",
        description="training images counted as normal: those kept, which makes the rate too low a promise where "
        "normal images were rejected, or all, which makes the threshold too high where there are anomalies",
    )
    method: Literal["members", "folds"] = Field(
        "members",
        description="where held-out scores come from: the members, brought to the final detector's scale, which costs "
        "nothing, or folds, further final detectors each fitted without its own; folds too where there are no members, "
        "or too few rejected images to compare scales by",
    )
    folds: int = Field(2, ge=2, description="further fits of the final detector, where held-out scores need them")


class ResourcesConfig(Settings):
    """What one member (or the final detector) owns while it works, on either executor."""

    num_cpus: PositiveInt = Field(1, le=1024, description="CPU cores, and torch threads, per member")
    num_gpus: Annotated[float, Field(ge=0, le=1)] = Field(0, description="GPUs per member; 1/n shares one")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where num_gpus > 0")
    batch_size: PositiveInt = Field(32, description="images per encoder or scoring batch")
    checkpoint_s: Annotated[float, Field(ge=0)] = Field(
        60, description="seconds between checkpoints of a fit; a killed one goes on from its last"
    )
    max_restarts: int = Field(3, ge=0, description="times Ray restarts a member whose process died")

    @model_validator(mode="after")
    def _gpus_make_sense(self) -> "ResourcesConfig":
        gpus = self.num_gpus
        if gpus and abs(1 / gpus - round(1 / gpus)) > 1e-3:
            raise ValueError("num_gpus must be 1 or a fraction 1/n (0.5, 0.25, ...)")
        if self.device == "cuda" and not gpus:
            # Ray does not hide GPUs from workers that ask for none: they would all crowd onto the first one.
            raise ValueError("device cuda needs num_gpus above 0")
        return self


class EvaluationConfig(Settings):
    """How the final detector is measured where labels exist."""

    fpr_limit: Share = Field(0.3, description="AUPRO integrates up to this pixel false-positive rate")
    sigma_px: Annotated[float, Field(ge=0, le=1000)] | None = Field(
        None, description="Gaussian that smooths upsampled maps; default: 4 at 224 px, in proportion elsewhere"
    )

    def sigma_at(self, size_px: int) -> float:
        """The Gaussian for maps of `size_px`, in pixels (LLBNAD and PatchCore: 4)."""
        return size_px / 56 if self.sigma_px is None else self.sigma_px


class RunConfig(Settings):
    """Everything a run depends on besides the images."""

    seed: int = Field(0, ge=0, strict=True)
    data: DataConfig = DataConfig()
    features: FeaturesConfig = FeaturesConfig()
    detector: DetectorConfig = AutoencoderConfig()
    members: MembersConfig = MembersConfig()
    purify: PurifyConfig = PurifyConfig()
    importance: ImportanceConfig = ImportanceConfig()
    final: FinalConfig = FinalConfig()
    threshold: ThresholdConfig = ThresholdConfig()
    resources: ResourcesConfig = ResourcesConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="before")
    @classmethod
    def _default_detector(cls, tree: Any) -> Any:
        """`detector.channels=8` alone means the default detector, which a tagged union cannot say by itself."""
        detector = tree.get("detector") if isinstance(tree, dict) else None
        if isinstance(detector, dict) and "name" not in detector:
            return {**tree, "detector": {"name": AutoencoderConfig().name, **detector}}
        return tree

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
        if isinstance(self.detector, _STEPLESS):
            raise ValueError(
                f"importance.mode={mode} weights a training loss, and detector {self.detector.name} has none; "
                "choose importance.mode=off or a detector that is trained by gradients"
            )
        if buffer < self.detector.batch_size:
            raise ValueError(f"importance.buffer={buffer} is less than one batch; raise it to detector.batch_size")
        return self

    @model_validator(mode="after")
    def _detector_takes_bands(self) -> "RunConfig":
        if self.data.bands is not None and not isinstance(self.detector, AutoencoderConfig):
            raise ValueError(
                f"data.bands={self.data.bands}: the backbone of detector {self.detector.name} knows RGB photographs "
                "alone; choose detector.name=autoencoder, or leave data.bands out"
            )
        return self

    @model_validator(mode="after")
    def _every_worker_has_something_to_do(self) -> "RunConfig":
        count = self.final_workers
        if count > 1 and not isinstance(self.detector, _STEPLESS) and count > self.detector.batch_size:
            raise ValueError(f"final.num_workers={count} share a batch; raise detector.batch_size to {count} at least")
        if count > 1 and 0 < self.resources.num_gpus < 1:
            # NCCL refuses two processes on one GPU.
            raise ValueError(f"final.num_workers={count} need a GPU each; set resources.num_gpus to 1, or to 0")
        return self

    @model_validator(mode="after")
    def _screening_has_a_backbone(self) -> "RunConfig":
        if self.members.detector == "density" and isinstance(self.detector, AutoencoderConfig):
            raise ValueError(
                "members.detector=density looks at a backbone's features, and detector autoencoder has none; "
                "choose members.detector=same or another detector"
            )
        return self

    @property
    def screens_by_density(self) -> bool:
        """Whether the sub-models look for outlying patches, whatever the final detector does."""
        has_backbone = not isinstance(self.detector, AutoencoderConfig)
        suits = has_backbone and self.purify.filter in ("llb", "random")  # the rivals have sub-models of their own
        return self.members.detector == "density" or (self.members.detector == "auto" and suits)

    @property
    def num_members(self) -> int:
        """How many sub-models there are."""
        return self.purify.num_members(self.members.count)

    @property
    def fewest_members(self) -> int:
        """How many of them must come through."""
        return self.num_members if self.members.min_members is None else self.members.min_members

    @model_validator(mode="after")
    def _rivals_have_what_they_need(self) -> "RunConfig":
        name = self.purify.filter
        if name in ("softpatch", "memory_ensemble") and not isinstance(self.detector, MemoryBankConfig):
            raise ValueError(
                f"purify.filter={name} is about a memory of patches, and detector {self.detector.name} has none; "
                "choose detector.name=memory_bank or another filter"
            )
        return self

    def detector_of(self, role: Literal["member", "final"]) -> DetectorConfig:
        """The settings of a sub-model's detector or of the final one; they share a backbone, and its layers."""
        detector = self.detector
        if role == "member" and self.purify.filter == "memory_ensemble":
            assert isinstance(detector, MemoryBankConfig), "_rivals_have_what_they_need"
            size = round(_MEMORY_SHARE * detector.candidates)
            return detector.model_copy(update={"memory": "plain", "coreset": "random", "coreset_size": size})
        if role == "member" and self.screens_by_density:
            assert not isinstance(detector, AutoencoderConfig), "_screening_has_a_backbone"
            shared = {name: getattr(detector, name) for name in ("image_size_px", "backbone", "neighbourhood")}
            return DensityConfig.model_validate({**shared, "rescue": self.members.rescue})
        if isinstance(detector, MemoryBankConfig) and detector.memory == "by_filter":
            memory = _MEMORIES.get(self.purify.filter, "plain") if role == "final" else "plain"
            return detector.model_copy(update={"memory": memory})
        return detector

    @property
    def reads_suspects(self) -> bool:
        """Whether the final detector looks at rejected images too: a robust memory doubts their patches by itself."""
        final = self.detector_of("final")
        return self.purify.filter == "llb" and isinstance(final, MemoryBankConfig) and final.memory == "robust"

    def importance_of(self, role: Literal["member", "final"]) -> ImportanceConfig | None:
        """The weighting of a sub-model's loss or of the final detector's; None where it has none."""
        return None if isinstance(self.detector_of(role), _STEPLESS) else self.importance.for_role(role)

    @property
    def final_workers(self) -> int:
        """How many workers train the final detector: one that takes no steps is fitted by one."""
        return 1 if isinstance(self.detector, _STEPLESS) else self.final.num_workers

    def notices(self) -> list[str]:
        """One sentence for each setting that has no effect here; a run says them aloud."""
        idle = [*self.purify.notices(), *self.importance.notices()]
        if not self.members.rescue and not self.screens_by_density:
            idle.append("members.rescue has no effect: the sub-models are not density members")
        if self.final_workers != self.final.num_workers:
            idle.append("final.num_workers has no effect: a memory bank is fitted by one worker")
        if self.importance.for_role("member") and not self.purify.reads_scores:
            idle.append(f"importance.members has no effect with purify.filter {self.purify.filter}: it has no members")
        elif self.importance.for_role("member") and self.importance_of("member") is None:
            idle.append("importance.members has no effect: density members have no loss; set members.detector=same")
        return idle

    def to_yaml(self) -> str:
        """The resolved configuration, complete; `load` reads it back equal."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
