"""Comparison of a run with the one that it was updated from: which decisions changed, and the threshold."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.ensemble.decision import KEPT


@dataclass(frozen=True)
class Changed:
    """An image that the earlier run knew, and decided otherwise."""

    image_id: str
    path: str  # in the later run
    before: str
    after: str
    reason: str


@dataclass(frozen=True)
class Changes:
    """Decisions of a run beside those of the run that it was updated from."""

    num_known: int  # training images that both have
    num_new: int
    num_new_kept: int
    changed: Sequence[Changed]  # of the known ones, in the order of their paths
    thresholds: tuple[float | None, float | None]  # before and after


def changes_between(before: FinishedRun, after: FinishedRun) -> Changes:
    """The changes from one run to another over more images; joined by image_id."""
    earlier = decisions_of(before)
    rows: list[dict[str, Any]] = after.purified.to_pylist()
    known = [row for row in rows if row["image_id"] in earlier]
    new = [row for row in rows if row["image_id"] not in earlier]
    changed = [
        Changed(row["image_id"], row["path"], earlier[row["image_id"]], row["decision"], row["reason"])
        for row in sorted(known, key=lambda row: str(row["path"]))
        if row["decision"] != earlier[row["image_id"]]
    ]
    num_kept = sum(row["decision"] == KEPT for row in new)
    return Changes(len(known), len(new), num_kept, changed, (threshold_of(before), threshold_of(after)))


def decisions_of(run: FinishedRun) -> dict[str, str]:
    """The decision about each training image, by its image_id."""
    return dict(zip(run.purified["image_id"].to_pylist(), run.purified["decision"].to_pylist(), strict=True))


def threshold_of(run: FinishedRun) -> float | None:
    """The run's threshold; None where it has none, or one for each of several categories."""
    path = run.file("threshold.json")
    found: float | None = json.loads(path.read_text()).get("threshold") if path.exists() else None
    return found
