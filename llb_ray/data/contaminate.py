"""Contaminated training sets from labelled ones, reproducibly: the FUIAD rule of arXiv 2508.07441.

The training size is fixed and alpha of it is anomalous, counted in objects (groups); the test set is the same at
every alpha and shares no object with any training set.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.data.manifest import MANIFEST, TEST, TRAIN, Manifest
from llb_ray.errors import DataError
from llb_ray.seeding import stream


def contaminated(manifest: Manifest, num_objects: int, alpha: float, seed: int, max_alpha: float = 0.4) -> Manifest:
    """A manifest whose training split has `num_objects` objects, alpha of them anomalous, in a fixed test split.

    Anomalous objects come from the test split: a seeded `max_alpha` x `num_objects` of them leave it, whatever alpha
    is, and alpha's share of those enter training.  A larger alpha adds anomalies and takes normals away, and changes
    nothing else.  Raises DataError, with the largest alpha possible, if there are too few objects.
    """
    normal, anomalous = _objects(manifest, TRAIN, anomalous=False), _objects(manifest, TEST, anomalous=True)
    reserved = round(max_alpha * num_objects)
    num_anomalous = round(alpha * num_objects)
    if reserved > len(anomalous) or num_anomalous > reserved:
        possible = min(max_alpha, len(anomalous) / num_objects)
        raise DataError(
            f"{manifest.root}: {num_objects} objects at alpha {alpha:g} (test set fixed up to {max_alpha:g}) need "
            f"{max(reserved, num_anomalous)} anomalous objects and {len(anomalous)} are there; "
            f"the largest alpha possible is {possible:.3g}"
        )
    if num_objects - num_anomalous > len(normal):
        raise DataError(
            f"{manifest.root}: {num_objects} objects at alpha {alpha:g} need {num_objects - num_anomalous} normal "
            f"objects and {len(normal)} are there; ask for fewer objects"
        )
    pool = _drawn(anomalous, reserved, seed, "anomalous")
    train = {*pool[:num_anomalous], *_drawn(normal, num_objects - num_anomalous, seed, "normal")}
    return _resplit(manifest, train, _objects(manifest, TEST) - set(pool))


def _objects(manifest: Manifest, split: str, anomalous: bool | None = None) -> set[str]:
    """The groups of a split: those with a defect in any view, those with none, or (None) all of them."""
    table = manifest.split(split)
    labels = defaultdict[str, set[int | None]](set)
    for group, label in zip(table["group"].to_pylist(), table["label"].to_pylist(), strict=True):
        labels[group].add(label)
    if anomalous is None:
        return set(labels)
    return {group for group, found in labels.items() if (1 in found if anomalous else found == {0})}


def _drawn(groups: set[str], count: int, seed: int, name: str) -> Sequence[str]:
    ordered = sorted(groups)
    return [ordered[row] for row in stream(seed, "contaminate", name).permutation(len(ordered))[:count]]


def _resplit(manifest: Manifest, train: set[str], test: set[str]) -> Manifest:
    table = manifest.table
    split = [TRAIN if group in train else TEST if group in test else None for group in table["group"].to_pylist()]
    column = table.column_names.index("split")
    chosen = table.set_column(column, "split", pa.array(split, pa.string())).filter(pc.field("split").is_valid())
    return Manifest.of(Path(manifest.root), chosen.cast(MANIFEST), manifest.quarantine)
