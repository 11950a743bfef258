"""The settings that all detectors have, and their traits for the rest of llb_ray; `detector.name` chooses one."""

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, PositiveInt, SerializeAsAny, WrapValidator, field_validator, model_validator
from pydantic_core import PydanticCustomError

from llb_ray.config.backbone_config import BackboneConfig
from llb_ray.config.base import Settings
from llb_ray.config.image_size import ImageSize, Size, format_size, sides
from llb_ray.config.tiles_config import TilesConfig
from llb_ray.errors import ConfigError
from llb_ray.extensions import DETECTORS

if TYPE_CHECKING:  # a configuration is read without torch
    import torch

    from llb_ray.config.sections import ImportanceConfig

Role = Literal["member", "final"]
_DEFAULT = "memory_bank"


class SlowCore(NamedTuple):
    """Seconds that a slow core takes at 224 px, before anybody has measured them."""

    fit: float = 1.0
    row: float = 0.005  # of a fit, per image
    step: float = 0.5  # of a fit, per optimiser step
    score: float = 0.02  # per image


class DetectorConfig(Settings):
    """The settings of one detector, next to it in `detectors`; the traits and methods are what others ask of it.

    Another package adds a detector by an entry point in the group ``llb_ray.detectors``, of the same name as `name`.
    A detector of this class learns from pixels; `BackboneDetectorConfig` is for features of a frozen network.
    """

    trains_by_gradient: ClassVar[bool] = False  # down a loss, in steps: see `GradientDetectorConfig`
    max_bands: ClassVar[int] = 0  # of images that are arrays; 0: RGB photographs alone
    leaves_out: ClassVar[bool] = False  # regions of images: has `detectors.base.LeavingOut.leave_out`
    has_memory: ClassVar[bool] = False  # of patches, with settings memory, coreset, coreset_size and candidates
    memory_tensors: ClassVar[tuple[str, ...]] = ()  # of its state: those that grow with what `shortened` cuts
    draws_at_random: ClassVar[bool] = True  # another seed gives another detector
    slow_core: ClassVar[SlowCore] = SlowCore()

    name: str
    image_size_px: ImageSize

    @abstractmethod
    def build(self, role: Role, device: "torch.device", importance: "ImportanceConfig | None") -> Any:
        """An unfitted `detectors.base.Detector` with the budget of a sub-model or of the final detector.

        `importance` weights its training loss, if it trains by gradient; only fitting needs to know.
        """

    @property
    def size(self) -> Size:
        """Height and width that images are brought to."""
        return sides(self.image_size_px)

    @property
    def tiling(self) -> TilesConfig | None:
        """The pieces that images are encoded in; None: as a whole."""
        return None

    @property
    def encoded_size(self) -> Size:
        """Height and width of what the encoder takes at once."""
        return self.size if self.tiling is None else sides(self.tiling.size_px)

    @property
    def num_tiles(self) -> int:
        """Number of pieces of an image."""
        return 1 if self.tiling is None else self.tiling.count(self.size)

    def images_at_once(self, batch_size: int) -> int:
        """Number of images to handle together where so many would be that are not in pieces."""
        return max(1, batch_size // self.num_tiles)

    @property
    def network(self) -> "BackboneConfig | None":
        """The frozen network whose features it learns from; None if it learns from pixels."""
        return None

    @property
    def weighs_images(self) -> bool:
        """True if it can learn less from some images than from others: see `detectors.base.WeighingDetector`."""
        return False

    @property
    def reads_context(self) -> bool:
        """True if the encoder is to give a deeper layer of the network, after the others."""
        return False

    def num_steps(self, role: Role) -> int:
        """Optimiser steps of a fit; 0 if it is fitted in one pass."""
        return 0

    @property
    def images_per_step(self) -> int:
        """Images in the batch of a step; 0 without steps."""
        return 0

    def reads(self, role: Role, num_rows: int) -> int:
        """Number of images that a fit on `num_rows` rows reads from its source, repetitions counted."""
        return num_rows

    def shortened(self, steps: int) -> tuple[Self, float]:
        """A detector that is quickly fitted, to try how long that takes: so many steps, or a small memory.

        And how many times as much the real one's memory takes to choose and to compare with.
        """
        return self, 1.0

    def cut_short(self, share: float) -> Self:
        """The same with a share of the final detector's steps, if it takes any."""
        return self

    def with_memory(self, kind: str) -> Self:
        """The same with the kind of memory that a filter prefers, if the choice is left to it."""
        return self

    def check_layers(self, layers: "tuple[torch.Tensor, ...]") -> list[str]:
        """One sentence for each setting without effect on layers like these, an image's.

        Raises ConfigError for layers that it cannot learn from.  Quick: it is asked before the first long stage.
        """
        return []


class BackboneDetectorConfig(DetectorConfig):
    """The settings of a detector on the features of a frozen network."""

    image_size_px: ImageSize = Field(
        224, description="size that photographs are brought to: the side of a square, or [height, width]"
    )
    tiles: TilesConfig | None = Field(
        None, description="encode photographs in overlapping tiles, for small defects in large photographs"
    )
    backbone: BackboneConfig = BackboneConfig()
    neighbourhood: PositiveInt = Field(3, description="side of the cells about a cell that its patch is made of; odd")

    @field_validator("neighbourhood")
    @classmethod
    def _has_a_centre(cls, neighbourhood: int) -> int:
        if neighbourhood % 2 == 0:
            raise ValueError("the side must be odd, so that each cell is the centre of its neighbourhood")
        return neighbourhood

    @model_validator(mode="after")
    def _tiles_fit_the_image(self) -> Self:
        if self.tiles is not None and self.tiles.size_px > min(self.size):
            raise ValueError(
                f"tiles.size_px={self.tiles.size_px} is larger than an image of {format_size(self.size)} px "
                "(image_size_px, the size of the whole photograph); raise that one, or leave tiles out"
            )
        return self

    @property
    def tiling(self) -> TilesConfig | None:
        """See `DetectorConfig`."""
        return self.tiles

    @property
    def network(self) -> BackboneConfig:
        """See `DetectorConfig`."""
        return self.backbone


class GradientDetectorConfig(DetectorConfig):
    """The settings of a detector that is trained down a loss: its fits may be weighted, resumed and shared by workers.

    A subclass has the fields below, wherever it wants them in its order.
    """

    trains_by_gradient = True

    if TYPE_CHECKING:
        member_steps: int
        final_steps: int
        batch_size: int

    @property
    def measuring_passes(self) -> int:
        """Number of passes over all images besides the steps of a fit."""
        return 0

    def num_steps(self, role: Role) -> int:
        """See `DetectorConfig`."""
        return self.member_steps if role == "member" else self.final_steps

    @property
    def images_per_step(self) -> int:
        """See `DetectorConfig`."""
        return self.batch_size

    def reads(self, role: Role, num_rows: int) -> int:
        """See `DetectorConfig`."""
        shapes = 1  # the first image, for the sizes of the network
        steps = self.num_steps(role) * min(self.batch_size, num_rows)
        return shapes + steps + self.measuring_passes * num_rows

    def shortened(self, steps: int) -> tuple[Self, float]:
        """See `DetectorConfig`."""
        return self.model_copy(update={"member_steps": steps, "final_steps": steps}), 1.0

    def cut_short(self, share: float) -> Self:
        """See `DetectorConfig`."""
        return self.model_copy(update={"final_steps": max(1, round(share * self.final_steps))})


def detector_class(name: str) -> type[DetectorConfig]:
    """The class of a detector's settings; raises ConfigError for a broken one of another package."""
    found: type[DetectorConfig] = DETECTORS.load(name, DetectorConfig)  # type: ignore[type-abstract]
    declared = found.model_fields["name"].default
    if declared != name:
        raise ConfigError(f"{DETECTORS.origin(name)} is a detector named {declared!r}; the two names must be the same")
    return found


def default_detector() -> DetectorConfig:
    """The settings of a configuration that names no detector."""
    return detector_class(_DEFAULT).model_validate({})


def _chosen(value: Any, validate: Callable[[Any], DetectorConfig]) -> DetectorConfig:
    """The settings of the detector that `name` chooses, by default the memory bank."""
    if isinstance(value, DetectorConfig):
        if detector_class(value.name) is not type(value):
            raise ValueError(f"detector {value.name!r} has no entry point of its own; see docs/extending.md")
        return value
    if not isinstance(value, dict):
        return validate(value)  # refuses it in pydantic's way
    name = value.get("name", _DEFAULT)
    if problem := DETECTORS.problem(name):
        raise PydanticCustomError("no_such_detector", "{problem}", {"name": name, "problem": problem})
    return detector_class(name).model_validate({"name": name, **value})


ChosenDetector = Annotated[SerializeAsAny[DetectorConfig], WrapValidator(_chosen)]
