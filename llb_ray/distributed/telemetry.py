"""Metrics for Prometheus, through Ray: what `engine.inspection` reads from the folders of running runs.

Ray puts ``ray_`` before every name and ``_total`` after a counter's: ``llb_images`` is scraped as
``ray_llb_images_total``.  Set in the driver, from files, so that no worker needs to know of it; a step that begins
and ends between two looks is missed.  On a cluster without a metrics endpoint nothing happens.
"""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from ray.util.metrics import Counter, Gauge

from llb_ray.distributed.repeating import Repeating
from llb_ray.engine.execution.heartbeat import Beat
from llb_ray.engine.execution.protocols import WorkerContext
from llb_ray.engine.inspection.run_status import Status, read_status
from llb_ray.errors import LlbError

_RUN = ("run", "category")


class Meters:
    """Every metric of ours by its name before Ray's prefix; `cluster/README.md` lists them as they are scraped."""

    def __init__(self) -> None:
        member = (*_RUN, "member", "step")
        self.workers = Gauge("llb_workers", "workers of the running stage", (*_RUN, "kind", "state"))
        self.progress = Gauge("llb_progress_ratio", "share of its step that a worker has done", member)
        self.images_rate = Gauge("llb_images_per_second", "images encoded, fitted or scored", member)
        self.steps_rate = Gauge("llb_training_steps_per_second", "gradient steps", member)
        self.loss = Gauge("llb_loss", "mean loss of a training batch, unweighted", (*_RUN, "member"))
        self.ess = Gauge("llb_effective_sample_size", "of a batch's importance weights, in images", (*_RUN, "member"))
        self.silence = Gauge("llb_heartbeat_age_seconds", "since a worker's last sign of life", (*_RUN, "member"))
        self.images = Counter("llb_images", "images encoded, fitted or scored", (*_RUN, "step"))
        self.stages = Counter("llb_stages", "stages through with, up to date or not", (*_RUN, "stage", "reused"))
        self.stage_seconds = Gauge("llb_stage_seconds", "how long a stage took", (*_RUN, "stage"))
        self.kept = Gauge("llb_kept_ratio", "share of the training images kept; set when the run ends", _RUN)


@dataclass
class _Watched:
    """A run, and what of it the counters have already counted."""

    category: str
    images: dict[tuple[str, str], int] = field(default_factory=dict)  # by worker and step
    num_stages: int = 0


class Telemetry:
    """A context in which the metrics of every watched run are kept up to date, until a last time at its end."""

    def __init__(self) -> None:
        self._runs: dict[Path, _Watched] = {}
        self._repeating = Repeating(self._look, "llb-telemetry")

    def __enter__(self) -> Self:
        self._meters = Meters()
        self._repeating.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._repeating.__exit__(kind, error, traceback)

    def watch(self, context: WorkerContext) -> None:
        """Take the run that `place` belongs to into account from now on."""
        self._runs.setdefault(context.run, _Watched(context.category))

    def _look(self) -> None:
        for path, watched in list(self._runs.items()):
            # Metrics are a courtesy: a folder that is gone or half written must not end a run.
            with contextlib.suppress(LlbError, OSError):
                self._publish(read_status(path), watched)

    def _publish(self, status: Status, watched: _Watched) -> None:
        tags = {"run": status.path.name, "category": watched.category}
        self._count_workers(status, tags)
        for beat in status.beats:
            if beat.state != "waiting" and beat.total:
                self._follow(beat, status.now_s, tags)
                self._count_images(beat, watched, tags)
        for time in status.times[watched.num_stages :]:
            self._meters.stages.inc(1, tags | {"stage": time.stage, "reused": str(time.reused).lower()})
            self._meters.stage_seconds.set(time.seconds, tags | {"stage": time.stage})
        watched.num_stages = len(status.times)
        if status.outcome is not None:
            kept, rejected = status.outcome.num_kept, status.outcome.num_rejected
            self._meters.kept.set(kept / (kept + rejected), tags)

    def _count_workers(self, status: Status, tags: dict[str, str]) -> None:
        for kind, states in status.workers().items():
            for state in ("waiting", "working", "done"):
                self._meters.workers.set(states[state], tags | {"kind": kind, "state": state})

    def _follow(self, beat: Beat, now_s: float, tags: dict[str, str]) -> None:
        """A worker's own gauges; a finished one's rates go to zero, since a gauge cannot be taken back."""
        at_work = beat.state == "working"
        member = tags | {"member": beat.name}
        step = member | {"step": beat.step}
        self._meters.progress.set(beat.done / beat.total if beat.total else 1.0, step)
        rate = self._meters.images_rate if beat.unit == "images" else self._meters.steps_rate
        rate.set(beat.per_second if at_work else 0.0, step)
        for name, meter in (("loss", self._meters.loss), ("effective_sample_size", self._meters.ess)):
            if name in beat.figures:
                meter.set(beat.figures[name], member)
        self._meters.silence.set(max(0.0, now_s - beat.time_s) if at_work else 0.0, member)

    def _count_images(self, beat: Beat, watched: _Watched, tags: dict[str, str]) -> None:
        if beat.unit != "images":
            return
        before = watched.images.get((beat.name, beat.step), 0)
        watched.images[beat.name, beat.step] = beat.done
        # A worker that was killed begins its step again: what it does now is new work.
        new = beat.done - before if beat.done >= before else beat.done
        if new:
            self._meters.images.inc(new, tags | {"step": beat.step})
