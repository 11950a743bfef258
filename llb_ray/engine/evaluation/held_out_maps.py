"""Anomaly maps of images by detectors that have not seen them: the pixel threshold comes from these.

A sample of the kept images, each mapped by one detector that was not trained on it: a detector without its fold, or,
where there are none, a member.  A member's maps are brought to the final detector's scale by means of rejected images,
which neither has seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.artifacts import Artifact
from llb_ray.config import RunConfig
from llb_ray.data.image_masks import IgnoredPixels
from llb_ray.detectors.base import row_batches
from llb_ray.engine.pixel_grid import PixelGrid
from llb_ray.engine.workers.fitter import trained_on
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.ensemble.held_out_scores import split
from llb_ray.ensemble.pixel_threshold import FALSE_AREA_RATE, level_at, levels_of
from llb_ray.ensemble.threshold import threshold_at

MOST_IMAGES = 300  # kept ones; ids are hashes, so that the first few hundred are a random sample
_MOST_REJECTED = 50
_STEPS = 56  # pixels of a map that are looked at, along a side: it is too smooth for more to tell more
_HIGH = 0.99  # quantile of a map that scales are compared by
_RATE = 0.01  # of the images, that are left out as possibly defective
Asked = Mapping[str, tuple[Artifact, Sequence[str]]]
Floats = npt.NDArray[np.float32]


def mapping_detectors(
    config: RunConfig, folds: Sequence[Artifact], fold_scores: Sequence[Artifact], members: Mapping[str, Artifact]
) -> Mapping[str, Artifact]:
    """The detectors that held-out maps come from, by name: those that made the scores of folds, or the members.

    Empty where members are of another kind than the final detector, for then their maps have another unit.
    """
    if fold_scores:
        fitted = {artifact.content: artifact for artifact in folds}
        by = {name: content for shard in fold_scores for name, content in shard.inputs.items() if content in fitted}
        return {name: fitted[content] for name, content in sorted(by.items())}
    return members if config.detector_of("member") == config.detector_of("final") else {}


def assign_images(detectors: Mapping[str, Artifact], purified: pa.Table) -> Asked:
    """The images that each detector is to map, none of which it was trained on: a sample of the kept ones, as many of
    each category.

    By members also a sample of the rejected ones, which scales are compared by.
    """
    kept, rejected = map(_in_turn, split(purified))
    sample = kept[:MOST_IMAGES] + ([] if any(map(_is_fold, detectors)) else rejected[:_MOST_REJECTED])
    seen = {name: set(trained_on(fitted)) for name, fitted in detectors.items()}
    chosen: dict[str, list[str]] = {name: [] for name in detectors}
    for number, image_id in enumerate(sample):
        apart = [name for name in detectors if image_id not in seen[name]]
        if apart:
            chosen[apart[number % len(apart)]].append(image_id)
    return {name: (detectors[name], ids) for name, ids in chosen.items() if ids}


@dataclass(frozen=True)
class HeldOutMaps:
    """The maps that scorers wrote, in shards or none, and the pixels that regions are found on."""

    shards: Sequence[Artifact]
    grid: PixelGrid

    @classmethod
    def of(cls, shards: Sequence[Artifact], config: RunConfig, ignored: IgnoredPixels | None) -> "HeldOutMaps":
        """The maps in these shards, smoothed as pixel metrics see maps."""
        return cls(shards, PixelGrid.of(config, ignored))

    @property
    def settings(self) -> dict[str, Any]:
        """Everything the pixel threshold depends on besides the maps; nothing where there are none."""
        return self.grid.settings if self.shards else {}

    def levels(self, held_out: pa.Table, purified: pa.Table, final: pa.Table) -> pa.Table | None:
        """The map values that shares of the area exceed (schema `LEVELS`), in kept images that look normal.

        Of the held-out scores (schema `HELD_OUT`) theirs are not above the threshold for a fixed rate, whatever rate
        the run's own threshold is for: defects that were kept would otherwise raise the values.  `final` has the final
        detector's maps, of rejected images at least.  None without maps.
        """
        highest = threshold_at(held_out["score"].to_numpy(), _RATE).value
        maps = self.of_kept(purified, final, held_out.filter(pc.less_equal(held_out["score"], highest)))
        return None if maps is None else levels_of(self._sampled(*maps))

    def of_kept(self, purified: pa.Table, final: pa.Table, among: pa.Table) -> tuple[list[str], Floats] | None:
        """The ids and maps of the kept images, those that are also `among` others, on the final detector's scale; None
        where there are none."""
        if not self.shards:
            return None
        table, (kept, rejected) = read_scores(self.shards), split(purified)
        chosen = _of(_of(table, kept), among)
        if not chosen.num_rows:
            return None
        return chosen["image_id"].to_pylist(), _maps(chosen) * self._scale(_of(table, rejected), final)

    def _sampled(self, image_ids: Sequence[str], map_NHW: Floats) -> Floats:
        """Some pixels [P] of all maps at the size that regions are found at; a few maps at once are held in full."""
        down, across = (max(1, side // _STEPS) for side in self.grid.size)
        sampled = []
        for rows in row_batches(len(map_NHW), self.grid.images_at_once):
            some = [image_ids[row] for row in rows]
            part, seen = self.grid.smooth_each(some, map_NHW[rows]), self.grid.seen(some)
            part = part[:, ::down, ::across]
            sampled.append(part.ravel() if seen is None else part[seen[:, ::down, ::across]])
        return np.concatenate(sampled)

    def _scale(self, rejected: pa.Table, final: pa.Table) -> np.float32:
        """The factor of these detectors' maps: 1 of detectors that are fitted like the final one."""
        if any(map(_is_fold, self.shards[0].inputs)):
            return np.float32(1)
        rows = pc.index_in(rejected["image_id"], final["image_id"].combine_chunks())
        finals, theirs = (np.quantile(_maps(some), _HIGH, axis=(1, 2)) for some in (final.take(rows), rejected))
        return np.float32(np.median(finals / theirs))


def pixel_facts(maps: HeldOutMaps, levels: pa.Table | None, images: pa.Table) -> dict[str, Any]:
    """The pixel threshold for these images as a run writes it down, JSON-ready; nothing where it has none."""
    if levels is None:
        return {}
    num = _of(read_scores(maps.shards), images).num_rows
    level = level_at(levels, FALSE_AREA_RATE)
    return {"pixel_threshold": level, "false_area_rate": FALSE_AREA_RATE, "num_held_out_maps": num}


def _in_turn(images: pa.Table) -> list[str]:
    """The ids of these images, the first of each category, then the second of each, and so on."""
    by_category: dict[str, list[str]] = {}
    for category, image_id in sorted(zip(images["category"].to_pylist(), images["image_id"].to_pylist(), strict=True)):
        by_category.setdefault(category, []).append(image_id)
    rounds = zip_longest(*by_category.values())
    return [image_id for some in rounds for image_id in some if image_id is not None]


def _is_fold(name: str) -> bool:
    """True of the name of a detector that was fitted without a fold."""
    return name.startswith("fold-")


def _of(table: pa.Table, images: pa.Table) -> pa.Table:
    return table.filter(pc.is_in(table["image_id"], images["image_id"].combine_chunks()))


def _maps(table: pa.Table) -> Floats:
    map_NHW: Floats = table["map"].combine_chunks().to_numpy_ndarray()
    return map_NHW
