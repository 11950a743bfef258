"""The score matrix: what every member thinks of every image, joined by image_id and never by position.

On disk it is a long table, one row per image and member (schema `SCORES`).  In memory it is a dense
`ScoreMatrix` whose rows are in image_id order and whose columns are members in ascending order.
Shapes: N images, K members.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.errors import DataError

SCORES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("member", pa.int16(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),  # rises with abnormality
        pa.field("in_fold", pa.bool_(), nullable=False),  # the member trained on this image
    ]
)


@dataclass(frozen=True)
class ScoreMatrix:
    """Dense scores of N images by K members; raises DataError unless each image is in exactly one member's share."""

    image_ids: Sequence[str]
    members: Sequence[int]
    score_NK: npt.NDArray[np.float64]
    in_fold_NK: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        wrong = np.flatnonzero(self.in_fold_NK.sum(axis=1) != 1)
        if len(wrong):
            image_id = self.image_ids[int(wrong[0])]
            raise DataError(f"score matrix: image {image_id} is not in the training share of exactly one member")


def assemble(scores: pa.Table, partition: pa.Table) -> pa.Table:
    """The whole matrix (schema `SCORES`), ordered by member, then image_id.

    `scores` has the columns image_id, member and score, `partition` (schema `partition.PARTITION`) says in whose
    training share each image is; both may be in any order.
    """
    home = partition["member"].take(pc.index_in(scores["image_id"], partition["image_id"].combine_chunks()))
    in_fold = pc.fill_null(pc.equal(home, scores["member"]), False)
    columns = [*(scores[name] for name in SCORES.names[:3]), in_fold]
    order = [("member", "ascending"), ("image_id", "ascending")]
    return pa.table(columns, schema=SCORES).sort_by(order).combine_chunks()


def dense(table: pa.Table) -> ScoreMatrix:
    """The matrix of a long table in any row order.

    Raises DataError unless every image was scored exactly once by every member, with a finite score, and trained
    exactly one of them.
    """
    image_ids, row = _codes(table["image_id"])
    members, column = _codes(table["member"])
    shape = (len(image_ids), len(members))
    score_NK = np.full(shape, np.nan)
    in_fold_NK = np.zeros(shape, dtype=bool)
    score_NK[row, column] = table["score"].to_numpy()
    in_fold_NK[row, column] = table["in_fold"].to_numpy(zero_copy_only=False)
    if table.num_rows != score_NK.size or not np.isfinite(score_NK).all():
        raise DataError(_incomplete(image_ids, members, row, column, score_NK))
    return ScoreMatrix(image_ids, members, score_NK, in_fold_NK)


def _codes(column: pa.ChunkedArray) -> tuple[list[Any], npt.NDArray[np.int64]]:
    """The sorted distinct values, and each row's position among them."""
    values = pc.unique(column).sort()
    return values.to_pylist(), pc.index_in(column, values).to_numpy().astype(np.int64)


def _incomplete(
    image_ids: Sequence[Any],
    members: Sequence[Any],
    row: npt.NDArray[np.int64],
    column: npt.NDArray[np.int64],
    score_NK: npt.NDArray[np.float64],
) -> str:
    times_NK = np.zeros(score_NK.shape, dtype=int)
    np.add.at(times_NK, (row, column), 1)
    wrong = np.argwhere((times_NK != 1) | ~np.isfinite(score_NK))
    n, k = wrong[0]
    return (
        f"score matrix: image {image_ids[n]} has {times_NK[n, k]} scores by member {members[k]} "
        f"(last {score_NK[n, k]}), expected one finite score; {len(wrong)} of {score_NK.size} cells are wrong"
    )
