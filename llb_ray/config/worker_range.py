"""Numbers of workers that train one detector together: a number, or the fewest and the most."""

from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, PositiveInt

_MOST = 1024


class WorkerRange(NamedTuple):
    """The fewest and the most workers of a training; the same where their number is fixed."""

    least: int
    most: int

    @classmethod
    def of(cls, setting: "int | tuple[int, int]") -> "WorkerRange":
        """The range that a setting names."""
        return cls(setting, setting) if isinstance(setting, int) else cls(*setting)

    @property
    def is_fixed(self) -> bool:
        """True if there is only one number."""
        return self.least == self.most

    def __str__(self) -> str:
        """As a configuration has it: ``4`` or ``[2, 4]``."""
        return f"{self.most}" if self.is_fixed else f"[{self.least}, {self.most}]"


ALONE = WorkerRange(1, 1)


def _refuse_other_shapes(value: Any) -> Any:
    """The value; raises ValueError with one sentence, where pydantic has one for each member of the union."""
    whole = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
    if not all(type(count) is int and 0 < count <= _MOST for count in whole) or whole[0] > whole[-1]:
        raise ValueError(f"give a whole number from 1 to {_MOST}, or the fewest and the most as [2, 4]")
    return value


NumWorkers = Annotated[PositiveInt | tuple[PositiveInt, PositiveInt], BeforeValidator(_refuse_other_shapes)]
