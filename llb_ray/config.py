"""The configuration: a tree of frozen models, read from YAML, overridden by ``section.key=value``.

Every setting has one home, and unknown keys are refused with their dotted path and the nearest known one.
Neither torch nor ray is imported here: reading a configuration is instant.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from llb_ray.errors import ConfigError

Share = Annotated[float, Field(gt=0, le=1)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(_Settings):
    """How a folder becomes a manifest."""

    category: str | None = Field(None, description="name in the tables; default: the folder's name")
    group_pattern: str | None = Field(
        None, description="regular expression searched in the relative path; its first group names the object"
    )
    max_pixels: PositiveInt = Field(90_000_000, description="larger images are quarantined as decompression bombs")


class BackboneConfig(_Settings):
    """A frozen timm network; its weights are never random unless `weights: random` is typed."""

    name: str = Field("mobilenetv2_100", description="timm model name")
    weights: str = Field(
        "hub",
        description="a .safetensors or .pth file, 'hub' (download by timm name) or 'random' (for tests)",
    )
    layers: tuple[int, ...] = Field(
        (2, 3), description="timm feature indices, shallow to deep; the first sets the map's resolution"
    )

    @field_validator("weights")
    @classmethod
    def _absolute(cls, weights: str) -> str:
        """A file's path as every worker can use it: theirs is not the user's working directory."""
        return weights if weights in ("hub", "random") else str(Path(weights).absolute())


class AutoencoderConfig(_Settings):
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


class MemoryBankConfig(_Settings):
    """PatchCore-like: a coreset of frozen patch features, distances to the nearest (arXiv 2106.08265)."""

    name: Literal["memory_bank"] = "memory_bank"
    image_size_px: PositiveInt = Field(224, le=4096)
    backbone: BackboneConfig = BackboneConfig()
    neighbourhood: PositiveInt = Field(3, description="side of the local average pool, in cells; odd")
    standardize: bool = Field(True, description="scale each channel to unit spread over the training patches")
    coreset: Literal["k_center", "random"] = "k_center"
    coreset_size: PositiveInt = Field(2000, description="patches kept in the memory")
    candidates: PositiveInt = Field(40_000, description="patches the coreset is chosen from (bounds memory)")
    projection_dim: PositiveInt = Field(32, description="dimensions of the random projection that k_center works in")

    @field_validator("neighbourhood")
    @classmethod
    def _has_a_centre(cls, neighbourhood: int) -> int:
        return _odd(neighbourhood)


class ReconstructionConfig(_Settings):
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
        last = len(info.data["backbone"].layers) - 1
        if not all(0 <= index <= last for group in groups for index in group):
            raise ValueError(f"these are positions in backbone.layers, here 0 to {last}")
        return groups


DetectorConfig = Annotated[AutoencoderConfig | MemoryBankConfig | ReconstructionConfig, Field(discriminator="name")]


class MembersConfig(_Settings):
    """The ensemble of sub-models."""

    count: int = Field(5, ge=2, description="K: disjoint shares, one sub-model each")


Filter = Literal["llb", "none", "random", "oracle"]
Aggregate = Literal["mean", "median", "min", "max", "max_var", "trimmed_mean"]


class PurifyConfig(_Settings):
    """Which images the final detector is trained on."""

    filter: Filter = Field("llb", description="controls: none keeps all, random drops blindly, oracle reads labels")
    keep_ratio: Share = Field(0.8, description="share of the images kept (llb and random)")
    aggregate: Aggregate = "mean"
    members: Literal["held_out", "all"] = Field(
        "held_out", description="held_out ignores the score of the member that trained on the image"
    )
    normalize: Literal["none", "rank", "robust_z"] = Field("rank", description="applied to each member's scores first")
    trim: Annotated[float, Field(gt=0, lt=0.5)] = Field(0.25, description="share cut at each end (trimmed_mean)")

    def notices(self) -> list[str]:
        """One sentence for each setting that has no effect here; a run says them aloud."""
        idle: list[str] = []
        if self.filter != "llb":
            idle += ["aggregate", "members", "normalize", "trim"]
        elif self.aggregate != "trimmed_mean":
            idle += ["trim"]
        if self.filter in ("none", "oracle"):
            idle += ["keep_ratio"]
        changed = [name for name in idle if getattr(self, name) != type(self).model_fields[name].default]
        return [
            f"purify.{name} has no effect with filter {self.filter}, aggregate {self.aggregate}" for name in changed
        ]


class ImportanceConfig(_Settings):
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
    buffer: PositiveInt = Field(4096, description="recent scores that density and target are taken from")
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


class ResourcesConfig(_Settings):
    """What one member (or the final detector) owns while it works, on either executor."""

    num_cpus: PositiveInt = Field(1, le=1024, description="CPU cores, and torch threads, per member")
    num_gpus: Annotated[float, Field(ge=0, le=1)] = Field(0, description="GPUs per member; 1/n shares one")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where num_gpus > 0")
    batch_size: PositiveInt = Field(32, description="images per encoder or scoring batch")
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


class EvaluationConfig(_Settings):
    """How the final detector is measured where labels exist."""

    fpr_limit: Share = Field(0.3, description="AUPRO integrates up to this pixel false-positive rate")
    sigma_px: Annotated[float, Field(ge=0, le=1000)] | None = Field(
        None, description="Gaussian that smooths upsampled maps; default: 4 at 224 px, in proportion elsewhere"
    )

    def sigma_at(self, size_px: int) -> float:
        """The Gaussian for maps of `size_px`, in pixels (LLBNAD and PatchCore: 4)."""
        return size_px / 56 if self.sigma_px is None else self.sigma_px


class RunConfig(_Settings):
    """Everything a run depends on besides the images."""

    seed: int = Field(0, ge=0, strict=True)
    data: DataConfig = DataConfig()
    detector: DetectorConfig = AutoencoderConfig()
    members: MembersConfig = MembersConfig()
    purify: PurifyConfig = PurifyConfig()
    importance: ImportanceConfig = ImportanceConfig()
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
        rule, used = self.purify, self.members.count - (self.purify.members == "held_out")
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
        if isinstance(self.detector, MemoryBankConfig):
            raise ValueError(
                f"importance.mode={mode} weights a training loss, and detector {self.detector.name} has none; "
                "choose importance.mode=off or a detector that is trained by gradients"
            )
        if buffer < self.detector.batch_size:
            raise ValueError(f"importance.buffer={buffer} is less than one batch; raise it to detector.batch_size")
        return self

    def notices(self) -> list[str]:
        """One sentence for each setting that has no effect here; a run says them aloud."""
        idle = [*self.purify.notices(), *self.importance.notices()]
        if self.importance.for_role("member") and self.purify.filter != "llb":
            idle.append(f"importance.members has no effect with purify.filter {self.purify.filter}: it has no members")
        return idle

    def to_yaml(self) -> str:
        """The resolved configuration, complete; `load` reads it back equal."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load(path: Path | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration in a YAML file (or the defaults) with ``section.key=value`` overrides applied.

    Raises ConfigError naming the file or override, the dotted key, and the nearest known key.
    """
    config = parse(_read_yaml(path), str(path)) if path else RunConfig()
    return with_overrides(config, overrides)


def parse(tree: Mapping[str, Any], origin: str = "config") -> RunConfig:
    """The configuration of a plain dictionary; `origin` is named in error messages."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_sentence(error.errors()[0])}") from error


def with_overrides(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """A copy of `config` with ``section.key=value`` applied and checked."""
    tree = config.model_dump(mode="json", exclude_unset=True)
    for override in overrides:
        _apply(tree, override)
    return parse(tree, "--set")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the configuration cannot be read ({error}); give an existing YAML file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict | None):
        raise ConfigError(f"{path}: expected `section: ...` lines, found a {type(tree).__name__}; see configs/")
    # `purify:` with nothing below it is an empty section
    return {name: {} if section is None else section for name, section in (tree or {}).items()}


def _apply(tree: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"--set {override}: expected section.key=value, for example purify.keep_ratio=0.9")
    *parents, leaf = dotted.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {parent!r} is a value, not a section")
        tree = child
    try:
        tree[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: {text!r} is not a YAML value; quote it") from error


def _sentence(problem: ErrorDetails) -> str:
    names = [str(part) for part in problem["loc"]]
    detector = names[1] if names[:1] == ["detector"] and len(names) > 1 else None
    if detector in _DETECTORS:
        names.pop(1)  # pydantic names the union's branch, which a user never typed
    dotted = ".".join(names)
    message = problem["msg"].removeprefix("Value error, ")
    if not dotted:
        return message
    if problem["type"] == "extra_forbidden":
        return f"unknown key {dotted!r}{_hint(dotted, detector)}"
    return f"{dotted} = {problem['input']!r}: {message[0].lower()}{message[1:]}"


def _hint(dotted: str, detector: str | None) -> str:
    """The known key that was probably meant: the same last name elsewhere, else the nearest spelling."""
    known = list(known_keys(RunConfig, detector))
    same_leaf = [key for key in known if key.rpartition(".")[2] == dotted.rpartition(".")[2]]
    nearest = [*same_leaf, *difflib.get_close_matches(dotted, known, n=1)]
    return f"; did you mean {nearest[0]!r}?" if nearest else "; `llb-ray config` prints every known key"


def known_keys(model: type[BaseModel], detector: str | None = None, prefix: str = "") -> Iterator[str]:
    """Every dotted key; those of one detector only if it is named."""
    for name, spec in model.model_fields.items():
        nested = [
            child
            for child in _models(spec.annotation)
            if _DETECTORS.get(detector or "", child) is child or child not in _DETECTORS.values()
        ]
        if not nested:
            yield prefix + name
        for child in nested:
            yield from known_keys(child, detector, f"{prefix}{name}.")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, UnionType):
        for argument in get_args(annotation):
            yield from _models(argument)


_DETECTORS = {model.model_fields["name"].default: model for model in _models(DetectorConfig)}
