"""Near duplicates: the same picture saved twice, or a part photographed twice, which exact bytes do not show.

An image's signature is its grey thumbnail of 32 x 32 cells, less its mean and brought to one length: brightness and
contrast do not count.  Two images are near duplicates if their signatures differ by far less than those of neighbours
in this set usually do, so that parts that all look alike are none.  No label is used, and no image of one group (one
photographed object) is compared with another of it.

Cost: 1 kB an image, and 2048 multiplications for each pair of at most 20,000 images: 12 s for 10,000 on two cores, and
never more than a minute.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from llb_ray.data.manifest import NEAR, TEST, TRAIN, Manifest

NAMED_NEAR = pa.schema(
    [*NEAR, *(pa.field(name, pa.string(), nullable=False) for name in ("path", "split", "near_path", "near_split"))]
)
_NAMED = 3
_SIDE = 32
_BEFORE = 256  # px; an image is first made this small in 8 bits
_IMAGES = 20_000  # at most are compared: those with the lowest ids, which are hashes and so a random sample
_BLOCK = 256  # rows of the matrix of all pairs at once
_NEIGHBOUR, _ASKED = 5, 1000
_NOT_ALIKE = -2.0  # less than any cosine
_SHARE = 0.37  # of the median distance to the fifth neighbour
_LEAST, _MOST = 0.03, 0.5  # of distances (0 to 2): what a mild JPEG changes, and where textures of noise begin


def signature(image_HW3: NDArray[np.uint8]) -> bytes:
    """Signature of a picture, whatever its size, brightness and contrast; zeros for one of a single colour."""
    grey = Image.fromarray(image_HW3).convert("L")
    small = grey.resize((_BEFORE, _BEFORE), Image.Resampling.BOX, reducing_gap=2.0)
    cell = np.asarray(small, np.float32).reshape(_SIDE, _BEFORE // _SIDE, _SIDE, -1).mean(axis=(1, 3))
    cell -= cell.mean()
    most = np.abs(cell).max()
    content: bytes = np.rint(127 * cell / most if most > 0 else cell).astype(np.int8).tobytes()
    return content


def near_duplicates(table: pa.Table, signatures: Mapping[str, bytes]) -> pa.Table:
    """A row for each image of a manifest's table that is a near duplicate of another one, schema `NEAR`.

    The other one is the nearest; of a test image the nearest training image, where that is one.  An image without a
    signature, or with one of a single colour, takes no part.
    """
    rows = [row for row in table.to_pylist() if any(signatures.get(row["image_id"], b""))][:_IMAGES]
    if len(rows) < 2:
        return NEAR.empty_table()
    unit_ND = _unit(b"".join(signatures[row["image_id"]] for row in rows), len(rows))
    group_N = np.unique([row["group"] for row in rows], return_inverse=True)[1]
    in_train_N = np.array([row["split"] == TRAIN for row in rows])
    any_N = _nearest(unit_ND, group_N, np.arange(len(rows)))
    train_N = _nearest(unit_ND, group_N, np.flatnonzero(in_train_N))
    distance_N, train_distance_N = (_distances(unit_ND, nearest_N) for nearest_N in (any_N, train_N))
    limit = float(np.clip(_SHARE * _usual_distance(unit_ND, group_N), _LEAST, _MOST))
    found = list[dict[str, Any]]()
    for row, nearest, distance, from_train, train_distance in zip(
        rows, any_N, distance_N, train_N, train_distance_N, strict=True
    ):
        if row["split"] == TEST and train_distance <= limit:
            nearest, distance = from_train, train_distance
        if distance <= limit:
            found.append({"image_id": row["image_id"], "near_id": rows[nearest]["image_id"], "distance": distance})
    return pa.Table.from_pylist(found, NEAR)


def _unit(content: bytes, count: int) -> NDArray[np.float32]:
    value_ND = np.frombuffer(content, np.int8).reshape(count, -1).astype(np.float32)
    unit_ND: NDArray[np.float32] = value_ND / np.linalg.norm(value_ND, axis=1, keepdims=True)
    return unit_ND


def _nearest(unit_ND: NDArray[np.float32], group_N: NDArray[np.intp], among_M: NDArray[np.intp]) -> NDArray[np.intp]:
    """The nearest image of another group for each, among some; -1 where there is none."""
    nearest_N = np.full(len(unit_ND), -1)
    for start in range(0, len(unit_ND) if among_M.size else 0, _BLOCK):
        rows = slice(start, start + _BLOCK)
        alike_BM = _alike(unit_ND, group_N, rows, among_M)
        found_B = alike_BM.argmax(axis=1)
        is_other_B = alike_BM[np.arange(len(found_B)), found_B] > _NOT_ALIKE
        nearest_N[rows] = np.where(is_other_B, among_M[found_B], -1)
    return nearest_N


def _usual_distance(unit_ND: NDArray[np.float32], group_N: NDArray[np.intp]) -> float:
    """Usual distance of a neighbour: the median over some images of the distance to the fifth nearest.

    Not of the nearest: there may be two or three shots of everything.
    """
    rank = min(_NEIGHBOUR, max(1, len(unit_ND) // 2))
    alike_BN = _alike(unit_ND, group_N, slice(0, _ASKED), np.arange(len(unit_ND)))
    usual_B = np.partition(alike_BN, -rank, axis=1)[:, -rank]
    return float(np.median(np.sqrt(2 - 2 * usual_B.clip(-1, 1))))


def _alike(
    unit_ND: NDArray[np.float32], group_N: NDArray[np.intp], rows: slice, among_M: NDArray[np.intp]
) -> NDArray[np.float32]:
    """The cosines of some images with some others; those of one group are as little alike as can be."""
    alike_BM: NDArray[np.float32] = unit_ND[rows] @ unit_ND[among_M].T
    alike_BM[group_N[rows, None] == group_N[None, among_M]] = _NOT_ALIKE
    return alike_BM


def _distances(unit_ND: NDArray[np.float32], nearest_N: NDArray[np.intp]) -> NDArray[np.float64]:
    """The distance of each image to that one; infinite where there is none."""
    distance_N: NDArray[np.float64] = np.linalg.norm(unit_ND - unit_ND[nearest_N], axis=1).astype(np.float64)
    return np.where(nearest_N < 0, np.inf, distance_N)


def near_with_paths(manifest: Manifest) -> pa.Table:
    """The near duplicates of a manifest with the path and split of both images, test images first, nearest first."""
    rows = {row["image_id"]: row for row in manifest.table.to_pylist()} if manifest.near.num_rows else {}
    named = [
        {
            **near,
            **{name: rows[near["image_id"]][name] for name in ("path", "split")},
            **{f"near_{name}": rows[near["near_id"]][name] for name in ("path", "split")},
        }
        for near in manifest.near.to_pylist()
    ]
    table = pa.Table.from_pylist(named, NAMED_NEAR)
    return table.sort_by([("split", "ascending"), ("near_split", "descending"), ("distance", "ascending")])


def near_sentences(manifest: Manifest) -> list[str]:
    """A sentence about test images that training has too, and one about training images that are there twice."""
    near, found = near_with_paths(manifest).to_pylist(), list[str]()
    leaks = [row for row in near if (row["split"], row["near_split"]) == (TEST, TRAIN)]
    if leaks:
        found.append(
            f"{_counted(leaks, manifest, TEST)} near duplicates of training images, so they are no test and "
            f"flatter the metrics ({_pairs(leaks)}); take them out, or put both into one split"
        )
    twice = [row for row in near if row["split"] == row["near_split"] == TRAIN]
    if twice:
        found.append(
            f"{_counted(twice, manifest, TRAIN)} near duplicates of others, such as copies or second exposures "
            f"({_pairs(twice)}); give those of one object one group (data.group_pattern), or take them out"
        )
    return found


def _counted(rows: Sequence[Any], manifest: Manifest, split: str) -> str:
    images = "test images" if split == TEST else "training images"
    return f"{len(rows)} of {len(manifest.image_ids(split))} {images} are"


def _pairs(rows: Sequence[Mapping[str, Any]]) -> str:
    pairs = ", ".join(f"{row['path']} ~ {row['near_path']}" for row in rows[:_NAMED])
    return pairs + (", ..." if len(rows) > _NAMED else "")
