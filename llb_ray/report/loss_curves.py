"""Training curves: the loss of the detectors of a run that learn by gradient descent, by step."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from llb_ray.artifacts import Artifact
from llb_ray.data.tables import read_table
from llb_ray.engine import filenames
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.report.charts import Chart, Floats, Line, curves

_MOST_POINTS = 100  # of a line: batches differ, and what is looked for is the trend


def training_charts(run: FinishedRun) -> list[Chart]:
    """The losses of members and final detector, and of a weighted loss how many images counted; none where nothing
    was trained by descent."""
    final = _log(run.made.final)
    if final is None:
        return []
    if "ess" not in final.column_names:
        return [curves("Loss while training", "step", "loss", list(_losses(run)))]
    counting = _line("effective sample size", final, "ess")
    return [
        curves("Loss while training", "step", "loss, of the final detector weighted", list(_losses(run))),
        curves("Images of a batch that count", "step", counting.kind, [counting]),
    ]


def _losses(run: FinishedRun) -> Iterator[Line]:
    """The members' first, so that the final detector's line is drawn over theirs."""
    fitted = [("member", member) for member in run.made.by_number().values()] + [("final detector", run.made.final)]
    for kind, artifact in fitted:
        log = _log(artifact)
        if log is not None:
            yield _line(kind, log, "loss")


def _log(fitted: Artifact) -> pa.Table | None:
    return read_table(fitted.file(filenames.TRAINING_LOG)) if filenames.TRAINING_LOG in fitted.files else None


def _line(kind: str, log: pa.Table, column: str) -> Line:
    """Means of steps that follow one another, each at how many steps were done by then."""
    parts = np.array_split(log[column].to_numpy().astype(float), min(len(log), _MOST_POINTS))
    done_N: Floats = np.cumsum([len(part) for part in parts], dtype=float)
    return Line(kind, done_N, np.array([part.mean() for part in parts]))
