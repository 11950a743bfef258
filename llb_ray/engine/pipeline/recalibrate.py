"""A finished run's threshold for another false-alarm rate, from the held-out scores that it keeps."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from llb_ray.config import RunConfig, ThresholdConfig, parse_as
from llb_ray.engine import filenames
from llb_ray.engine.evaluation.run_threshold import ThresholdInputs
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.pipeline.decision_stages import Decisions
from llb_ray.engine.rundir.published_files import publish
from llb_ray.engine.rundir.run_folder import THRESHOLD_SET, RunFolder
from llb_ray.engine.rundir.run_lock import lock_run
from llb_ray.errors import ArtifactError
from llb_ray.remote import Remote


def set_false_alarm_rate(where: Path | Remote, rate: float) -> dict[str, Any]:
    """The facts of the threshold that the run now has; its configuration, record and published files agree with it.

    The run's report and signature speak of the threshold before, and are removed.  Raises ArtifactError for a run
    without a threshold, ConfigError for a rate outside (0, 0.5].
    """
    with lock_run(where, _shared_store(RunFolder.open(where))) as folder:
        run = FinishedRun(folder, None)
        made, config = run.made, _with_rate(run.config, rate)
        if made.threshold is None:
            raise ArtifactError(
                f"{where}: threshold.method=none, so no held-out scores are kept; run again with "
                "threshold.method=members, which reuses all that is finished"
            )
        decisions = Decisions(config, run.train, folder.store)
        threshold = decisions.threshold(ThresholdInputs.of(made, config))
        assert threshold is not None, "its method is not none"
        publish(folder, config, run.root, replace(made, threshold=threshold))
        folder.log(THRESHOLD_SET, false_alarm_rate=rate)
        facts: dict[str, Any] = json.loads(threshold.file(filenames.THRESHOLD).read_text())
        return facts


def _shared_store(folder: RunFolder) -> Path | None:
    """The shared store of the run's artifacts, if other runs use them too."""
    store = folder.index().store
    return None if store == folder.store.root else store


def _with_rate(config: RunConfig, rate: float) -> RunConfig:
    section = config.threshold.model_dump() | {"false_alarm_rate": rate}
    return config.model_copy(update={"threshold": parse_as(ThresholdConfig, section, "the threshold")})
