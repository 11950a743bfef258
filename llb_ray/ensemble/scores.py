"""The score matrix: what every member thinks of every image, joined by image_id and never by position.

On disk it is a table of one row per image (schema `SCORES`), element j of `scores` being member j's.  In memory it is a
dense `ScoreMatrix` whose rows are in image_id order.

Shapes: N images, K members.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.errors import DataError

SCORES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("in_fold", pa.int16(), nullable=False),  # the member that trained on this image
        pa.field("scores", pa.list_(pa.float32()), nullable=False),  # by member 0, 1, ...; they rise with abnormality
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
    """The whole matrix (schema `SCORES`), in image_id order.

    `scores` has the columns image_id and scores, `partition` (schema `partition.PARTITION`) says in whose training
    share each image is; both may be in any order.  Raises DataError for an image without a share.
    """
    home = partition["member"].take(pc.index_in(scores["image_id"], partition["image_id"].combine_chunks()))
    if home.null_count:
        image_id = scores["image_id"].filter(home.is_null())[0]
        raise DataError(f"score matrix: image {image_id} is in no member's training share")
    columns = [scores["image_id"], home, scores["scores"]]
    return pa.table(columns, schema=SCORES).sort_by("image_id").combine_chunks()


def dense(table: pa.Table) -> ScoreMatrix:
    """The matrix of a table in any row order.

    Raises DataError unless every image is there once, with one finite score by each member, and trained exactly one
    of them.
    """
    table = table.sort_by("image_id").combine_chunks()
    image_ids = table["image_id"].to_pylist()
    _refuse_doubles(image_ids)
    score_NK = _scores(image_ids, table["scores"].combine_chunks())
    members = range(score_NK.shape[1])
    in_fold_NK = table["in_fold"].to_numpy()[:, None] == np.array(members)
    return ScoreMatrix(image_ids, members, score_NK, in_fold_NK)


def _scores(image_ids: Sequence[str], scores: pa.ListArray) -> npt.NDArray[np.float64]:
    count_N = pc.list_value_length(scores).to_numpy()
    odd = np.flatnonzero(count_N != count_N.max(initial=0))
    if len(odd):
        image_id, count = image_ids[odd[0]], count_N[odd[0]]
        raise DataError(f"score matrix: image {image_id} has {count} scores, others have {count_N.max()}")
    score_NK: npt.NDArray[np.float64] = (
        scores.flatten().to_numpy(zero_copy_only=False).reshape(len(image_ids), -1).astype(np.float64)
    )
    wrong = np.argwhere(~np.isfinite(score_NK))
    if len(wrong):
        n, k = wrong[0]
        raise DataError(f"score matrix: image {image_ids[n]} has the score {score_NK[n, k]} by member {k}")
    return score_NK


def _refuse_doubles(image_ids: Sequence[str]) -> None:
    """`image_ids` are sorted."""
    doubled = next((one for one, other in pairwise(image_ids) if one == other), None)
    if doubled is not None:
        raise DataError(f"score matrix: image {doubled} is there twice; every image has one row")
