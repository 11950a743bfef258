"""The training images as the report's page has them: the nearest to the cut first, in columns, pictures apart.

A list of a million images is no page: of more than `MOST`, those nearest to the cut are shown.
"""

import base64
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.data.manifest import TRAIN
from llb_ray.data.tables import join_by_image, read_table
from llb_ray.engine.evaluation.run_threshold import standing_out_ids
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.ensemble.decision import KEPT, REJECTED
from llb_ray.report.asking_order import worth_of
from llb_ray.report.heatmaps import MAX_OPACITY, colour_table
from llb_ray.report.lookalike_groups import families_of
from llb_ray.report.member_agreement import Votes
from llb_ray.report.reasons import Round, cut_between, reasons
from llb_ray.report.thumbnails import Pictures
from llb_ray.report.unusual_places import Place

MOST = 6000
PER_CHUNK = 240  # pictures in a part of the page that is read when it is needed
_NEAR, _FEWEST_NEAR = 0.1, 12  # borderline images: a share of all
_DIGITS = 5


@dataclass(frozen=True)
class Gallery:
    """Data of the page's script: columns, and lists of (photograph, map) in the same order."""

    columns: dict[str, Any]
    chunks: list[list[tuple[str | None, str]]]


def cut_of(run: FinishedRun) -> float | None:
    """The aggregate between the last image that the filter kept and the first it rejected; None where there is none."""
    return cut_between(run.derived[-1])


def gallery(run: FinishedRun, votes: Votes | None, progress: Callable[[int, int], None]) -> Gallery:
    """All that the page has to say of each image; of `MOST` at most."""
    cut, scores = cut_of(run), read_table(run.file("image_scores.arrow")).select(["image_id", "score"])
    table = join_by_image(join_by_image(run.purified, scores), _known(run))
    rows = _nearest_first(table, cut).slice(0, MOST)
    standing_out = set(standing_out_ids(run.made))
    pictures = Pictures.of(run)
    drawn = pictures.of_images(rows["image_id"].to_pylist(), progress)
    said, rounds = _said(run, set(rows["image_id"].to_pylist())), Round.all_of(run)
    num_near = 0 if cut is None else min(len(rows), max(_FEWEST_NEAR, math.ceil(_NEAR * len(table))))
    families = _families(run, rows, standing_out)
    columns = {
        **_columns(rows, standing_out),
        **_why(rounds, rows, [picture.place for picture in drawn], votes, said),
        **families,
        "worth": [_round(value) for value in worth_of(families["family"] or [None] * len(rows), num_near)],
        **_votes(rows["image_id"].to_pylist(), votes),
        "said": said,
        "num_near": num_near,
        "cut": None if cut is None else _round(cut),
        "scale": {"low": _round(pictures.scale.low), "high": _round(pictures.scale.high)},
        "colours": base64.b64encode(colour_table().tobytes()).decode(),
        "opacity": MAX_OPACITY,
        "key": run.made.purified.content[:16],
        "folder": _relative_url(run),
        "per_chunk": PER_CHUNK,
    }
    pairs = [(picture.photo, picture.map) for picture in drawn]
    return Gallery(columns, [pairs[start : start + PER_CHUNK] for start in range(0, len(pairs), PER_CHUNK)])


def _nearest_first(table: pa.Table, cut: float | None) -> pa.Table:
    """By distance to the cut; without one, by the final detector's score, the most anomalous first."""
    key = pc.negate(table["score"]) if cut is None else pc.abs(pc.subtract(table["aggregate"], cut))
    order = pc.sort_indices(
        pa.table({"key": key, "image_id": table["image_id"]}),
        sort_keys=[("key", "ascending"), ("image_id", "ascending")],
    )
    return table.take(order)


def _known(run: FinishedRun) -> pa.Table:
    """Labels of the training images: ``good``, or the defect's type."""
    labels = run.labels
    labels = labels.filter(pc.equal(labels["split"], TRAIN))
    kinds = [
        None if row["label"] is None else row["defect_type"] or ("anomalous" if row["label"] else "good")
        for row in labels.select(["label", "defect_type"]).to_pylist()
    ]
    return pa.table({"image_id": labels["image_id"], "known": pa.array(kinds, pa.string())})


def _columns(rows: pa.Table, standing_out: Collection[str]) -> dict[str, Any]:
    paths, groups = rows["path"].to_pylist(), rows["group"].to_pylist()
    known = rows["known"].to_pylist()
    return {
        "image_id": rows["image_id"].to_pylist(),
        "path": paths,
        "category": _coded(rows["category"].to_pylist()),
        "group": None if len(set(groups)) == len(groups) else groups,  # where every image is an object of its own
        "kept": [int(decision == KEPT) for decision in rows["decision"].to_pylist()],
        "stands_out": [int(image_id in standing_out) for image_id in rows["image_id"].to_pylist()],
        "aggregate": [_round(value) for value in rows["aggregate"].to_pylist()],
        "rank": rows["rank"].to_pylist(),
        "score": [_round(value) for value in rows["score"].to_pylist()],
        "known": known if any(known) else None,
    }


def _why(
    rounds: Sequence[Round],
    rows: pa.Table,
    places: Sequence[Place],
    votes: Votes | None,
    said: Mapping[str, Any],
) -> dict[str, Any]:
    """Reasons why each row was kept or rejected: sentences, each round's decision, and the most unusual place."""
    image_ids = rows["image_id"].to_pylist()
    return {
        "reason": reasons(rounds, rows, places, votes, said),
        "rounds": [[int(one.decision(image_id) == KEPT) for image_id in image_ids] for one in rounds],
        "compared": rounds[-1].name,
        "place": [[_round(share) for share in (place.x, place.y, place.width, place.height)] for place in places],
        "place_name": [place.name if place.stands_out else "" for place in places],
        "peak": [[_round(value) for value in (place.peak, place.low, place.high)] for place in places],
    }


def _families(run: FinishedRun, rows: pa.Table, standing_out: Collection[str]) -> dict[str, Any]:
    """The family of look-alikes of each row, None of a usual image; or why nothing was compared."""
    decided = zip(rows["image_id"].to_pylist(), rows["decision"].to_pylist(), strict=True)
    odd = [image_id for image_id, decision in decided if decision == REJECTED or image_id in standing_out]
    found = families_of(run, odd, standing_out)
    if isinstance(found, str):
        return {"family": None, "no_families": found}
    family = dict(zip(odd, found, strict=True))
    return {"family": [family.get(image_id) for image_id in rows["image_id"].to_pylist()], "no_families": ""}


def _coded(names: Sequence[str]) -> dict[str, Any]:
    """The names once, and the number of each row's."""
    distinct = sorted(set(names))
    number = {name: index for index, name in enumerate(distinct)}
    return {"names": distinct, "rows": [number[name] for name in names]}


def _votes(image_ids: Sequence[str], votes: Votes | None) -> dict[str, Any]:
    if votes is None:
        return {"members": [], "votes": "", "trained_by": None}
    place = {image_id: row for row, image_id in enumerate(votes.image_ids)}
    rows = [place[image_id] for image_id in image_ids]
    home_N = np.where(votes.in_fold_NK.any(axis=1), votes.in_fold_NK.argmax(axis=1), -1)[rows]
    return {
        "members": list(votes.members),
        "votes": base64.b64encode(votes.codes()[rows].tobytes()).decode(),
        "trained_by": home_N.tolist(),  # the column of the member, -1 for a lost one
    }


def _said(run: FinishedRun, shown: set[str]) -> Mapping[str, Any]:
    """Decisions by hand from before this run, by image_id."""
    words = [] if run.overrides is None else run.overrides.to_pylist()
    return {word.pop("image_id"): word for word in words if word["image_id"] in shown}


def _relative_url(run: FinishedRun) -> str | None:
    """URL of the photographs as seen from the page; None for a run at a URI, whose page may be opened anywhere."""
    if run.folder.remote is not None:
        return None
    return quote(os.fsencode(os.path.relpath(Path(run.root).absolute(), run.folder.path))) + "/"


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")
