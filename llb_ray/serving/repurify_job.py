"""A `repurify` that a review started: a process of its own, its last line, and the run before and after."""

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.errors import LlbError

_WAIT_S = 30  # for a process that was asked to end


class RepurifyJob:
    """At most one at a time; started again, it makes the same run with the decisions of then."""

    def __init__(self, run: Path, decisions: Path, out: Path, options: Sequence[str]) -> None:
        self._run, self.out = run, out
        words = ["repurify", str(run), "--overrides", str(decisions), "--out", str(out), *options]
        self._command = [sys.executable, "-m", "llb_ray", *words]
        self._process: subprocess.Popen[str] | None = None
        self._line = ""

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, unless it is running."""
        if not self.is_running:
            self._line = "starting"
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            )
            threading.Thread(target=self._follow, args=(self._process,), daemon=True).start()

    def stop(self) -> None:
        """End it, if it is running; started again it is resumed."""
        if self._process is not None and self.is_running:
            self._process.terminate()
            self._process.wait(_WAIT_S)

    def as_json(self) -> dict[str, Any]:
        """State (``none``, ``running``, ``failed``, ``finished``), last line; once finished, both runs' counts."""
        if self._process is None:
            return {"state": "none"}
        if self.is_running:
            return {"state": "running", "line": self._line}
        if self._process.returncode:
            return {"state": "failed", "line": self._line}
        return {"state": "finished", "out": str(self.out)} | _compared(self._run, self.out)

    def _follow(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None, "it was asked for"
        for line in process.stdout:
            self._line = line.strip() or self._line


def _compared(before: Path, after: Path) -> dict[str, Any]:
    try:
        tables = [_decided(run) for run in (before, after)]
        changed = sum(tables[1].get(image_id) != decision for image_id, decision in tables[0].items())
        return {"before": _counts(before, tables[0]), "after": _counts(after, tables[1]), "num_changed": changed}
    except (LlbError, OSError) as error:
        return {"line": str(error)}


def _decided(run: Path) -> dict[str, str]:
    purified = FinishedRun(RunFolder.open(run), None).purified
    return dict(zip(purified["image_id"].to_pylist(), purified["decision"].to_pylist(), strict=True))


def _counts(run: Path, decided: dict[str, str]) -> dict[str, Any]:
    decisions, threshold = list(decided.values()), run / "threshold.json"
    value = json.loads(threshold.read_text()).get("threshold") if threshold.exists() else None
    return {"kept": decisions.count("kept"), "rejected": decisions.count("rejected"), "threshold": value}
