"""A run's threshold from its artifacts: the stage makes it, and the audit makes it again."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from llb_ray.artifacts import Artifact
from llb_ray.config import ThresholdConfig
from llb_ray.data.tables import read_table
from llb_ray.engine import filenames
from llb_ray.engine.rundir.run_artifacts import RunArtifacts
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.ensemble.held_out_scores import by_folds, by_members, of_bulk, of_images, with_rejected
from llb_ray.ensemble.overrides import rejected_by_hand
from llb_ray.ensemble.purified_dataset import kept_ids
from llb_ray.ensemble.refinement import kept_in_any
from llb_ray.ensemble.threshold import threshold_facts


def calibrated(
    config: ThresholdConfig,
    rounds: Sequence[Artifact],
    purified: Artifact,
    overrides: Artifact | None,
    matrix: Artifact | None,
    folds: Sequence[Artifact],
    final_scores: Sequence[Artifact],
) -> tuple[pa.Table, dict[str, Any]]:
    """The held-out scores (schema `held_out.HELD_OUT`) that the threshold comes from, and its facts, JSON-ready.

    They are those of `threshold_facts`, and how many of the images that stand out are kept in the end.
    """
    decided, final = [_decided(made) for made in (*rounds, purified)], read_scores(final_scores)
    held_out = _held_out(decided[-1], matrix, folds, final)
    kept = _of_kept(held_out, decided, overrides)
    normals = {"bulk": of_bulk(kept), "kept": kept, "all": with_rejected(held_out, decided[-1], final)}
    facts = threshold_facts(normals, config.false_alarm_rate, config.normals)
    return normals[config.normals], facts | {"num_standing_out_kept": len(_kept_outside(kept, decided[-1]))}


def standing_out_ids(made: RunArtifacts) -> list[str]:
    """The kept images whose held-out scores stand out from those of the others; none where there is no threshold."""
    if made.threshold is None:
        return []
    decided = [_decided(artifact) for artifact in (*made.rounds, made.purified)]
    held_out = _held_out(decided[-1], made.matrix, made.fold_scores, read_scores(made.final_scores))
    kept = _of_kept(held_out, decided, made.overrides)
    return _kept_outside(kept, decided[-1])


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


def _decided(made: Artifact) -> pa.Table:
    return read_table(made.file(filenames.PURIFIED))
