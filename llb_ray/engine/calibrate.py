"""A run's threshold from its artifacts: the stage makes it, and the audit makes it again."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from llb_ray.artifacts import Artifact
from llb_ray.config import ThresholdConfig
from llb_ray.data.tables import read_table
from llb_ray.engine import files
from llb_ray.engine.scoring import read_scores
from llb_ray.ensemble.held_out import by_folds, by_members, of_kept, with_rejected
from llb_ray.ensemble.threshold import threshold_facts


def calibrated(
    config: ThresholdConfig,
    purified: Artifact,
    matrix: Artifact | None,
    folds: Sequence[Artifact],
    final_scores: Sequence[Artifact],
) -> tuple[pa.Table, dict[str, Any]]:
    """The held-out scores (schema `held_out.HELD_OUT`) that the threshold comes from, and its facts, JSON-ready.

    They are the folds', or where there are none the members', whose `matrix` is read for nothing else.
    """
    decided, final = read_table(purified.file(files.PURIFIED)), read_scores(final_scores)
    if folds or matrix is None:
        held_out = by_folds(read_scores(folds))
    else:
        held_out = by_members(decided, read_table(matrix.file(files.SCORES)), final)
    kept, everyone = of_kept(held_out, decided), with_rejected(held_out, decided, final)
    facts = threshold_facts(kept, everyone, config.false_alarm_rate, config.normals)
    return kept if config.normals == "kept" else everyone, facts
