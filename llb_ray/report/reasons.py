"""Reasons why an image was kept or rejected, in sentences: by which round and by how much, where, and member votes.

They are made of what a run's rounds decided; the `reason` that a round wrote down stays in the purified dataset.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.ensemble.decision import KEPT, REJECTED
from llb_ray.ensemble.filters.base import filter_of
from llb_ray.ensemble.purified_dataset import kept_ids
from llb_ray.report.member_agreement import Votes
from llb_ray.report.unusual_places import Place


@dataclass(frozen=True)
class Round:
    """A round's decision by the filter: its number, what it compared, and the cut between kept and rejected."""

    number: int
    name: str  # of the number that it compared
    what: str  # the same, as the subject of a sentence about an image
    cut: float | None  # None where no number separates the kept from the rejected
    num_kept: int
    by_id: Mapping[str, Mapping[str, Any]]  # a row of the round's table (schema `PURIFIED`) for each image

    @classmethod
    def all_of(cls, run: FinishedRun) -> "list[Round]":
        """The rounds of a run, in their order."""
        return [cls._of(run, number, table) for number, table in enumerate(run.derived, 1)]

    @classmethod
    def _of(cls, run: FinishedRun, number: int, table: pa.Table) -> "Round":
        name, what = "held-out score", "its score by a detector that had not seen it"
        if number == 1:
            rule = filter_of(run.config.purify)
            name, what = rule.value_name, f"its {rule.value_name}{rule.value_source}"
        rows = table.select(["image_id", "aggregate", "rank", "decision", "reason"]).to_pylist()
        return cls(number, name, what, cut_between(table), len(kept_ids(table)), {row["image_id"]: row for row in rows})

    def decision(self, image_id: str) -> str:
        return str(self.by_id[image_id]["decision"])

    def sentence(self, image_id: str) -> str:
        """The image's number, and its side of the cut."""
        row = self.by_id[image_id]
        if row["aggregate"] is None:
            return str(row["reason"])
        found = f"{self.what} is {row['aggregate']:.4g}"
        if self.cut is not None:
            found += f", {'within' if row['decision'] == KEPT else 'above'} the cut at {self.cut:.4g}"
        few = self.num_kept < len(self.by_id)
        kept = f"the {self.num_kept:,} most normal of {len(self.by_id):,}" if few else f"all {self.num_kept:,}"
        return f"{found} (rank {row['rank']:,}; {kept} are kept)"


def cut_between(table: pa.Table) -> float | None:
    """The aggregate between the highest that was kept and the lowest that was rejected.

    None where nothing was rejected, or where images were not decided on by their aggregate.
    """
    high, low = (
        extreme(pc.filter(table["aggregate"], pc.equal(table["decision"], decision))).as_py()
        for extreme, decision in ((pc.max, KEPT), (pc.min, REJECTED))
    )
    return None if high is None or low is None or high > low else (high + low) / 2


def reasons(
    rounds: Sequence[Round],
    rows: pa.Table,
    places: Sequence[Place],
    votes: Votes | None,
    by_hand: Mapping[str, Any],
) -> list[str]:
    """Reasons why each of these images (schema `PURIFIED`) was kept or rejected, a sentence a line.

    `by_hand` has the decisions by hand.
    """
    by_id = {} if votes is None else {image_id: row for row, image_id in enumerate(votes.image_ids)}
    said = []
    for image_id, decision, place in zip(
        rows["image_id"].to_pylist(), rows["decision"].to_pylist(), places, strict=True
    ):
        parts = [describe_decision(rounds, image_id, decision, by_hand.get(image_id)), where(place)]
        if votes is not None:
            parts.append(_members(votes, by_id[image_id], len(rounds) > 1))
        said.append("\n".join(part for part in parts if part))
    return said


def describe_decision(rounds: Sequence[Round], image_id: str, decision: str, word: Mapping[str, Any] | None) -> str:
    """Author of the decision on the image, and what each round found."""
    last = rounds[-1].decision(image_id)
    filtered = f"{last.capitalize()} by {_by(rounds)}: {rounds[-1].sentence(image_id)}."
    if len(rounds) > 1:
        before = [f"Round {one.number} {_had(one, image_id)}: {one.sentence(image_id)}." for one in rounds[:-1]]
        filtered = "\n".join([filtered, *before])
    if word is None or word["decision"] == "unsure":
        return filtered
    who = f" ({word['by']})" if word["by"] else ""
    return f"{decision.capitalize()} by hand{who}. Without that: {filtered}"


def _by(rounds: Sequence[Round]) -> str:
    return f"round {rounds[-1].number}" if len(rounds) > 1 else "the filter"


def _had(one: Round, image_id: str) -> str:
    return "had kept it" if one.decision(image_id) == KEPT else "had rejected it"


def where(place: Place) -> str:
    """Place where the image is most unusual, how large that is, and what kept images have there."""
    at = f"in the {place.name}" if place.name == "centre" else f"at the {place.name}"
    others = f"90 % of the kept images have {place.low:.3g} to {place.high:.3g} there"
    if not place.stands_out:
        return f"Nowhere above the range of the kept images; nearest to it {at}, where {others}."
    size = f"{place.width:.0%} of the width by {place.height:.0%} of the height"
    return f"Most unusual {at}, {size}: its anomaly map reaches {place.peak:.3g}, {others}."


def _members(votes: Votes, row: int, of_round_1: bool) -> str:
    """Number of members that would reject the image, and the image's rank among theirs."""
    asked_K = votes.asked_NK[row]
    if not asked_K.any():
        return ""
    percent_K = np.ceil(100 * votes.share_NK[row, asked_K]).astype(int)
    low, high = percent_K.min(), percent_K.max()
    span = f"{low} %" if low == high else f"{low} to {high} %"
    count = f"{votes.objects_NK[row].sum()} of the {asked_K.sum()} members asked would reject it alone"
    return f"{'In round 1, ' if of_round_1 else ''}{count}; they find it more anomalous than {span} of the images."
