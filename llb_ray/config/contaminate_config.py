"""The recipe of contaminated training sets: of which data set, how much, and how unevenly."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PositiveInt, model_validator

from llb_ray.config.base import Settings
from llb_ray.config.dataset_options import DatasetConfig
from llb_ray.errors import ConfigError

Alpha = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
_FORM = (
    "write COLUMN=112:20:4 (a number per pattern, which rotate with the seed) or NAME=1,NAME=0.2 (shares or numbers)"
)


class TailConfig(Settings):
    """Numbers of normal objects of each pattern for training; numbers given by name go to the patterns of these names.

    Without names, the sorted patterns take the numbers in turn, beginning with the one of the seed's number.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)  # YAML reads the name of a digit as a number

    column: str = Field("pattern", description="column of the listing that names the pattern")
    counts: tuple[PositiveInt, ...] | dict[str, PositiveInt] | None = Field(None, description="objects of each pattern")
    shares: tuple[Fraction, ...] | dict[str, Fraction] | None = Field(
        None, description="share of each pattern's objects"
    )
    rest: Literal["dropped", "anomalous"] = Field(
        "dropped", description="what images of other patterns are; anomalous: unlabelled ones of the tail are normal"
    )

    @model_validator(mode="after")
    def _amounts_are_given_once(self) -> "TailConfig":
        if bool(self.counts) == bool(self.shares):
            raise ValueError("needs either counts or shares")
        return self

    @classmethod
    def typed(cls, text: str) -> "TailConfig":
        """The tail as typed: ``pattern=112:20:4`` or ``0=1,1=0.2,2=0.05``.

        Numbers that are all at most 1 are shares.  Raises ConfigError for anything else.
        """
        pairs = [part.split("=") for part in text.split(",")]
        try:
            if len(pairs) == 1 and ":" in text:
                ((column, numbers),) = pairs
                return cls(column=column, **_amounts([float(number) for number in numbers.split(":")]))
            return cls(**_amounts({name: float(number) for name, number in pairs}))
        except ValueError as error:
            raise ConfigError(f"--tail {text}: not a long tail; {_FORM}") from error

    def names(self) -> tuple[str, ...] | None:
        """The patterns, if they are named."""
        amounts = self.counts or self.shares
        return tuple(amounts) if isinstance(amounts, dict) else None

    def amounts(self) -> tuple[float, ...]:
        """A count or share for each pattern."""
        amounts = self.counts or self.shares or ()
        return tuple(amounts.values()) if isinstance(amounts, dict) else amounts

    def count(self, amount: float, available: int) -> int:
        """Number of objects that an amount is of a pattern that has so many; a share of some is never none."""
        return int(amount) if self.counts else max(1, round(amount * available))


class ContaminateConfig(Settings):
    """Training sets at several noise levels and seeds, from one labelled data set."""

    dataset: DatasetConfig | None = Field(
        None, description="the labelled data set; none where a manifest file is given"
    )
    alphas: Annotated[tuple[Alpha, ...], Field(min_length=1)] = Field(
        (0.1,), description="anomalous shares of the training objects"
    )
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    num_objects: PositiveInt | None = Field(
        None, description="objects for training; default: as many as max_alpha allows; a tail sets it itself"
    )
    max_alpha: Alpha | None = Field(
        None, description="the test set is the same at all alphas up to here; default: the largest of alphas"
    )
    tail: TailConfig | None = None
    given: bool = Field(False, description="real_iad: take the official contaminated (FUIAD) lists instead of drawing")

    @model_validator(mode="after")
    def _fits(self) -> "ContaminateConfig":
        if self.max_alpha is not None and self.max_alpha < max(self.alphas):
            raise ValueError(f"max_alpha={self.max_alpha:g} is less than alpha {max(self.alphas):g}; raise it")
        if self.tail is not None and self.num_objects is not None:
            raise ValueError("num_objects has no effect with a tail, which sets how many there are; drop one")
        if self.given and (self.tail or self.num_objects or self.max_alpha is not None):
            raise ValueError("the official lists (given) are as they are; drop tail, num_objects and max_alpha")
        return self

    @property
    def reserved_alpha(self) -> float:
        """The largest alpha that the test set leaves anomalies for."""
        return max(self.alphas) if self.max_alpha is None else self.max_alpha

    def recipe(self) -> dict[str, Any]:
        """Everything a training set depends on besides its alpha, its seed and the data set, JSON-ready."""
        tail = None if self.tail is None else self.tail.model_dump(mode="json")
        return {"num_objects": self.num_objects, "max_alpha": self.reserved_alpha, "tail": tail}


def _amounts(numbers: Any) -> dict[str, Any]:
    """As shares where all are at most 1, else as counts."""
    values = numbers.values() if isinstance(numbers, dict) else numbers
    return {"shares" if all(value <= 1 for value in values) else "counts": numbers}
