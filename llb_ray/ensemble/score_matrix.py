"""The score matrix: what every member thinks of every image, joined by image_id and never by position.

On disk it is a table of one row per image (schema `SCORES`), element j of `scores` being member j's, null in every row
where that member was lost.  In memory it is a dense `ScoreMatrix` of the others, whose rows are in image_id order.

Shapes: N images, K members; in a matrix, K members that were not lost.
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
        pa.field("scores", pa.list_(pa.float32()), nullable=False),  # by member 0, 1, ...; rising with abnormality
    ]
)


@dataclass(frozen=True)
class ScoreMatrix:
    """Dense scores of N images by K members; raises DataError if an image is in more than one member's share.

    An image in no share is of a lost member's: all others have held it out.
    """

    image_ids: Sequence[str]
    members: Sequence[int]  # their numbers
    score_NK: npt.NDArray[np.float64]
    in_fold_NK: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        wrong = np.flatnonzero(self.in_fold_NK.sum(axis=1) > 1)
        if len(wrong):
            image_id = self.image_ids[int(wrong[0])]
            raise DataError(f"score matrix: image {image_id} is in the training shares of two members")


def assemble(scores: pa.Table, partition: pa.Table, members: Sequence[int]) -> pa.Table:
    """The whole matrix (schema `SCORES`), in image_id order.

    `scores` has the columns image_id and scores, by the members of these numbers in this order; `partition` (schema
    `partition.PARTITION`) says in whose training share each image is.  Both may be in any order of rows.  Raises
    DataError for an image without a share.
    """
    home = partition["member"].take(pc.index_in(scores["image_id"], partition["image_id"].combine_chunks()))
    if home.null_count:
        image_id = scores["image_id"].filter(home.is_null())[0]
        raise DataError(f"score matrix: image {image_id} is in no member's training share")
    num_shares = pc.max(partition["member"]).as_py() + 1
    lists = scores["scores"] if len(members) == num_shares else _with_gaps(scores, members, num_shares)
    return pa.table([scores["image_id"], home, lists], schema=SCORES).sort_by("image_id").combine_chunks()


def _with_gaps(scores: pa.Table, members: Sequence[int], num_shares: int) -> pa.ListArray:
    """The scores with a null in the place of every member that is not among `members`."""
    few_NK = _by_member(scores["image_id"].to_pylist(), scores["scores"].combine_chunks())
    score_NK = np.zeros((len(few_NK), num_shares), np.float32)
    score_NK[:, members] = few_NK
    lost_K = ~np.isin(np.arange(num_shares), members)
    values = pa.array(score_NK.ravel(), mask=np.tile(lost_K, len(score_NK)))
    return pa.ListArray.from_arrays(np.arange(len(score_NK) + 1, dtype=np.int32) * num_shares, values)


def dense(table: pa.Table) -> ScoreMatrix:
    """The matrix of a table in any row order.

    Raises DataError unless every image is there once, with one finite score by each member but the lost, and is in the
    share of exactly one member, lost or not.
    """
    table = table.sort_by("image_id").combine_chunks()
    image_ids = table["image_id"].to_pylist()
    _refuse_doubles(image_ids)
    lists = table["scores"].combine_chunks()
    score_NK = _by_member(image_ids, lists)
    home_N = table["in_fold"].to_numpy()
    _refuse_homeless(image_ids, home_N, score_NK.shape[1])
    members = np.flatnonzero(~_lost(lists, score_NK.shape[1]))
    if len(members) < score_NK.shape[1]:
        score_NK = score_NK[:, members]
    _refuse_not_finite(image_ids, members, score_NK)
    return ScoreMatrix(image_ids, members.tolist(), score_NK, home_N[:, None] == members)


def _lost(scores: pa.ListArray, num_members: int) -> npt.NDArray[np.bool_]:
    """Mask of the members that have no score at all [K]; NaN is a score, and a wrong one."""
    null_NK = scores.flatten().is_null().to_numpy(zero_copy_only=False).reshape(-1, num_members)
    lost_K: npt.NDArray[np.bool_] = null_NK.all(axis=0)
    return lost_K


def _by_member(image_ids: Sequence[str], scores: pa.ListArray) -> npt.NDArray[np.float64]:
    """The lists as a matrix, with NaN for null."""
    count_N = pc.list_value_length(scores).to_numpy()
    odd = np.flatnonzero(count_N != count_N.max(initial=0))
    if len(odd):
        image_id, count = image_ids[odd[0]], count_N[odd[0]]
        raise DataError(f"score matrix: image {image_id} has {count} scores, others have {count_N.max()}")
    flat: npt.NDArray[np.float64] = scores.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(image_ids), -1).astype(np.float64)


def _refuse_homeless(image_ids: Sequence[str], home_N: npt.NDArray[np.int16], num_members: int) -> None:
    wrong = np.flatnonzero((home_N < 0) | (home_N >= num_members))
    if len(wrong):
        image_id = image_ids[wrong[0]]
        raise DataError(f"score matrix: image {image_id} is not in the training share of exactly one member")


def _refuse_not_finite(
    image_ids: Sequence[str], members: npt.NDArray[np.int64], score_NK: npt.NDArray[np.float64]
) -> None:
    wrong = np.argwhere(~np.isfinite(score_NK))
    if len(wrong):
        n, m = wrong[0]
        raise DataError(f"score matrix: image {image_ids[n]} has the score {score_NK[n, m]} by member {members[m]}")


def _refuse_doubles(image_ids: Sequence[str]) -> None:
    """`image_ids` are sorted."""
    doubled = next((one for one, other in pairwise(image_ids) if one == other), None)
    if doubled is not None:
        raise DataError(f"score matrix: image {doubled} is there twice; every image has one row")
