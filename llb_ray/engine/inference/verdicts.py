"""Verdicts of a detector on images, and the calibration that they follow from.

Shapes: N images, H x W cells of the detector's map.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from llb_ray.artifacts import Artifact
from llb_ray.config import Size, ThresholdConfig, parse_as
from llb_ray.data.ignored_regions import Ignored
from llb_ray.data.tables import read_table
from llb_ray.engine import filenames
from llb_ray.engine.inference.regions import ANY, Region, RegionFinder, rows_for
from llb_ray.engine.notebook_tables import MOST_ROWS, html_table, map_image
from llb_ray.ensemble.threshold import threshold_at
from llb_ray.errors import ArtifactError, ConfigError

NORMAL, ANOMALOUS = "normal", "anomalous"
NO_REGIONS = (
    "the run keeps no held-out maps, which regions need: it is of an earlier version (run the same command again, "
    "which adds them), or its sub-models are of another kind than its final detector (set threshold.method=folds)"
)
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Calibration:
    """A run's threshold, and the scores it comes from: of normal images by detectors that had not seen them."""

    threshold: float
    held_out_N: Floats  # ascending
    regions: RegionFinder | None = None  # None: the run keeps no held-out maps, or none is asked for

    @classmethod
    def of(cls, made: Artifact, regions: RegionFinder | None = None, category: str = ANY) -> "Calibration":
        """Content of a `threshold` artifact for a category, with the finder of regions where those are wanted."""
        facts = json.loads(made.file(filenames.THRESHOLD).read_text())
        threshold = facts["threshold"] if category == ANY else facts["by_category"][category]["threshold"]
        held_out = rows_for(read_table(made.file(filenames.HELD_OUT)), category)
        return cls(threshold, np.sort(held_out["score"].to_numpy()), regions)

    def with_mask(self, mask: Ignored | None) -> "Calibration":
        """The same for a photograph with this mask of its own."""
        if mask is None or self.regions is None:
            return self
        return replace(self, regions=replace(self.regions, grid=self.regions.grid.with_mask(mask)))

    def moved(self, threshold: float | None = None, false_alarm_rate: float | None = None) -> "Calibration":
        """The same scores with this threshold, or with the one that they give for this rate; itself with neither.

        Raises ConfigError for both at once, a threshold that is not finite, and a rate outside (0, 0.5].
        """
        if threshold is None and false_alarm_rate is None:
            return self
        if false_alarm_rate is None:
            threshold = _finite(threshold)
        elif threshold is None:
            asked = parse_as(ThresholdConfig, {"false_alarm_rate": false_alarm_rate}, "the threshold")
            threshold = threshold_at(self.held_out_N, asked.false_alarm_rate).value
        else:
            raise ConfigError("a threshold and a false-alarm rate: each decides by itself; give one of the two")
        return replace(self, threshold=threshold)


def threshold_categories(made: Artifact) -> list[str]:
    """The categories that a `threshold` artifact has thresholds for; `ANY` alone where the run has only one."""
    return sorted(json.loads(made.file(filenames.THRESHOLD).read_text()).get("by_category", [ANY]))


def refuse_several(made: Artifact, where: str, what: str) -> None:
    """Raise ConfigError for a `threshold` artifact of the run at `where` with several thresholds, which `what` does not
    know how to choose between."""
    names = threshold_categories(made)
    if names != [ANY]:
        raise ConfigError(
            f"{where}: has {len(names)} categories, each with a threshold of its own, and {what} takes runs of one; "
            "make a run of each (run --category), or use predict"
        )


@dataclass(frozen=True)
class Verdicts:
    """Verdicts of a detector on N images, in their order."""

    score_N: Floats  # rising with abnormality
    map_NHW: Floats  # at the detector's own resolution
    feature_NS: Floats  # mean features of the images (`mean_features`)
    sizes: Sequence[Size]  # height and width of each photograph, upright
    calibrations: Sequence[Calibration]  # that of each image's category
    own_masks: Sequence[Ignored | None] = ()  # of each photograph, in a run where each has its own

    def __len__(self) -> int:
        return len(self.score_N)

    @property
    def masks(self) -> Sequence[Ignored | None]:
        """The mask of each photograph that is its own; None of one without."""
        return self.own_masks or [None] * len(self)

    @property
    def decisions(self) -> list[str]:
        """``anomalous`` where the score is above the run's threshold, else ``normal``."""
        scored = zip(self.score_N.tolist(), self.calibrations, strict=True)
        return [ANOMALOUS if score > calibration.threshold else NORMAL for score, calibration in scored]

    @property
    def quantile_N(self) -> npt.NDArray[np.float64]:
        """Share of the run's held-out normal images that score lower."""
        scored = zip(self.score_N.tolist(), (calibration.held_out_N for calibration in self.calibrations), strict=True)
        return np.array([np.searchsorted(held_out_N, score) / len(held_out_N) for score, held_out_N in scored])

    @cached_property
    def regions(self) -> list[list[Region]]:
        """The places in each image where its map is above the run's pixel threshold, the highest peak first.

        Raises ArtifactError where the run keeps no held-out maps, which the pixel threshold comes from.
        """
        return [found.find(*one) for found, *one in zip(self.finders, self.map_NHW, self.sizes, strict=True)]

    @property
    def finders(self) -> list[RegionFinder]:
        """The finder of regions of each image; raises ArtifactError as `regions` does."""
        found = [calibration.regions for calibration in self.calibrations if calibration.regions is not None]
        if len(found) < len(self):
            raise ArtifactError(NO_REGIONS)
        return found

    def _repr_html_(self) -> str:
        """Table of the first verdicts with their maps, on one scale of colours, for notebooks."""
        low, high = float(self.map_NHW.min()), float(self.map_NHW.max())
        finds = all(calibration.regions for calibration in self.calibrations)
        rows = [
            (at, score, decision, quantile, len(self.regions[at]) if finds else None, map_image(map_HW, low, high))
            for at, (score, decision, quantile, map_HW) in enumerate(
                zip(self.score_N.tolist(), self.decisions, self.quantile_N.tolist(), self.map_NHW, strict=True)
            )
            if at < MOST_ROWS
        ]
        thresholds = ", ".join(f"{value:.4g}" for value in sorted({one.threshold for one in self.calibrations}))
        title = f"{len(self)} images, {self.decisions.count(ANOMALOUS)} above {thresholds}"
        columns = ("image", "score", "decision", "quantile", "regions", "map")
        return html_table(title, columns, rows, more=max(0, len(self) - MOST_ROWS))


def _finite(threshold: float | None) -> float:
    if threshold is None or not math.isfinite(threshold):
        raise ConfigError(f"the threshold {threshold} is no score; give a finite number")
    return float(threshold)
