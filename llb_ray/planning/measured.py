"""What a calibration found: costs that grow with what there is to do, and sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llb_ray.detectors.build import Role


@dataclass(frozen=True)
class Linear:
    """Seconds of something: so many at all, and so many per unit."""

    start_s: float
    unit_s: float

    def seconds(self, units: float) -> float:
        return self.start_s + self.unit_s * units

    @classmethod
    def through(cls, few: tuple[float, float], many: tuple[float, float]) -> "Linear":
        """Through two measurements (units, seconds); noise never makes it fall, nor start below nothing."""
        (few_units, few_s), (many_units, many_s) = few, many
        if many_units == few_units:
            return cls(0.0, many_s / many_units if many_units else 0.0)
        unit_s = max(0.0, (many_s - few_s) / (many_units - few_units))
        return cls(max(0.0, few_s - unit_s * few_units), min(unit_s, many_s / many_units))


@dataclass(frozen=True)
class Cost:
    """What a detector takes in one of its roles; seconds, and bytes."""

    fit: Linear  # per row, without its steps
    step_s: float
    score_s: float  # one image, its layers at hand
    load_s: float  # when it is fitted
    state_bytes: int


@dataclass(frozen=True)
class Measured:
    """What a worker found; seconds, and bytes."""

    encode: Linear  # the stage features, per image
    costs: Mapping[Role, Cost]  # of each role that the run has
    reading: Linear  # a stage of scores, per image, without what the detectors take
    evaluate: Linear  # the stage evaluate, per labelled test image
    unclocked_s: float  # of a whole run: imports, digests, the table at the end
    layer_bytes: float  # of the cache, per image
    map_bytes: float  # of final scores and maps, per image
    other_bytes: float  # of tables, per image
    peak_bytes: int  # memory of this process
    resident_bytes: int  # the same, at the end
    shared_bytes: int  # of it, what processes beside each other have in common: libraries
    gpu_bytes: int  # that torch reserved, at its peak
    gpu_total_bytes: int
    seconds: float  # that it took to find out

    @classmethod
    def of_json(cls, told: dict[str, Any]) -> "Measured":
        lines = {name: Linear(**told[name]) for name in ("encode", "reading", "evaluate")}
        costs = {role: Cost(**{**one, "fit": Linear(**one["fit"])}) for role, one in told["costs"].items()}
        return cls(**{**told, **lines, "costs": costs})
