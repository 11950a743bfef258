"""Scores of kept images as the final detector would give them, had it not seen them.

It has seen them, so its own scores of them are too low.  Two ways round that:

- `by_folds`: further detectors, fitted like the final one, each without a fold of its images, score that fold
  (cross-conformal prediction: Vovk 2015).  As many further fits as there are folds.
- `by_members`: every kept image has the scores of the members that held it out.  They are brought to the final
  detector's scale by what both say of rejected images, which neither has seen.  Nothing more is fitted.

Shapes: N training images, K members, R rejected images.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from llb_ray.ensemble.contamination import standing_out
from llb_ray.ensemble.decision import KEPT
from llb_ray.ensemble.score_matrix import dense
from llb_ray.seeding import stream

HELD_OUT = pa.schema(
    [pa.field("image_id", pa.string(), nullable=False), pa.field("score", pa.float64(), nullable=False)]
)
LEAST_BULK = 10  # images, from which others can stand out
LEAST_REJECTED = 10  # that two scales can be compared by
_COMPARED = 1000  # at most: the slope is a median over pairs of images
Floats = npt.NDArray[np.float64]


def split(purified: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The kept and the rejected rows."""
    kept = pc.equal(purified["decision"], KEPT)
    return purified.filter(kept), purified.filter(pc.invert(kept))


def of_images(held_out: pa.Table, image_ids: Sequence[str]) -> pa.Table:
    """The rows of these held-out scores (schema `HELD_OUT`) that are about these images."""
    return held_out.filter(pc.is_in(held_out["image_id"], pa.array(image_ids, pa.string())))


def of_bulk(kept: pa.Table) -> pa.Table:
    """The rows of kept images' held-out scores (schema `HELD_OUT`) that do not stand out from the others."""
    within_N = ~standing_out(kept["score"].to_numpy())
    return kept.filter(pa.array(within_N)) if within_N.sum() >= LEAST_BULK else kept


def with_rejected(held_out: pa.Table, purified: pa.Table, final: pa.Table) -> pa.Table:
    """All training images' held-out scores (schema `HELD_OUT`): those that are there, and what the final detector says
    of the rejected images that it has not seen."""
    ids = split(purified)[1]["image_id"]
    ids = ids.filter(pc.invert(pc.is_in(ids, held_out["image_id"].combine_chunks())))
    return pa.concat_tables([held_out, pa.table([ids, _values(final, ids)], schema=HELD_OUT)])


def by_folds(scores: pa.Table) -> pa.Table:
    """Scores of each fold by its fold's detector (schema `HELD_OUT`, in image_id order); `scores` is as scorers write,
    of one detector."""
    score = pc.list_flatten(scores["scores"])
    return pa.table([scores["image_id"], score.cast(pa.float64())], schema=HELD_OUT).sort_by("image_id")


def by_members(purified: pa.Table, matrix: pa.Table, final: pa.Table) -> pa.Table:
    """Scores of kept images by the members that held them out, on the final detector's scale (schema `HELD_OUT`).

    `matrix` has the schema `score_matrix.SCORES`; `final` the final detector's score of the rejected images at least.
    The scale is a line through the pairs of scores (Theil and Sen: the median slope) of the rejected images that are
    most like kept ones, the half with the lowest scores; an image's distance from it is noise that kept images have
    too, and is assigned to them at random.
    """
    members = _held_out_means(matrix)
    kept, rejected = split(purified)
    own_N = _values(members, kept["image_id"])
    pair_R2 = np.stack([_values(table, rejected["image_id"]) for table in (members, final)], axis=1)
    nearest = np.argsort(pair_R2[:, 0], kind="stable")[: min(max(LEAST_REJECTED, len(pair_R2) // 2), _COMPARED)]
    member_R, final_R = pair_R2[nearest].T
    slope, start = stats.theilslopes(final_R, member_R)[:2]
    noise_R = final_R - (start + slope * member_R)
    dealt_N = stream(0, "held-out").choice(noise_R, len(own_N))
    return pa.table([kept["image_id"], start + slope * own_N + dealt_N], schema=HELD_OUT)


def _held_out_means(matrix: pa.Table) -> pa.Table:
    """The mean score of each training image by the members that held it out."""
    scores = dense(matrix)
    held_NK = ~scores.in_fold_NK
    mean_N = np.where(held_NK, scores.score_NK, 0).sum(axis=1) / held_NK.sum(axis=1)
    return pa.table({"image_id": scores.image_ids, "score": mean_N})


def _values(scores: pa.Table, image_ids: pa.ChunkedArray) -> Floats:
    rows = pc.index_in(image_ids, scores["image_id"].combine_chunks())
    values: Floats = scores["score"].take(rows).to_numpy().astype(np.float64)
    return values
