"""What several tests ask of a run."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from llb_ray.disk import write_json


def final_files(run: Path) -> dict[str, str]:
    """Every file of a finished run that must not depend on luck or time, with its digest."""
    passing = {"events.jsonl"}  # what happened when
    files = (path for path in sorted(run.rglob("*")) if path.is_file())
    named = ((path.relative_to(run).as_posix(), path) for path in files)
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in named
        if name not in passing and not name.startswith("progress/")
    }


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
