"""The rows of a scan: one per job that ended, on disk as JSON each and as one Parquet table of all."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llb_ray.data.tables import DAMAGED, validate
from llb_ray.disk import write_atomic, write_json
from llb_ray.errors import ArtifactError
from llb_ray.metrics.metric_names import of_detection
from llb_ray.scans.scan_plan import Job, Scan

DONE, FAILED = "done", "failed"
RESULTS = "results.parquet"
PROTOCOL = b"llb_ray.protocol"  # key of the table's metadata: how the metrics were measured, as JSON
METRICS = (
    *of_detection(),
    *("contamination", "estimated_contamination", "residual_contamination", "normals_lost"),
)
COSTS = ("seconds", "worker_seconds", "gpu_seconds", "images_per_second")
ROWS = pa.schema(
    [
        pa.field("category", pa.string(), nullable=False),
        pa.field("alpha", pa.float64()),  # null: the training set as it is
        pa.field("filter", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),  # why it failed
        *(pa.field(name, pa.float64()) for name in METRICS),  # null where undefined, or where nothing is labelled
        *(pa.field(name, pa.int64()) for name in ("num_train", "num_kept", "num_quarantined", "num_test")),
        # What the job itself spent: what jobs share is charged to the one that made it.
        *(pa.field(name, pa.float64()) for name in COSTS),
        pa.field("setting", pa.string(), nullable=False),  # `Scan.setting`
        pa.field("key", pa.string()),  # digest of all that the job depends on
    ]
)
Row = dict[str, Any]


def identity(job: Job) -> Row:
    """The columns that say which job a row is of."""
    return asdict(job)


def job_of(row: Row) -> Job:
    """The job that a row is of."""
    return Job(row["category"], row["alpha"], row["filter"], row["seed"])


def failed_row(scan: Scan, job: Job, reason: str) -> Row:
    """The row of a job that came to nothing, and why."""
    return {**identity(job), "status": FAILED, "reason": reason, "setting": scan.setting, "key": None}


def write_row(scan: Scan, job: Job, row: Mapping[str, Any]) -> None:
    """Leave the row where the driver, and a later call, find it."""
    write_json(_path(scan, job), dict(row))


def read_row(scan: Scan, job: Job) -> Row | None:
    """The job's row of an earlier call; None where there is none, or no readable one: the job is then done again."""
    return _read(_path(scan, job))


class Results:
    """The rows of a scan by job, and the one table of all of them, which is replaced whenever a row comes in."""

    def __init__(self, scan: Scan) -> None:
        """With the rows of earlier calls, also of jobs that this one has not; rows of another setting stay out."""
        self._path = scan.out / RESULTS
        from llb_ray.engine.evaluation.evaluate import protocol  # scikit-learn, which those who read results are spared

        self._protocol = protocol(scan.config)
        earlier = map(_read, sorted((scan.out / "rows").glob("[!.]*.json")))
        self._rows = {job_of(row): row for row in earlier if row and row["setting"] == scan.setting}

    def add(self, row: Row) -> None:
        """Take a row in, in the place of an earlier one of its job, and write the table."""
        self._rows[job_of(row)] = row
        self.write()

    def write(self) -> None:
        """Replace the table; a reader sees the old one or the new one."""
        sink = pa.BufferOutputStream()
        pq.write_table(self.table(), sink)
        write_atomic(self._path, sink.getvalue().to_pybytes())

    def table(self) -> pa.Table:
        """Every row (schema `ROWS`), by category, alpha, filter and seed; in its metadata, how all were measured."""
        return _table(self._rows.values()).replace_schema_metadata({PROTOCOL: json.dumps(self._protocol)})


def read_results(out: Path) -> pa.Table:
    """The table that a scan left in `out`; raises ArtifactError if there is none."""
    path = out / RESULTS
    try:
        table = validate(pq.read_table(path))
    except FileNotFoundError as error:
        raise ArtifactError(f"{out}: no scan has results here (no {RESULTS}); give the --out of a scan") from error
    except (*DAMAGED, OSError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); run the same scan again to rebuild it") from error
    if not table.schema.equals(ROWS):
        raise ArtifactError(f"{path}: made by another version of llb_ray; run the same scan again")
    return table


def protocol_of(table: pa.Table) -> dict[str, Any]:
    """Protocol of the metrics of a results table; empty where it names none."""
    said: dict[str, Any] = json.loads((table.schema.metadata or {}).get(PROTOCOL, b"{}"))
    return said


def failures(table: pa.Table) -> pa.Table:
    """The rows of jobs that failed."""
    return table.filter(pc.equal(table["status"], FAILED))


def _table(rows: Iterable[Row]) -> pa.Table:
    order = [(name, "ascending") for name in ("category", "alpha", "filter", "seed")]
    return pa.Table.from_pylist(list(rows), ROWS).sort_by(order)


def _read(path: Path) -> Row | None:
    try:
        row: Row = json.loads(path.read_text())
        _table([row])
    except (FileNotFoundError, ValueError, TypeError, AttributeError, pa.ArrowException):
        return None
    return row


def _path(scan: Scan, job: Job) -> Path:
    return scan.out / "rows" / f"{job.name}.json"
