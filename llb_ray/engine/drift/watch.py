"""New images against a run: its held-out scores, or a lot that was accepted, are what they should look like."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llb_ray.engine import filenames
from llb_ray.engine.drift.alarms import Reference, Watched, interval_of, watched
from llb_ray.engine.drift.predictions import FOLDER, Floats, lots, read_predictions
from llb_ray.engine.inference.verdicts import Calibration, refuse_several
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.errors import ArtifactError, ConfigError

HELD_OUT = "held-out images of the run"


@dataclass(frozen=True)
class Drift:
    """Result of a comparison."""

    run: str
    reference: Reference
    level: float  # probability of any false alarm, at most
    lots: Mapping[str, Floats]  # the scores of each
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

    `max_share` is how many may be above the threshold; by default the upper end of the interval that the run gives for
    its false alarms, or that of the reference's own share.  Raises DataError for what are no predictions of this run.
    """
    if by not in (None, FOLDER) and table is None:
        raise ConfigError(f"--by {by}: a column needs --table, a CSV or Parquet file with it; or say --by {FOLDER}")
    calibration, facts = _calibration(folder)
    named = {str(where): read_predictions(where, calibration) for where in predictions}
    compared = _reference(calibration, facts, reference, max_share)
    found = lots(named, by, table if by != FOLDER else None)
    return Drift(folder.where, compared, level, found, watched(compared, found, level))


def _calibration(folder: RunFolder) -> tuple[Calibration, dict[str, list[float]]]:
    made = folder.made().threshold
    if made is None:
        raise ArtifactError(f"{folder.where}: threshold.method=none: without held-out scores there is nothing to watch")
    refuse_several(made, folder.where, "drift")
    return Calibration.of(made), json.loads(made.file(filenames.THRESHOLD).read_text())


def _reference(
    calibration: Calibration, facts: dict[str, list[float]], where: Path | None, max_share: float | None
) -> Reference:
    threshold = calibration.threshold
    if where is None:
        most = facts["false_alarm_interval"][1] if max_share is None else max_share
        return Reference(HELD_OUT, calibration.held_out_N.astype(np.float64), threshold, most, same_detector=False)
    score_N = np.array([row["score"] for row in read_predictions(where, calibration)])
    most = interval_of(int((score_N > threshold).sum()), len(score_N))[1] if max_share is None else max_share
    return Reference(str(where), score_N, threshold, most)
