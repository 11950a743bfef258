"""A run's thresholds from its artifacts: the stage makes them, and the audit makes them again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.artifacts import Artifact
from llb_ray.config import RunConfig, ThresholdConfig
from llb_ray.data.tables import read_table
from llb_ray.engine import filenames
from llb_ray.engine.evaluation.held_out_maps import HeldOutMaps, pixel_facts
from llb_ray.engine.features.ignored_pixels import read_ignored
from llb_ray.engine.rundir.run_artifacts import DecisionArtifacts, RunArtifacts
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.ensemble.categories import categories_of, of_category
from llb_ray.ensemble.held_out_scores import by_folds, by_members, of_bulk, of_images, with_rejected
from llb_ray.ensemble.overrides import rejected_by_hand
from llb_ray.ensemble.purified_dataset import kept_ids
from llb_ray.ensemble.refinement import kept_in_any
from llb_ray.ensemble.threshold import threshold_facts
from llb_ray.errors import DataError

_LEAST_KEPT = 2  # of a category: one score has no spread
_SHARED = ("false_alarm_rate", "normals")  # facts that all categories have in common
_SUMS = ("num_held_out", "num_rejected", "num_rejected_above", "num_standing_out", "num_standing_out_kept")
_CATEGORY = pa.field("category", pa.string(), nullable=False)


@dataclass(frozen=True)
class ThresholdInputs:
    """The artifacts that the thresholds of images and pixels come from."""

    decided: DecisionArtifacts
    matrix: Artifact | None  # read where there are no folds, for nothing else
    final_scores: Sequence[Artifact]
    maps: HeldOutMaps

    @classmethod
    def of(cls, made: RunArtifacts, config: RunConfig) -> "ThresholdInputs":
        """Those of a finished run."""
        maps = HeldOutMaps.of(made.held_out_maps, config, read_ignored(made.ignored, config))
        return cls(made, made.matrix, made.final_scores, maps)


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of a run, and the tables that they can be read off for other rates."""

    held_out: pa.Table  # schema `held_out_scores.HELD_OUT`
    levels: pa.Table | None  # schema `pixel_threshold.LEVELS`; None without held-out maps
    facts: dict[str, Any]  # JSON-ready


def derive_thresholds(config: ThresholdConfig, inputs: ThresholdInputs) -> Thresholds:
    """The thresholds that these artifacts give.

    Facts are those of `threshold_facts` and `pixel_facts`, and how many of the images that stand out are kept in the
    end; of several categories those of each in ``by_category``, and the tables have the column `category`.
    """
    made = inputs.decided
    decided = [read_table(one.file(filenames.PURIFIED)) for one in (*made.rounds, made.purified)]
    final = read_scores(inputs.final_scores)
    held_out = _held_out(decided[-1], inputs.matrix, made.fold_scores, final)
    kept = _of_kept(held_out, decided, made.overrides)
    held = {"kept": kept, "all": with_rejected(held_out, decided[-1], final)}
    names = categories_of(decided[-1])
    if len(names) == 1:
        return _thresholds(config, inputs.maps, held, decided[-1], final)
    found: dict[str, Thresholds] = {}
    for name in names:
        own = {which: of_category(table, decided[-1], name) for which, table in held.items()}
        if len(own["kept"]) < _LEAST_KEPT:
            raise DataError(f"category {name}: too few images were kept for a threshold; keep more, or leave it out")
        images = decided[-1].filter(pc.equal(decided[-1]["category"], name))
        found[name] = _thresholds(config, inputs.maps, own, images, final)
    return _of_several(found)


def _thresholds(
    config: ThresholdConfig, maps: HeldOutMaps, held: Mapping[str, pa.Table], decided: pa.Table, final: pa.Table
) -> Thresholds:
    """The thresholds that the held-out scores of these images give, of the ``kept`` ones and of ``all``."""
    normals = {"bulk": of_bulk(held["kept"]), **held}
    facts = threshold_facts(normals, config.false_alarm_rate, config.normals)
    facts |= {"num_standing_out_kept": len(_kept_outside(held["kept"], decided))}
    levels = maps.levels(normals[config.normals], decided, final)
    return Thresholds(normals[config.normals], levels, facts | pixel_facts(maps, levels, decided))


def _of_several(found: Mapping[str, Thresholds]) -> Thresholds:
    """The thresholds of several categories, by name, in one set of tables and facts."""
    held_out = _named({name: one.held_out for name, one in found.items()})
    levels = {name: one.levels for name, one in found.items() if one.levels is not None}
    facts = {name: one.facts for name, one in found.items()}
    shared = {name: next(iter(facts.values()))[name] for name in _SHARED}
    sums = {name: sum(one[name] for one in facts.values()) for name in _SUMS}
    by_category = _named(levels) if len(levels) == len(found) else None
    return Thresholds(held_out, by_category, {**shared, **sums, "by_category": facts})


def _named(tables: Mapping[str, pa.Table]) -> pa.Table:
    named = [table.append_column(_CATEGORY, pa.array([name] * len(table))) for name, table in tables.items()]
    return pa.concat_tables(named)


def standing_out_ids(made: RunArtifacts) -> list[str]:
    """The kept images whose held-out scores stand out from those of the others; none where there is no threshold."""
    if made.threshold is None:
        return []
    decided = [read_table(one.file(filenames.PURIFIED)) for one in (*made.rounds, made.purified)]
    held_out = _held_out(decided[-1], made.matrix, made.fold_scores, read_scores(made.final_scores))
    kept = _of_kept(held_out, decided, made.overrides)
    parts = [of_category(kept, decided[-1], name) for name in categories_of(decided[-1])]
    return sorted(image_id for part in parts for image_id in _kept_outside(part, decided[-1]))


def _kept_outside(kept: pa.Table, decided: pa.Table) -> list[str]:
    """Images among these that stand out and are kept in the end, in image_id order: the last round may reject some."""
    outside = set(kept["image_id"].to_pylist()) - set(of_bulk(kept)["image_id"].to_pylist())
    return sorted(outside & set(kept_ids(decided)))


def _of_kept(held_out: pa.Table, decided: list[pa.Table], overrides: Artifact | None) -> pa.Table:
    """The held-out scores of what any round kept, or people did; what people rejected is not kept.

    The last round may have judged by the very scores: to keep those that are low would make the threshold too low.
    """
    said = None if overrides is None else read_table(overrides.file(filenames.OVERRIDES))
    return of_images(held_out, sorted(set(kept_in_any(decided)) - rejected_by_hand(said)))


def _held_out(decided: pa.Table, matrix: Artifact | None, folds: Sequence[Artifact], final: pa.Table) -> pa.Table:
    """The folds' scores, or where there are none the members', whose `matrix` is read for nothing else."""
    if folds or matrix is None:
        return by_folds(read_scores(folds))
    return by_members(decided, read_table(matrix.file(filenames.SCORES)), final)
