"""Records that are sent to trackers: parameters, metrics, curves, files of runs, scans, searches and their parts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from llb_ray.artifacts import digest
from llb_ray.data.tables import read_table
from llb_ray.engine import filenames
from llb_ray.engine.inspection.run_status import read_status
from llb_ray.engine.rundir.run_card import CARD
from llb_ray.engine.rundir.run_folder import REPORT, RunFolder
from llb_ray.scans.job_results import DONE, METRICS, RESULTS, job_of, read_results

TRIALS = "trials.parquet"
Curve = Sequence[tuple[int, float]]  # step, value


@dataclass(frozen=True)
class Record:
    """One run of a tracker."""

    name: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    curves: Mapping[str, Curve] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)  # by the name that they have there
    children: Sequence["Record"] = ()

    @property
    def key(self) -> str:
        """Name and a digest of the parameters: a tracker refuses other values of those under the same id."""
        return f"{self.name}@{digest(dict(self.params))[:12]}"


def run_record(folder: RunFolder) -> Record:
    """Record of a finished run: settings, what was measured, losses, and the files that a person or a program takes."""
    status, config = read_status(folder.remote or folder.path), folder.config()
    assert status.outcome is not None, "a finished run has one"
    outcome = status.outcome
    counts = {"kept": outcome.num_kept, "rejected": outcome.num_rejected, "quarantined": outcome.num_quarantined}
    estimate = {f"contamination_{name}": value for name, value in outcome.contamination.items()}
    facts = outcome.threshold | estimate | counts | outcome.metrics
    seconds = {f"seconds.{time.stage}": time.seconds for time in status.times}
    final = folder.made().final
    log = {"loss": final.file(filenames.TRAINING_LOG)} if filenames.TRAINING_LOG in final.files else {}
    names = ["purified/part-0.arrow", "scores.arrow", "image_scores.arrow", "threshold.json", "metrics.json"]
    found = {name: folder.file(name) for name in [REPORT, CARD, "config.yaml", *names]}
    files = {name: path for name, path in found.items() if path.exists()}
    files["model/detector.safetensors"] = final.file(filenames.DETECTOR)
    curves = {name: _curve(read_table(path), name) for name, path in log.items()}
    params = _params(config.model_dump(mode="json", exclude={"tracking", "resources"}))
    return Record(folder.path.name, params, _numbers(facts) | seconds, curves, files)


def scan_record(folder: Path) -> Record:
    """Record of a scan, with a child for each of its jobs that ended well."""
    rows = read_results(folder).to_pylist()
    children = [_job_record(row) for row in rows if row["status"] == DONE]
    files = _existing(folder, (RESULTS, "table.csv", "table.md", "robustness.csv", "robustness.png"))
    counts = {"jobs": len(rows), "jobs_done": len(children)}
    return Record(folder.name, {}, _numbers(counts), files=files, children=children)


def search_record(folder: Path) -> Record:
    """Record of a search, with a child for each of its trials that has an objective."""
    rows = parquet.read_table(folder / TRIALS).to_pylist()
    judged = [row for row in rows if row["objective"] is not None]
    best = max((row["objective"] for row in judged), default=None)
    files = _existing(folder, (TRIALS, "trials.png", "best.yaml", "search.json"))
    children = [_trial_record(row) for row in judged]
    return Record(folder.name, {}, _numbers({"trials": len(rows), "objective": best}), files=files, children=children)


def _job_record(row: Mapping[str, Any]) -> Record:
    job = job_of(dict(row))
    params = {name: str(row[name]) for name in ("category", "alpha", "filter", "seed", "setting")}
    numbers = {name: row[name] for name in (*METRICS, "num_kept", "num_train", "seconds")}
    return Record(job.name, params, _numbers(numbers))


def _trial_record(row: Mapping[str, Any]) -> Record:
    numbers = {name: row[name] for name in ("objective", "seconds", "kept", "rejected")}
    params = _params(json.loads(row["settings"])) | {"status": row["status"]}
    return Record(f"trial-{row['trial']}", params, _numbers(numbers))


def _existing(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    return {name: folder / name for name in names if (folder / name).exists()}


def _curve(log: pa.Table, column: str) -> Curve:
    return list(zip(log["step"].to_pylist(), log[column].to_pylist(), strict=True))


def _params(tree: Mapping[str, Any]) -> dict[str, str]:
    """The leaves of nested settings as text, by dotted name."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in _leaves(tree, "")}


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _numbers(facts: Mapping[str, Any]) -> dict[str, float]:
    """The figures among the facts."""
    return {name: float(value) for name, value in facts.items() if isinstance(value, int | float)}
