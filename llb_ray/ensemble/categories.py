"""Images of several categories, judged by the same detectors: scores of each are brought to one scale.

A texture has other distances than a smooth part, so that raw scores of two products do not rank one against the other.
In logarithms, each category's median and median absolute deviation become those of all: what stands out of its own
category then stands out of all images alike.  Images of a single category are left as they are.

Shapes: N images, K members.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from llb_ray.ensemble.score_matrix import ScoreMatrix

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def categories_of(images: pa.Table) -> list[str]:
    """The names of the categories in a table with the column `category`, sorted."""
    return sorted(map(str, images["category"].unique().to_pylist()))


def category_by_id(images: pa.Table) -> dict[str, str]:
    """The category of each image, by its image_id."""
    return dict(zip(images["image_id"].to_pylist(), images["category"].to_pylist(), strict=True))


def of_category(table: pa.Table, images: pa.Table, category: str) -> pa.Table:
    """The rows of a table with an image_id that are about images of this category."""
    return table.filter(pa.array(_categories(table["image_id"].to_pylist(), images) == category, pa.bool_()))


def comparable_scores(scores: pa.Table, images: pa.Table) -> pa.Table:
    """The table (columns image_id and score) with the scores of all categories on one scale."""
    if len(categories_of(images)) == 1:
        return scores
    score_N = scores["score"].to_numpy()
    category_N = _categories(scores["image_id"].to_pylist(), images)
    scaled_N = _on_one_scale(score_N, category_N, np.ones(len(score_N), bool))
    at = scores.schema.get_field_index("score")
    return scores.set_column(at, scores.schema.field(at), pa.array(scaled_N))


def comparable_matrix(matrix: ScoreMatrix, images: pa.Table) -> ScoreMatrix:
    """The matrix with each member's scores of all categories on one scale, by what it has not learnt from."""
    if len(categories_of(images)) == 1:
        return matrix
    category_N = _categories(matrix.image_ids, images)
    columns = zip(matrix.score_NK.T, ~matrix.in_fold_NK.T, strict=True)
    scaled = [_on_one_scale(score_N, category_N, held_N) for score_N, held_N in columns]
    return replace(matrix, score_NK=np.stack(scaled, axis=1))


def _categories(image_ids: Sequence[str], images: pa.Table) -> npt.NDArray[np.str_]:
    known = category_by_id(images)
    return np.array([known[image_id] for image_id in image_ids])


def _on_one_scale(score_N: Floats, category_N: npt.NDArray[np.str_], counted_N: Mask) -> Floats:
    """The scores [N], each category's with median and spread of all; only `counted_N` determine these."""
    in_logs = bool((score_N > 0).all())
    value_N = np.log(score_N) if in_logs else score_N.astype(np.float64)
    rows = {name: category_N == name for name in np.unique(category_N)}
    body = {name: _body(value_N[row_N & counted_N]) for name, row_N in rows.items() if (row_N & counted_N).any()}
    middle, spread = np.median([*body.values()], axis=0)
    scaled_N = value_N.copy()
    for name, row_N in rows.items():
        own_middle, own_spread = body.get(name, (middle, spread))
        factor = spread / own_spread if own_spread > 0 else 1.0
        scaled_N[row_N] = middle + (value_N[row_N] - own_middle) * factor
    return np.exp(scaled_N) if in_logs else scaled_N


def _body(value_N: Floats) -> tuple[float, float]:
    """Median and median absolute deviation."""
    middle = float(np.median(value_N))
    return middle, float(np.median(np.abs(value_N - middle)))
