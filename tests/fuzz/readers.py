"""Everything that reads a file which somebody else may have written, by kind; each in a process that may die of it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

REFUSED = "refused"


def _listing(path: Path) -> Any:
    from llb_ray.data.listing import Listing

    return Listing.load(path).table.to_pylist()


def _table(path: Path) -> Any:
    from llb_ray.data.tables import read_table

    return read_table(path).to_pylist()


def _mapped(path: Path) -> Any:
    from llb_ray.data.tables import MappedBatches

    return [batch.to_pylist() for batch in MappedBatches(path).batches]


def _index(path: Path) -> Any:
    from llb_ray.engine.rundir.run_folder import RunFolder

    folder = RunFolder.open(path.parent)
    return [folder.config(), [made.content for made in folder.made().artifacts()]]


def _record(path: Path) -> Any:
    from llb_ray.artifacts import load

    load(path.parent).check()


def _status(path: Path) -> Any:
    from llb_ray.engine.inspection.run_status import crashed_stage, read_status
    from llb_ray.engine.rundir.run_folder import RunFolder

    return crashed_stage(RunFolder.at(path.parent)), read_status(path.parent)


def _beat(path: Path) -> Any:
    from llb_ray.engine.inspection.run_status import read_status

    return read_status(path.parent.parent).workers()


def _config(path: Path) -> Any:
    from llb_ray.config import load

    return load(path).to_yaml()


def _overrides(path: Path) -> Any:
    import pyarrow as pa

    from llb_ray.ensemble.overrides import read_overrides

    return read_overrides(path, pa.table({"image_id": ["a" * 32], "path": ["a.png"]})).to_pylist()


def _inputs(path: Path) -> Any:
    from llb_ray.data.predict_inputs import Inputs

    return [file.path for file in Inputs.of(path).read()]


def _bands(path: Path) -> Any:
    from llb_ray.data.bands import read_bands

    return read_bands(path, 6, 10_000).sum()


def _photograph(path: Path) -> Any:
    from llb_ray.data.decoding import read_rgb

    return read_rgb(path, 16, 10_000).sum()


def _checkpoint(path: Path) -> Any:
    from llb_ray.engine.execution.checkpoint import FileCheckpoints

    return FileCheckpoints(path, 0).load()


def _columns(path: Path) -> Any:
    from llb_ray.config import DatasetOptions
    from llb_ray.data.adapters import survey

    return survey("table", path.parent, DatasetOptions(table=path, check_files=False)).usable(True)


def _results(path: Path) -> Any:
    from llb_ray.scans.job_results import read_results

    return read_results(path.parent).to_pylist()


READERS: dict[str, Callable[[Path], Any]] = {
    "listing": _listing,
    "table": _table,
    "mapped": _mapped,
    "index": _index,
    "record": _record,
    "status": _status,
    "beat": _beat,
    "config": _config,
    "overrides": _overrides,
    "inputs": _inputs,
    "bands": _bands,
    "photograph": _photograph,
    "checkpoint": _checkpoint,
    "columns": _columns,
    "results": _results,
}


def read(kind: str, path: str, content: bytes) -> str:
    """What came of reading the file with this content: ``read``, or ``refused``; raises what nobody foresaw."""
    from llb_ray.data.decoding import UnreadableImage
    from llb_ray.errors import LlbError

    Path(path).unlink(missing_ok=True)  # the old bytes may be mapped
    Path(path).write_bytes(content)
    os.environ["LLB_NO_VERIFY"] = "1" if kind in ("table", "mapped") else ""
    try:
        READERS[kind](Path(path))
    except (LlbError, UnreadableImage, OSError):
        return REFUSED
    return "read"
