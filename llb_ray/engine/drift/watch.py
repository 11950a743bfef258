"""New images against a run: its held-out scores, or a lot that was accepted, are what they should look like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.data.tables import read_table
from llb_ray.engine import filenames
from llb_ray.engine.drift.alarms import Floats, Lot, Reference, Watched, interval_of, watched
from llb_ray.engine.drift.predictions import FOLDER, lot_of, lots, read_predictions
from llb_ray.engine.features.mean_features import FEATURES, features_of
from llb_ray.engine.inference.verdicts import Calibration, refuse_several
from llb_ray.engine.rundir.run_artifacts import RunArtifacts
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.ensemble.purified_dataset import kept_ids
from llb_ray.errors import ArtifactError, ConfigError

HELD_OUT, KEPT = "held-out images of the run", "kept images of the run"


@dataclass(frozen=True)
class Drift:
    """Result of a comparison."""

    run: str
    reference: Reference
    level: float  # probability of any false alarm, at most
    lots: Mapping[str, Lot]
    watched: Sequence[Watched]

    @property
    def num_alarms(self) -> int:
        """Number of lots that raise one."""
        return sum(bool(lot.alarms) for lot in self.watched)


def compare(
    folder: RunFolder,
    predictions: Sequence[Path],
    *,
    by: str | None,
    table: Path | None,
    reference: Path | None,
    max_share: float | None,
    level: float,
) -> Drift:
    """Each lot of the predictions against the run's held-out scores, or against the prediction `reference`.

    `max_share` is how many may be above the threshold; by default the upper end of the interval of the reference's own
    share.  Raises DataError for what are no predictions of this run.
    """
    if by not in (None, FOLDER) and table is None:
        raise ConfigError(f"--by {by}: a column needs --table, a CSV or Parquet file with it; or say --by {FOLDER}")
    calibration = _calibration(folder)
    named = {str(where): read_predictions(where, calibration) for where in predictions}
    compared = (
        held_out_reference(folder.made(), calibration, max_share)
        if reference is None
        else _accepted(calibration, reference, max_share)
    )
    found = lots(named, by, table if by != FOLDER else None)
    return Drift(folder.where, compared, level, found, watched(compared, found, level))


def _calibration(folder: RunFolder) -> Calibration:
    made = folder.made().threshold
    if made is None:
        raise ArtifactError(f"{folder.where}: threshold.method=none: without held-out scores there is nothing to watch")
    refuse_several(made, folder.where, "drift")
    return Calibration.of(made)


def held_out_reference(made: RunArtifacts, calibration: Calibration, max_share: float | None = None) -> Reference:
    """The run's own images: held-out scores, by other detectors, and the features of those that it kept."""
    score_M, threshold = calibration.held_out_N.astype(np.float64), calibration.threshold
    most = _most(score_M, threshold) if max_share is None else max_share
    return Reference(HELD_OUT, score_M, threshold, most, False, _features(made), KEPT)


def _features(made: RunArtifacts) -> Floats | None:
    """The features of kept images; None in runs of earlier versions."""
    kept = kept_ids(read_table(made.purified.file(filenames.PURIFIED)))
    scored = read_scores(made.final_scores)
    if FEATURES not in scored.column_names:
        return None
    scored = scored.select(["image_id", FEATURES])
    return features_of(scored.filter(pc.is_in(scored["image_id"], pa.array(kept)))).astype(np.float64)


def _accepted(calibration: Calibration, where: Path, max_share: float | None) -> Reference:
    """A prediction that was accepted."""
    lot, threshold = lot_of(read_predictions(where, calibration)), calibration.threshold
    most = _most(lot.score_N, threshold) if max_share is None else max_share
    return Reference(str(where), lot.score_N, threshold, most, feature_MS=lot.feature_NS)


def _most(score_M: Floats, threshold: float) -> float:
    """The share above the threshold that a lot may have: the upper end of the interval of the reference's own."""
    return interval_of(int((score_M > threshold).sum()), len(score_M))[1]
