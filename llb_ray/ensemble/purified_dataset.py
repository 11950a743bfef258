"""The purified dataset: what a run delivers, one row per training image, rejected ones included."""

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.config import PurifyConfig
from llb_ray.data.manifest import IMAGES
from llb_ray.data.tables import joined
from llb_ray.ensemble.decision import KEPT
from llb_ray.ensemble.purify import DECISIONS, Evidence, Labels, purify
from llb_ray.ensemble.score_matrix import dense

PURIFIED = pa.schema(
    [
        *IMAGES,
        *list(DECISIONS)[1:],
        pa.field("member_scores", pa.list_(pa.float32())),  # by member 0, 1, ...; null where it was not asked, or lost
    ]
)


def purified_dataset(
    config: PurifyConfig, seed: int, images: pa.Table, scores: pa.Table | None, labels: Labels | None = None
) -> pa.Table:
    """Images, decision, reason and every member's score (schema `PURIFIED`, in image_id order).

    `images` holds the training images (schema `IMAGES`).  `scores` is the score matrix (schema `scores.SCORES`), in any
    row order, or None for the filters that look at no score.  `labels` are for the oracle filter and no other.
    """
    image_ids = images["image_id"].to_pylist()
    matrix = None if scores is None else dense(scores)
    decisions = purify(config, Evidence(image_ids, seed, matrix, labels))
    rows = joined(images.sort_by("image_id"), decisions)
    return pa.table([*rows.columns, _member_scores(rows["image_id"], scores)], schema=PURIFIED)


def kept_ids(purified: pa.Table) -> list[str]:
    """What the final detector takes for normal, in image_id order."""
    return sorted(purified.filter(pc.equal(purified["decision"], KEPT))["image_id"].to_pylist())


def _member_scores(image_ids: pa.ChunkedArray, scores: pa.Table | None) -> pa.ChunkedArray | pa.Array:
    if scores is None:
        return pa.nulls(len(image_ids), pa.list_(pa.float32()))
    return scores["scores"].take(pc.index_in(image_ids, scores["image_id"].combine_chunks()))
