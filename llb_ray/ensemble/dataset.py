"""The purified dataset: what a run delivers, one row per training image, rejected ones included."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.config import PurifyConfig
from llb_ray.data.manifest import IMAGES
from llb_ray.data.tables import joined
from llb_ray.ensemble.purify import DECISIONS, KEPT, Evidence, Labels, purify
from llb_ray.ensemble.scores import ScoreMatrix, dense

PURIFIED = pa.schema(
    [
        *IMAGES,
        *list(DECISIONS)[1:],
        pa.field("member_scores", pa.list_(pa.float32())),  # by member 0, 1, ...; null where none was asked
    ]
)


def purified_dataset(
    config: PurifyConfig, seed: int, images: pa.Table, scores: pa.Table | None, labels: Labels | None = None
) -> pa.Table:
    """Images, decision, reason and every member's score (schema `PURIFIED`, in image_id order).

    `images` holds the training images (schema `IMAGES`).  `scores` is the long score table, in any row order, or None
    for the filters that look at no score.  `labels` are for the oracle filter and no other.
    """
    image_ids = images["image_id"].to_pylist()
    matrix = None if scores is None else dense(scores)
    decisions = purify(config, Evidence(image_ids, seed, matrix, labels))
    rows = joined(images, decisions)
    return pa.table([*rows.columns, _member_scores(image_ids, matrix)], schema=PURIFIED)


def kept_ids(purified: pa.Table) -> list[str]:
    """What the final detector is trained on, in image_id order."""
    return sorted(purified.filter(pc.equal(purified["decision"], KEPT))["image_id"].to_pylist())


def _member_scores(image_ids: Sequence[str], matrix: ScoreMatrix | None) -> pa.Array:
    row = {} if matrix is None else dict(zip(matrix.image_ids, matrix.score_NK, strict=True))
    return pa.array([row.get(image_id) for image_id in image_ids], pa.list_(pa.float32()))
