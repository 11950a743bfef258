"""A `repurify` that a review started: a process of its own, its last line, and the run before and after."""

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llb_ray.data.unreadable_files import UnreadableImage
from llb_ray.engine.inspection.changes import decisions_of, threshold_of
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.errors import LlbError

_WAIT_S = 30  # for a process that was asked to end


class RepurifyJob:
    """At most one at a time; started again, it makes the same run with the decisions of then."""

    def __init__(
        self, run: Path, decisions: Path, out: Path, options: Sequence[str] = (), data: Path | None = None
    ) -> None:
        self._run, self.out, self._data = run, out, data
        moved = [] if data is None else ["--data", str(data)]
        words = ["repurify", str(run), "--overrides", str(decisions), "--out", str(out), *moved, *options]
        self._command = [sys.executable, "-m", "llb_ray", *words]
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._line = ""
        self._found: dict[str, Any] = {}

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start it, unless it is running."""
        if not self.is_running:
            self._line = "starting"
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            )
            self._thread = threading.Thread(target=self._follow, args=(self._process,), daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End it, if it is running; started again it is resumed."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(_WAIT_S)

    def as_json(self) -> dict[str, Any]:
        """State (``none``, ``running``, ``failed``, ``finished``), last line; once finished, what `_compared` gives."""
        if self._process is None:
            return {"state": "none"}
        if self.is_running:
            return {"state": "running", "line": self._line}
        if self._process.returncode:
            return {"state": "failed", "line": self._line}
        return {"state": "finished", "out": str(self.out)} | self._found

    def _follow(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None, "it was asked for"
        for line in process.stdout:
            self._line = line.strip() or self._line
        if process.wait() == 0:
            self._line = "comparing both runs"
            self._found = _compared(self._run, self.out, self._data)


def _compared(before: Path, after: Path, data: Path | None) -> dict[str, Any]:
    """Counts and thresholds of both runs, changed images, and `planted` defects found; or the reason in `line`."""
    try:
        runs = [FinishedRun(RunFolder.open(run), data) for run in (before, after)]
        was, now = map(decisions_of, runs)
        changed = sum(now.get(image_id) != decision for image_id, decision in was.items())
        counts = {"before": _counts(runs[0], was), "after": _counts(runs[1], now), "num_changed": changed}
        return counts | {"planted": _planted(*runs)}
    except (LlbError, OSError) as error:
        return {"line": str(error)}


def _planted(before: FinishedRun, after: FinishedRun) -> list[int] | None:
    """Number of planted defects, found before and found after; None where that cannot be said."""
    from llb_ray.search.planted_recall import planted_recall  # torch, which a page of decisions is spared

    try:
        return list(planted_recall(before, after))
    except (LlbError, UnreadableImage, OSError):
        return None


def _counts(run: FinishedRun, decided: dict[str, str]) -> dict[str, Any]:
    decisions = list(decided.values())
    counts = {"kept": decisions.count("kept"), "rejected": decisions.count("rejected")}
    return counts | {"threshold": threshold_of(run)}
