"""Sending of finished runs, scans and searches to trackers, once each: `tracking.json` has the trackers' own ids."""

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from llb_ray.config import Tracker
from llb_ray.disk import write_json
from llb_ray.engine.rundir.run_folder import TENSORBOARD, TRACKING, RunFolder
from llb_ray.errors import ConfigError, ResourceError
from llb_ray.names import component
from llb_ray.scans.job_results import RESULTS
from llb_ray.tracking.records import TRIALS, Record, run_record, scan_record, search_record

Log = Callable[[Record, str | None, str | None], str]


def refuse_untracked(trackers: Sequence[Tracker]) -> None:
    """Raise ConfigError unless the clients of all these trackers are installed: before a run, not hours later."""
    missing = [name for name in trackers if find_spec(name) is None]
    if missing:
        raise ConfigError(f"tracking={missing[0]}: its client is not installed; pip install 'llb-ray[{missing[0]}]'")


def send(record: Record, trackers: Sequence[Tracker], folder: Path) -> list[str]:
    """One sentence for each tracker that has the record and its children now; `folder` keeps their ids.

    Sent again, the same record replaces itself.  Raises ResourceError for a tracker that cannot be reached; what was
    sent to others stays.
    """
    refuse_untracked(trackers)
    return [_sent(record, name, folder) for name in trackers]


def _sent(record: Record, tracker: Tracker, folder: Path) -> str:
    try:
        if tracker == "tensorboard":
            return _written(record, folder / TENSORBOARD)
        return _logged(record, tracker, folder / TRACKING)
    except Exception as error:  # the clients have errors of their own, with no common root
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ResourceError(
            f"{tracker}: {reason}; nothing is lost, `llb-ray track {folder} --tracker {tracker}` sends it again"
        ) from error


def _written(record: Record, folder: Path) -> str:
    from llb_ray.tracking.tensorboard_tracker import log_tensorboard

    for child in record.children:
        log_tensorboard(child, folder / component(child.name))
    log_tensorboard(record, folder / "all" if record.children else folder)
    return f"tensorboard: {folder}"


def _logged(record: Record, tracker: Tracker, ids: Path) -> str:
    log, known = _log_of(tracker), _known(ids)
    own = known.setdefault(tracker, {})
    parent: str | None = None
    for one in (record, *record.children):
        own[one.key] = log(one, own.get(one.key), parent)
        parent = parent or own[one.key]
        write_json(ids, known)
    return f"{tracker}: {record.name} is run {parent}"


def _log_of(tracker: Tracker) -> Log:
    if tracker == "mlflow":
        from llb_ray.tracking.mlflow_tracker import log_mlflow

        return log_mlflow
    from llb_ray.tracking.wandb_tracker import log_wandb

    return log_wandb


def _known(path: Path) -> dict[str, dict[str, str]]:
    """The ids of earlier calls, by tracker and record; none where the file is missing or damaged."""
    try:
        found = json.loads(path.read_text())
        return {str(name): {str(key): str(value) for key, value in ids.items()} for name, ids in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def record_of(folder: Path) -> Record:
    """Record of the finished run, scan or search in a folder; raises ConfigError where it is none of these."""
    if (folder / "run.json").exists():
        return run_record(RunFolder.open(folder))
    for name, made in ((TRIALS, search_record), (RESULTS, scan_record)):
        if (folder / name).exists():
            return made(folder)
    raise ConfigError(f"{folder}: no finished run, scan or search to send; give the --out of one")
