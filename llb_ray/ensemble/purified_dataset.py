"""The purified dataset: what a run delivers, one row per training image, rejected ones included."""

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.config import PurifyConfig
from llb_ray.data.manifest import IMAGES
from llb_ray.data.tables import join_by_image
from llb_ray.ensemble.categories import comparable_matrix
from llb_ray.ensemble.decision import KEPT
from llb_ray.ensemble.filters.base import DECISIONS, Decided, Evidence, Floats, Labels, filter_of
from llb_ray.ensemble.score_matrix import dense
from llb_ray.ensemble.trust import trust

PURIFIED = pa.schema(
    [
        *IMAGES,
        *list(DECISIONS)[1:],
        pa.field("trust", pa.float64(), nullable=False),  # in [0, 1]: see `trust`; 0 of a rejected image
        pa.field("member_scores", pa.list_(pa.float32())),  # by member 0, 1, ...; null where it was not asked, or lost
    ]
)


class Purified(NamedTuple):
    """Images, decision, reason and every member's score, and what the share of anomalies is estimated from."""

    table: pa.Table  # schema `PURIFIED`, in image_id order
    anomaly_N: Floats | None  # see `Decided`


def purified_dataset(
    config: PurifyConfig, seed: int, images: pa.Table, scores: pa.Table | None, labels: Labels | None = None
) -> Purified:
    """The decision of the configured filter about every training image.

    `images` holds the training images (schema `IMAGES`).  `scores` is the score matrix (schema `score_matrix.SCORES`),
    in any row order, or None for a filter that reads no scores; `labels` are None for one that reads no labels.
    """
    decided = _decide(config, seed, images, scores, labels)
    rows = join_by_image(images.sort_by("image_id"), decided.table)
    trust_N = trust(rows, decided.doubted)
    table = pa.table([*rows.columns, trust_N, _member_scores(rows["image_id"], scores)], schema=PURIFIED)
    return Purified(table, decided.anomaly_N)


def _decide(
    config: PurifyConfig, seed: int, images: pa.Table, scores: pa.Table | None, labels: Labels | None
) -> Decided:
    """The decisions of the filter; the matrix, most of the memory of a million images, is gone before rows are made."""
    matrix = None if scores is None else comparable_matrix(dense(scores), images)
    return filter_of(config).decide(Evidence(images["image_id"].to_pylist(), seed, matrix, labels))


def kept_ids(purified: pa.Table) -> list[str]:
    """Images that the final detector takes for normal, in image_id order."""
    return sorted(purified.filter(pc.equal(purified["decision"], KEPT))["image_id"].to_pylist())


def kept_trust(purified: pa.Table) -> dict[str, float]:
    """The trust in each of `kept_ids`, in their order."""
    said = dict(zip(purified["image_id"].to_pylist(), purified["trust"].to_pylist(), strict=True))
    return {image_id: said[image_id] for image_id in kept_ids(purified)}


def _member_scores(image_ids: pa.ChunkedArray, scores: pa.Table | None) -> pa.ChunkedArray | pa.Array:
    if scores is None:
        return pa.nulls(len(image_ids), pa.list_(pa.float32()))
    return scores["scores"].take(pc.index_in(image_ids, scores["image_id"].combine_chunks()))
