"""Results of a calibration: costs that grow with the amount of work, and sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llb_ray.config import Role


@dataclass(frozen=True)
class Linear:
    """Linear cost, in seconds or in bytes: a fixed part, and one per unit."""

    start: float
    unit: float

    def of(self, units: float) -> float:
        return self.start + self.unit * units

    @classmethod
    def through(cls, few: tuple[float, float], many: tuple[float, float]) -> "Linear":
        """Through two measurements (units, seconds or bytes); noise never makes it fall, nor start below nothing."""
        (few_units, few_took), (many_units, many_took) = few, many
        if many_units == few_units:
            return cls(0.0, many_took / many_units if many_units else 0.0)
        unit = max(0.0, (many_took - few_took) / (many_units - few_units))
        return cls(max(0.0, few_took - unit * few_units), min(unit, many_took / many_units))


@dataclass(frozen=True)
class Cost:
    """Cost of a detector in one of its roles; seconds, and bytes."""

    fit: Linear  # seconds per row, without its steps
    step_s: float
    score_s: float  # one image, its layers at hand
    load_s: float  # when it is fitted
    state: Linear  # bytes per row that it was fitted on


@dataclass(frozen=True)
class CostModel:
    """Costs that a worker measured; seconds, and bytes."""

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
    def of_json(cls, told: dict[str, Any]) -> "CostModel":
        lines = {name: Linear(**told[name]) for name in ("encode", "reading", "evaluate")}
        costs = {
            role: Cost(**{**one, "fit": Linear(**one["fit"]), "state": Linear(**one["state"])})
            for role, one in told["costs"].items()
        }
        return cls(**{**told, **lines, "costs": costs})
