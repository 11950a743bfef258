"""Filters: given evidence, a decision about every training image.

Shapes: N training images.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from llb_ray.config import FilterTraits, PurifyConfig
from llb_ray.ensemble.decision import KEPT
from llb_ray.ensemble.score_matrix import ScoreMatrix
from llb_ray.errors import DataError
from llb_ray.extensions import FILTERS

DECISIONS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("aggregate", pa.float64()),  # null where the filter looks at no score
        pa.field("rank", pa.int64()),  # 1 = most normal; ties are broken by image_id
        pa.field("decision", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
Floats = npt.NDArray[np.float64]
Labels = Mapping[str, int | None]  # by image_id: 0 normal, 1 anomalous, None unknown
Decide = Callable[[str], tuple[str, str]]  # image_id -> (decision, reason)


@dataclass(frozen=True)
class Evidence:
    """Input of a filter: scores where it `reads_scores`, labels where it `reads_labels`."""

    image_ids: Sequence[str]
    seed: int
    matrix: ScoreMatrix | None = None
    labels: Labels | None = None

    @property
    def scores(self) -> ScoreMatrix:
        """The score matrix; raises DataError unless it is of these images."""
        if self.matrix is None or set(self.matrix.image_ids) != set(self.image_ids):
            raise DataError(
                "purify: the score matrix and the training images are not the same set; run the members again"
            )
        return self.matrix


@dataclass(frozen=True)
class Decided:
    """Decisions of a filter, and the evidence from which the number of anomalous images is estimated."""

    table: pa.Table  # schema `DECISIONS`, in any order
    anomaly_N: Floats | None = None  # rises with abnormality, in any order; None: the share is not estimated
    doubted: float = 0  # share of the kept images, the most anomalous ones, that are trusted less: see `trust`


class Filter(FilterTraits, ABC):
    """Decides which images are kept.  Another package adds one by an entry point in the group ``llb_ray.filters``."""

    @abstractmethod
    def decide(self, evidence: Evidence) -> Decided:
        """Every image's decision and its reason: a function of the evidence, whatever the order of its rows.

        Raises DataError where the evidence that it needs is missing, or its rule is undefined on it.
        """

    @property
    def value_name(self) -> str:
        """The number that it compares images by, for people."""
        return "score"

    @property
    def value_source(self) -> str:
        """Origin of that number, as a phrase that begins with a blank; empty if it needs none."""
        return ""

    def summary(self, num_kept: int, members: str) -> str:
        """The end of a sentence for people that begins with its name; `members` is their number and kind."""
        return f"kept {num_kept:,}"


def filter_of(settings: PurifyConfig) -> Filter:
    """The filter that the section purify chooses; raises ConfigError for a broken one of another package."""
    return FILTERS.load(settings.filter, Filter)(settings)  # type: ignore[type-abstract]


def decisions(image_ids: Sequence[str], decide: Decide) -> pa.Table:
    """A table (schema `DECISIONS`) of decisions that look at no score, in image_id order."""
    ordered = sorted(image_ids)
    rows = [decide(image_id) for image_id in ordered]
    nothing = [None] * len(ordered)
    return pa.table([ordered, nothing, nothing, *zip(*rows, strict=True)], schema=DECISIONS)


def keep_all(name: str, evidence: Evidence) -> Decided:
    """The decision to keep every image."""
    return Decided(decisions(evidence.image_ids, lambda image_id: (KEPT, f"filter {name} keeps every image")))
