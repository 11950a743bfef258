"""The closing tables of `run`, `status` and `tune` for programs: JSON-ready, described in docs/file-formats.md.

Keys are added, not renamed, within a version of llb_ray; a figure that is not known is null.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from llb_ray.artifacts import Store

if TYPE_CHECKING:
    from llb_ray.engine.inspection.run_status import Outcome, Status
    from llb_ray.engine.pipeline.pipeline import Result
    from llb_ray.engine.rundir.stage_timer import StageTime
    from llb_ray.scans.scan_status import ScanStatus


def result_object(result: "Result") -> dict[str, Any]:
    """Of a run that this process made."""
    passes = {
        "encoder_passes": result.passes.done,
        "without_a_cache": result.passes.recomputing,
        "cached_bytes": result.passes.cached_bytes,
    }
    return {"run": result.where, "state": "finished", **_outcome(result), "stages": _stages(result.times), **passes}


def status_object(status: "Status") -> dict[str, Any]:
    """Of any run, finished or in progress; counts and metrics only of one that is finished."""
    workers = {kind: dict(states) for kind, states in status.workers().items()}
    return {
        "run": status.where,
        "state": status.state,
        "error": status.error or None,
        "stage": status.stage or None,
        "started_s": status.started_s,
        "last_sign_s": status.last_sign_s,
        "workers": {} if status.state == "finished" else workers,
        **({} if status.outcome is None else _outcome(status.outcome)),
        "stages": _stages(status.times),
    }


def scan_status_object(scan: "ScanStatus") -> dict[str, Any]:
    """Of a scan: its jobs by state, how fast they go, and the stage of each that is running."""
    return {
        "scan": str(scan.path),
        "jobs": scan.counts(),
        "images_per_second": scan.images_per_second,
        "left_s": scan.left_s,
        "running": {name: status and (status.stage or None) for name, status in scan.at_work.items()},
    }


def trials_object(trials: pa.Table, out: Path) -> dict[str, Any]:
    """Of a search: every trial, the best first, and what all of them trained."""
    from llb_ray.search.search_results import num_trained
    from llb_ray.search.trials import FINISHED, rank_trials

    rows = rank_trials(trials).to_pylist()
    best = rows[0]["trial"] if rows and rows[0]["status"] == FINISHED else None
    trained = num_trained(Store(out.absolute() / "artifacts"))
    return {
        "search": str(out),
        "best_trial": best,
        "best_config": str(out / "best.yaml"),
        "trained": {"members": trained["member"], "final_detectors": trained["final"]},
        "trials": rows,
    }


def _outcome(outcome: "Result | Outcome") -> dict[str, Any]:
    return {
        "images": {
            "training": outcome.num_input,
            "kept": outcome.num_kept,
            "rejected": outcome.num_rejected,
            "quarantined": outcome.num_quarantined,
        },
        "missing_members": outcome.missing,
        "metrics": outcome.metrics,
    }


def _stages(times: "Sequence[StageTime]") -> list[dict[str, Any]]:
    return [asdict(time) for time in times]
