"""What several tests ask of a run."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow.fs import FileSelector, FileSystem, FileType

from llb_ray.artifacts import RECORD
from llb_ray.data.tables import read_table, write_table
from llb_ray.disk import file_digest, write_json

Pixels = npt.NDArray[np.uint8]
Draw = Callable[[str], tuple[Pixels, Pixels | None]]  # of a kind: a photograph, and its mask where it has a defect


def final_files(run: Path) -> dict[str, str]:
    """Every file of a finished run that must not depend on luck or time, with its digest."""
    passing = {"events.jsonl", "report.html"}  # what happened when, and what tells of it
    files = (path for path in sorted(run.rglob("*")) if path.is_file())
    named = ((path.relative_to(run).as_posix(), path) for path in files)
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in named
        if name not in passing and not name.startswith("progress/")
    }


def synced(uri: str, folder: Path) -> Path:
    """A plain copy of all that lies at a URI, as ``aws s3 sync`` would make it."""
    filesystem, root = FileSystem.from_uri(uri)
    for info in filesystem.get_file_info(FileSelector(root, recursive=True)):
        if info.type == FileType.File:
            path = folder / info.path.removeprefix(f"{root}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(filesystem.open_input_stream(info.path).read())
    return folder


def overwrite(uri: str, name: str, content: bytes | None) -> None:
    """Replace one file below a URI behind our back, or remove it."""
    filesystem, root = FileSystem.from_uri(uri)
    if content is None:
        filesystem.delete_file(f"{root}/{name}")
        return
    with filesystem.open_output_stream(f"{root}/{name}") as stream:
        stream.write(content)


def write_beat(run: Path, name: str, **facts: Any) -> None:
    """A heartbeat of a worker of the run in `run`: three of ten images scored in two seconds, unless told otherwise."""
    now_s = facts.get("time_s", time.time())
    beat = {"step": "score", "done": 3, "total": 10, "unit": "images", "pid": 1, "time_s": now_s, "since_s": now_s - 2}
    write_json(run / "progress" / f"{name}.json", {"name": name, "state": "working", **beat, **facts})


def write_events(run: Path, *events: dict[str, Any], time_s: float | None = None) -> None:
    """Append to the event log of the run in `run`."""
    with (run / "events.jsonl").open("a") as log:
        for event in events:
            log.write(json.dumps({"time_s": time_s or time.time(), **event}) + "\n")


def shared(*names: str) -> Path:
    """The folder of the real data, which has all of these; skips the test where it does not."""
    root = Path(os.environ.get("LLB_DATA", Path(__file__).parents[2] / "shared" / "data")).absolute()
    lacking = [name for name in names if not (root / name).exists()]
    if lacking:
        pytest.skip(f"{root} has no {lacking[0]}; set LLB_DATA to run this test")
    return root


def photo(path: Path, seed: int = 0, width: int = 8, height: int = 6) -> Path:
    """A small image whose bytes are its seed's own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def square_defects(size: tuple[int, int], spread: float, rows: slice, columns: slice) -> Draw:
    """Draws grey noise of this height, width and spread; the anomalous photographs have a bright rectangle there."""
    rng = np.random.default_rng(0)

    def draw(kind: str) -> tuple[Pixels, Pixels | None]:
        image = rng.normal(120, spread, (*size, 3)).clip(0, 255).astype(np.uint8)
        if kind == "good":
            return image, None
        mask = np.zeros(size, np.uint8)
        image[rows, columns], mask[rows, columns] = 255, 255
        return image, mask

    return draw


def labelled_photos(root: Path, counts: Sequence[tuple[str, str, int]], draw: Draw) -> Path:
    """`root`, with so many photographs of each split and kind as `draw` gives them, and the masks of those that have
    one, in MVTec's layout."""
    for split, kind, count in counts:
        for number in range(count):
            image, mask = draw(kind)
            files = {root / split / kind / f"{number}.png": image}
            files |= {} if mask is None else {root / "ground_truth" / kind / f"{number}_mask.png": mask}
            for path, pixels in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return root


def reseal(artifact: Path) -> None:
    """Have the completion record describe the files that now lie in `artifact`, as who forges a run would."""
    record = json.loads((artifact / RECORD).read_text())
    names = [path.relative_to(artifact).as_posix() for path in artifact.rglob("*") if path.is_file()]
    record["files"] = {name: file_digest(artifact / name) for name in names if name != RECORD}
    record["bytes"] = {name: (artifact / name).stat().st_size for name in record["files"]}
    (artifact / RECORD).write_text(json.dumps(record))


def rewrite(artifact: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a table of an artifact, sealed."""
    table = change(read_table(artifact / name))
    (artifact / name).unlink()  # the old bytes stay mapped
    write_table(artifact / name, table)
    reseal(artifact)


def set_column(table: pa.Table, name: str, values: Sequence[Any]) -> pa.Table:
    """The table with other values in a column."""
    index = table.column_names.index(name)
    return table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))


def artifact_of(run: Path, role: str) -> Path:
    """The folder of a run's artifact, or of the first one, by its role in run.json."""
    found = json.loads((run / "run.json").read_text())["artifacts"][role]
    return run / "artifacts" / (found if isinstance(found, str) else found[0])


def republish(run: Path, name: str) -> None:
    """Have run.json say that the file which people now find there was published."""
    index = json.loads((run / "run.json").read_text())
    index["published"][name] = file_digest(run / name)
    (run / "run.json").write_text(json.dumps(index))


def write_scan(
    out: Path, *, done: int, total: int, failed: int = 0, up_to_date: int = 0, running: Sequence[str] = ()
) -> Path:
    """The folder of a scan that began 100 seconds ago, whose running jobs have begun their first stage."""
    out.mkdir()
    (out / "scan.yaml").touch()
    now_s = time.time()
    beat = {"state": "working", "pid": 1, "time_s": now_s}
    figures = {"failed": failed, "up_to_date": up_to_date}
    jobs = {"done": done, "total": total, "unit": "jobs", "since_s": now_s - 100, "figures": figures}
    write_json(out / "progress" / "jobs.json", {"name": "jobs", "step": "scan", **beat, **jobs})
    for name in running:
        job = {"done": 0, "total": 0, "unit": "", "since_s": now_s - 1}
        write_json(out / "progress" / "running" / f"{name}.json", {"name": name, "step": "job", **beat, **job})
        (out / "jobs" / name).mkdir(parents=True)
        started = {"event": "run started", "config": {"members": {"count": 2}}}
        write_events(out / "jobs" / name, started, {"event": "stage started", "stage": "features", "reused": False})
    return out
