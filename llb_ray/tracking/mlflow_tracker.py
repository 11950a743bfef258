"""MLflow, by its own client: where it sends is MLFLOW_TRACKING_URI, the experiment MLFLOW_EXPERIMENT_NAME."""

import os
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, TypeVar

from llb_ray.tracking.records import Record

Item = TypeVar("Item")
_METRICS_AT_ONCE, _PARAMS_AT_ONCE = 1000, 100  # limits of its server
_RETRIES = "2"  # of a request, a few seconds; MLflow's own 7 take minutes, during which nothing is said
_LONGEST = 500  # characters of a parameter that every store takes


def log_mlflow(record: Record, run_id: str | None, parent: str | None) -> str:
    """Id of the MLflow run that has the record now: `run_id` if this store has it, or a new one below the run `parent`.

    A run of this id gets the files again, and no figure twice.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", _RETRIES)
    from mlflow import MlflowClient

    client = MlflowClient()
    if run_id is None or not _has(client, run_id):
        tags = {} if parent is None else {"mlflow.parentRunId": parent}
        run_id = str(client.create_run(_experiment(client), run_name=record.name, tags=tags).info.run_id)
        _log_figures(client, record, run_id)
    for name, path in record.files.items():
        folder = PurePosixPath(name).parent
        client.log_artifact(run_id, str(path), None if folder == PurePosixPath() else str(folder))
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _has(client: Any, run_id: str) -> bool:
    """False for a run that was deleted, or is in another store."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def _log_figures(client: Any, record: Record, run_id: str) -> None:
    from mlflow.entities import Metric, Param

    now_ms = int(time.time() * 1000)
    points = [(name, 0, value) for name, value in record.metrics.items()]
    points += [(name, step, value) for name, curve in record.curves.items() for step, value in curve]
    for some in _chunks(points, _METRICS_AT_ONCE):
        client.log_batch(run_id, metrics=[Metric(_name(name), value, now_ms, step) for name, step, value in some])
    for params in _chunks(record.params.items(), _PARAMS_AT_ONCE):
        client.log_batch(run_id, params=[Param(_name(name), value[:_LONGEST]) for name, value in params])


def _experiment(client: Any) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "llb_ray")
    found = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if found is None else found.experiment_id)


def _name(name: str) -> str:
    """The name in characters that MLflow takes."""
    return "".join(sign if sign.isalnum() or sign in "_-./ " else "_" for sign in name)


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    left = iter(items)
    while chunk := list(islice(left, size)):
        yield chunk
