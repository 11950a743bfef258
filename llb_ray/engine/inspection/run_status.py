"""Status of a run, read from its folder: the event log, the heartbeats, and at the end the published files.

Works from any machine that sees the folder, whether or not the run's process lives, and without Ray.  Heartbeats stay
on the disks of the machines that workers are on where the run is at a URI; the event log does not.
"""

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llb_ray.data.manifest import TRAIN
from llb_ray.data.tables import read_table
from llb_ray.engine.execution.heartbeat import Beat, State, read_beats
from llb_ray.engine.rundir.run_folder import REPORT_WRITTEN, RunFolder
from llb_ray.engine.rundir.stage_timer import StageTime
from llb_ray.ensemble.decision import KEPT, REJECTED
from llb_ray.errors import ArtifactError
from llb_ray.remote import Remote

RunState = Literal["running", "failed", "stopped", "finished"]
_ENDS: dict[str, RunState] = {  # the last event of a run that logged its end
    "run failed": "failed",
    "run stopped": "stopped",
    "run finished": "finished",
}
REPORT_STAGE = "report"  # the only one after the end of a run
STALE_S = 60.0  # a worker beats twice a second, but a step may be silent while it loads or selects


@dataclass(frozen=True)
class Outcome:
    """Outcome of a finished run, as far as its published files say."""

    num_input: int  # training files found: kept + rejected + quarantined
    num_kept: int
    num_rejected: int
    num_quarantined: int
    metrics: dict[str, Any]
    missing: dict[str, str]  # sub-models that it had to do without, and why
    threshold: dict[str, Any]  # the facts of `run_threshold.derive_thresholds`
    contamination: dict[str, float]  # estimated share, low and high; empty where it was given


@dataclass(frozen=True)
class Status:
    """A run as its folder shows it; times in seconds since the epoch, durations in seconds."""

    path: Path
    where: str  # the folder, or the URI that it is a working copy of
    state: RunState
    error: str  # of a failed run, else empty
    stage: str  # begun and not ended; empty between stages and at the end
    times: list[StageTime]  # of the stages that this start of the run is through with
    beats: list[Beat]
    num_members: int
    started_s: float
    last_sign_s: float
    now_s: float
    outcome: Outcome | None  # of a finished run

    @property
    def silence_s(self) -> float:
        """Seconds since anybody wrote anything."""
        return max(0.0, self.now_s - self.last_sign_s)

    def images_per_second(self, kind: str | None = None) -> float:
        """Images that the working workers, all or those of a kind, do a second; 0 where none counts images."""
        beats = (beat for beat in self.beats if (beat.state, beat.unit) == ("working", "images"))
        return sum(beat.per_second for beat in beats if kind in (None, beat.kind))

    def workers(self) -> dict[str, Counter[State]]:
        """Numbers of workers of each kind that are waiting, working, done; members up to date count as done."""
        kinds: dict[str, Counter[State]] = {}
        for beat in self.beats:
            kinds.setdefault(beat.kind, Counter())[beat.state] += 1
        if "member" in kinds:
            kinds["member"]["done"] += max(0, self.num_members - kinds["member"].total())
        return kinds


def read_status(where: Path | Remote) -> Status:
    """Status of a run; raises ArtifactError if none was ever started there."""
    folder = RunFolder.at(where)
    events = _events(folder)
    last = next((event for event in events if event["event"] in _ENDS), events[-1])  # a report may be written later
    of_stages = [event for event in events if event["event"].startswith("stage ")]
    at_work = [event["stage"] for event in of_stages[-1:] if event["event"] == "stage started"]
    times = _times(events)
    # Of a run at a URI on another machine, this one's copy may hold the beats of a run before.
    beats = [beat for beat in read_beats(folder.progress) if not folder.remote or beat.time_s >= events[0]["time_s"]]
    state = _ENDS.get(last["event"], "running")
    return Status(
        path=folder.path,
        where=folder.where,
        state=state,
        error=last.get("error", ""),
        stage="".join(at_work),
        times=times,
        beats=beats,
        num_members=events[0]["config"]["members"]["count"],
        started_s=events[0]["time_s"],
        last_sign_s=max([last["time_s"], *(beat.time_s for beat in beats)]),
        now_s=time.time(),
        outcome=_outcome(folder, events) if state == "finished" else None,
    )


def _times(events: list[dict[str, Any]]) -> list[StageTime]:
    """Of the stages that are finished; of reports the last, which is the one that is there."""
    times = [stage_time(event) for event in events if event["event"] == "stage finished"]
    reports = [time for time in times if time.stage == REPORT_STAGE]
    return [time for time in times if time.stage != REPORT_STAGE] + reports[-1:]


def crashed_stage(folder: RunFolder) -> str | None:
    """The stage that the last run in `folder` was in when its process died; None if it logged its end, or never was.

    For who holds the run's lock: to anybody else, a running run looks the same.
    """
    try:
        events = _events(folder)
    except ArtifactError:
        return None
    if any(event["event"] in _ENDS for event in events):
        return None
    stages = [event["stage"] for event in events if event["event"].startswith("stage ")]
    return stages[-1] if stages else "manifest"


def _events(folder: RunFolder) -> list[dict[str, Any]]:
    """The events since the run was last started, the start first."""
    events = [event for event in folder.events() if event["event"] != REPORT_WRITTEN]
    starts = [number for number, event in enumerate(events) if event["event"] == "run started"]
    if not starts:
        raise ArtifactError(f"{folder.where}: no run was started here (no events.jsonl); give the --out of a run")
    return events[starts[-1] :]


def stage_time(event: dict[str, Any]) -> StageTime:
    """Content of a ``stage finished`` event."""
    return StageTime(event["stage"], event["seconds"], event["reused"])


def _outcome(folder: RunFolder, events: list[dict[str, Any]]) -> Outcome:
    decisions = Counter(read_table(folder.published("purified/part-0.arrow"))["decision"].to_pylist())
    num_quarantined = read_table(folder.published("quarantine.arrow"))["split"].to_pylist().count(TRAIN)
    estimate, threshold = folder.published("contamination.json"), folder.published("threshold.json")
    return Outcome(
        num_input=decisions.total() + num_quarantined,
        num_kept=decisions[KEPT],
        num_rejected=decisions[REJECTED],
        num_quarantined=num_quarantined,
        metrics=json.loads(folder.published("metrics.json").read_text()),
        missing={event["name"]: event["reason"] for event in events if event["event"] == "member missing"},
        threshold=json.loads(threshold.read_text()) if threshold.exists() else {},
        contamination=json.loads(estimate.read_text()) if estimate.exists() else {},
    )
