"""The sections of a run's configuration that are about the run itself, not its detectors or its members."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from llb_ray.config.base import Settings, Share
from llb_ray.config.image_size import Size, sides
from llb_ray.config.node_labels import NodeLabels
from llb_ray.config.worker_range import NumWorkers
from llb_ray.errors import ConfigError


class DataConfig(Settings):
    """The reading of a folder into a manifest."""

    category: str | None = Field(None, description="name in the tables; default: the folder's name")
    group_pattern: str | None = Field(
        None, description="regular expression searched in the relative path; its first group names the object"
    )
    max_pixels: PositiveInt = Field(90_000_000, description="larger images are quarantined as decompression bombs")
    bands: Annotated[PositiveInt, Field(le=4096)] | None = Field(
        None,
        description="images are arrays (.npy, .npz) or TIFFs of this many bands or pages; default: photographs, as RGB",
    )
    ignore_mask: str | None = Field(
        None,
        description="an image, white where photographs are not to be looked at, or a labelme file of polygons; or a "
        "folder with one for each photograph, at its path; brought to the photographs' size (a relative path is "
        "relative to the YAML file it is in)",
    )
    inspect_mask: str | None = Field(
        None, description="the same, white where they are to be looked at; everything else is ignored"
    )

    @field_validator("ignore_mask", "inspect_mask")
    @classmethod
    def _absolute(cls, mask: str | None) -> str | None:
        """A path that is the same from every working directory."""
        return None if mask is None else str(Path(mask).expanduser().absolute())

    def refuse_beside_manifest(self) -> None:
        """Raise ConfigError for a setting that a manifest file decides."""
        for name in ("category", "group_pattern"):
            if getattr(self, name) is not None:
                remedy = f"drop it (--set data.{name}=null)"
                raise ConfigError(f"data.{name} has no effect with a manifest file, which has its own; {remedy}")


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
    local: str | None = Field(
        None,
        description="a folder on each machine's own disk, to which the cache is copied before it is read; for runs on "
        "shared storage",
    )
    local_gib: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="disk that those copies may take on a machine; default: what is free there "
        "beyond a tenth of the disk",
    )

    @model_validator(mode="after")
    def _copies_have_a_place(self) -> "FeaturesConfig":
        if self.local is not None and not Path(self.local).is_absolute():
            raise ValueError(f"local={self.local!r} is not the same folder for every worker; give an absolute path")
        if self.local is not None and self.max_gib == 0:
            raise ValueError("local has no effect with max_gib=0, which caches nothing; drop one of the two")
        if self.local is None and self.local_gib is not None:
            raise ValueError("local_gib has no effect without local; give the folder, or drop it")
        return self


class ImportanceConfig(Settings):
    """The importance-weighted loss of a detector trained by gradients (arXiv 2601.02440, reconstructed)."""

    mode: Literal["off", "fixed", "moments", "robust"] = Field(
        "off", description="target Gaussian: given, or mean/std (moments) or median/MAD (robust) of recent scores"
    )
    mu: float | None = Field(None, description="mean of the target, in units of the score (fixed)")
    sigma: Annotated[float, Field(gt=0)] | None = Field(None, description="spread of the target (fixed)")
    mu_scale: Annotated[float, Field(gt=0)] = Field(1, description="times the mean found (moments and robust)")
    sigma_scale: Annotated[float, Field(gt=0)] = Field(3, description="times the spread found (moments and robust)")
    log_scores: bool = Field(False, description="work on the logarithm of the scores; mu and sigma are then in logs")
    cap: Annotated[float, Field(gt=1)] = Field(10, description="largest weight before they are brought to mean one")
    eps: Annotated[float, Field(gt=0)] = Field(1e-6, description="least density of the scores that is divided by")
    buffer: PositiveInt = Field(
        256,
        description="recent scores that density and target are taken from, at least a batch; in a fit of a few hundred "
        "steps most of a larger number would be stale (benchmarks/long_tail_juice_bottle.md)",
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
        """One sentence for each setting that has no effect here; a run logs them."""
        changed = [name for name in type(self).model_fields if name in self._idle() and not self._is_default(name)]
        return [f"importance.{name} has no effect with mode {self.mode}" for name in changed]

    def _idle(self) -> set[str]:
        if self.mode == "off":
            return set(type(self).model_fields) - {"mode"}
        return {"mu_scale", "sigma_scale"} if self.mode == "fixed" else {"mu", "sigma"}

    def _is_default(self, name: str) -> bool:
        return bool(getattr(self, name) == type(self).model_fields[name].default)


class FinalConfig(Settings):
    """The training of the final detector."""

    num_workers: NumWorkers = Field(
        1,
        description="workers that share each batch (Ray Train), each with `resources` of its own; with [2, 4], as many "
        "of 2 to 4 as the nodes hold when the training starts, and after the death of one",
    )
    label_selector: NodeLabels | None = Field(
        None,
        description="labels of the Ray nodes that the final detector, and those without a fold, are trained on; "
        "default: resources.label_selector",
    )


class ThresholdConfig(Settings):
    """The score above which an image is called anomalous, from normal images that were held out; reads no label."""

    false_alarm_rate: Annotated[float, Field(gt=0, le=0.5)] = Field(
        0.01, description="share of images like the kept ones that may score above it"
    )
    normals: Literal["bulk", "kept", "all"] = Field(
        "kept",
        description="training images counted as normal: those that any round kept, which makes the rate too low a "
        "promise where normal images were rejected; of them the bulk, whose held-out scores do not stand out, where "
        "many anomalies are believed to be kept; or all, which makes the threshold too high where there are anomalies",
    )
    method: Literal["members", "folds", "none"] = Field(
        "members",
        description="where held-out scores come from: the members, brought to the final detector's scale, which costs "
        "nothing, or folds, further final detectors each fitted without its own; folds too where there are no members, "
        "too few rejected images to compare scales by, or a further round; none sets no threshold: scores and metrics "
        "only, and what a scan does unless its configuration has a section threshold",
    )
    folds: int = Field(5, ge=2, description="further fits of the final detector, where held-out scores need them")

    def notices(self) -> list[str]:
        """One sentence for each setting that has no effect here; a run logs them."""
        idle = ["false_alarm_rate", "normals"] if self.method == "none" else []
        changed = [name for name in idle if getattr(self, name) != type(self).model_fields[name].default]
        return [f"threshold.{name} has no effect with threshold.method none" for name in changed]


class ResourcesConfig(Settings):
    """Resources that one member (or the final detector) owns while it runs, on either executor."""

    num_cpus: PositiveInt = Field(1, le=1024, description="CPU cores, and torch threads, per member")
    num_gpus: Annotated[float, Field(ge=0, le=1)] = Field(0, description="GPUs per member; 1/n shares one")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where num_gpus > 0")
    batch_size: PositiveInt = Field(32, description="images per encoder or scoring batch")
    checkpoint_s: Annotated[float, Field(ge=0)] = Field(
        60, description="seconds between checkpoints of a fit; a killed one goes on from its last"
    )
    max_restarts: int = Field(3, ge=0, description="times Ray restarts a member whose process died")
    label_selector: NodeLabels = Field(
        {},
        description="labels of the Ray nodes that members may run on, as in {ray.io/accelerator-type: A100}; values "
        "are Ray's: VALUE, !VALUE, in(VALUE, VALUE), !in(VALUE, VALUE)",
    )
    autoscale_to: PositiveInt | None = Field(
        None,
        le=100_000,
        description="members at once that a cluster's autoscaler may add nodes for; default: as many as its nodes hold",
    )
    autoscale_wait_s: Annotated[float, Field(gt=0)] = Field(
        900, description="seconds to wait for the first node that can hold a member, where autoscale_to is set"
    )

    @model_validator(mode="after")
    def _gpus_make_sense(self) -> "ResourcesConfig":
        gpus = self.num_gpus
        if gpus and abs(1 / gpus - round(1 / gpus)) > 1e-3:
            raise ValueError("num_gpus must be 1 or a fraction 1/n (0.5, 0.25, ...)")
        if self.device == "cuda" and not gpus:
            # Ray does not hide GPUs from workers that ask for none: they would all crowd onto the first one.
            raise ValueError("device cuda needs num_gpus above 0")
        return self

    @property
    def description(self) -> str:
        """The resources of one worker and the labels of its node, in words."""
        labels = " and ".join(f"{key}: {value}" for key, value in self.label_selector.items())
        where = f"one node labelled {labels}" if labels else "one node"
        return f"{self.num_cpus} CPUs and {self.num_gpus:g} GPUs on {where}"


class EvaluationConfig(Settings):
    """The measuring of the final detector where labels exist."""

    fpr_limit: Share = Field(0.3, description="AUPRO integrates up to this pixel false-positive rate")
    sigma_px: Annotated[float, Field(ge=0, le=1000)] | None = Field(
        None, description="Gaussian that smooths upsampled maps; default: 4 at 224 px, in proportion elsewhere"
    )

    def sigma_at(self, size_px: int | Size) -> float:
        """The Gaussian for maps of `size_px`, in pixels, by the shorter side (LLBNAD and PatchCore: 4)."""
        return min(sides(size_px)) / 56 if self.sigma_px is None else self.sigma_px
