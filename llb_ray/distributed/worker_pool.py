"""Actors that pull workers: as many as there is room for, each doing one worker after the other.

Importing torch takes a process seconds, so a process for each of 200 small members would mostly import.  An actor that
is done stays for a moment, and the next stage's workers begin at once.  One that dies is replaced, and its worker goes
to whichever actor is free first; steps are idempotent and fits resume from their checkpoints.  There is no placement
group: workers are independent, and under Ray Tune the trial's own group captures the actors.
"""

import threading
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from llb_ray.distributed.capacity import placement
from llb_ray.distributed.death_reason import why
from llb_ray.distributed.drain_watch import watching_drains
from llb_ray.distributed.failure_monitor import LOOK_S, Watch
from llb_ray.engine.execution.executor import Failures, announce
from llb_ray.engine.execution.protocols import Spec, Worker
from llb_ray.errors import LlbError, MemberError

Reference: TypeAlias = "ray.ObjectRef[Any]"
_IDLE_S = 5.0  # the driver's own stages take seconds; after that, others should have the place
_NAMED_WAITING = 8  # of a long queue, those that a message may name


class WorkerActor:
    """Does workers, each through all its steps, one after the other in one process."""

    def ready(self) -> None:
        """Returns as soon as the process is up."""

    def do(self, worker: type[Worker], spec: Spec) -> None:
        """Take a worker through its steps; the GPU memory that it used is free for other processes afterwards."""
        working = worker(spec)
        try:
            with watching_drains():
                for step in worker.STEPS:
                    getattr(working, step)()
        finally:
            del working
            _free_gpu_memory()


def _free_gpu_memory() -> None:
    import torch  # a worker has imported it by now, and the driver need not

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class ActorKind:
    """Ray's options for the placement of an actor, and the run that it works for."""

    run: Path
    category: str
    placement: Mapping[str, Any]

    @classmethod
    def of(cls, spec: Spec) -> "ActorKind":
        """The kind of actor that this worker asks for."""
        return cls(spec.context.run, spec.context.category, placement(spec.context.resources))


class IdleActors:
    """Actors of the last stage, of one kind, for the next one; killed if that does not begin within seconds."""

    def __init__(self) -> None:
        self._attempt = uuid.uuid4().hex[:6]  # names are unique in a namespace, and another run may have the same
        self._num_started = 0
        self._kind: ActorKind | None = None
        self._actors: list[Any] = []
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def take(self, kind: ActorKind) -> list[Any]:
        """The idle actors of this kind; those of another give their place back."""
        if kind != self._kind:
            self.release()
        with self._lock:
            actors, self._actors, self._kind = self._actors, [], kind
        return actors

    def start(self, kind: ActorKind) -> Any:
        """A new actor, which may have to wait for a place."""
        name = _named(kind.category, f"worker-{self._num_started:02d}")
        self._num_started += 1
        namespace = f"llb-{kind.run.name}-{self._attempt}"
        return (
            ray.remote(WorkerActor).options(name=name, namespace=namespace, max_restarts=0, **kind.placement).remote()
        )

    def keep(self, actors: Sequence[Any]) -> None:
        """Keep these for the next stage, for a while."""
        with self._lock:
            self._actors += actors
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(_IDLE_S, self.release)
            self._timer.daemon = True
            self._timer.start()

    def release(self) -> None:
        """Kill the idle actors, which gives their places back."""
        with self._lock:
            actors, self._actors = self._actors, []
            if self._timer is not None:
                self._timer.cancel()
        for actor in actors:
            ray.kill(actor)


@dataclass
class PoolRun:
    """Workers of one kind on their way through a pool of actors."""

    worker: type[Worker]
    specs: Sequence[Spec]
    kind: ActorKind
    room: Callable[[], int]  # how many actors can run at once, now
    idle: IdleActors
    failures: Failures
    watch: Watch
    _free: list[Any] = field(default_factory=list)
    _busy: dict[Reference, tuple[Any, Spec]] = field(default_factory=dict)
    _starting: dict[Reference, Any] = field(default_factory=dict)
    _deaths: Counter[str] = field(default_factory=Counter)  # by the worker's name
    _failed_starts: int = 0  # in a row

    def __post_init__(self) -> None:
        self._waiting = deque(self.specs)
        self._heartbeats = announce(self.specs)

    def to_the_end(self) -> None:
        """Return when every worker is done or has failed; no actor is left but idle ones."""
        self._free = self.idle.take(self.kind)
        try:
            self._assign()
            while self._busy or self._starting:
                done, _ = ray.wait([*self._busy, *self._starting], num_returns=1, timeout=LOOK_S)
                at_work = [spec for _, spec in self._busy.values()]
                self.watch.look([*at_work, *islice(self._waiting, _NAMED_WAITING)])
                for reference in done:
                    self._started(reference) if reference in self._starting else self._ended(reference)
                self._assign()
        except BaseException:
            for actor in (*self._free, *self._starting.values(), *(actor for actor, _ in self._busy.values())):
                ray.kill(actor)
            raise
        self.idle.keep(self._free)

    def _assign(self) -> None:
        """Give every free actor a worker; start actors where there is room for more, and stop those that none needs."""
        while self._free and self._waiting:
            actor, spec = self._free.pop(), self._waiting.popleft()
            named = actor.do.options(name=task_name(spec))
            self._busy[named.remote(self.worker, spec)] = (actor, spec)
        if not self._waiting:
            for actor in self._starting.values():
                ray.kill(actor)
            self._starting.clear()
            return
        for _ in range(min(len(self._waiting), self.room() - len(self._busy)) - len(self._starting)):
            actor = self.idle.start(self.kind)
            self._starting[actor.ready.remote()] = actor

    def _started(self, reference: Reference) -> None:
        actor = self._starting.pop(reference)
        try:
            ray.get(reference)
        except (RayActorError, OutOfMemoryError) as error:
            self._failed_starts += 1
            # A lost node takes several with it; where none comes up at all, the first worker fails of it.
            if self._failed_starts > self.room() + self._max_restarts and self._waiting:
                spec = self._waiting.popleft()
                self._fail(spec, self._dead(spec, error))
            return
        self._failed_starts = 0
        self._free.append(actor)

    def _ended(self, reference: Reference) -> None:
        """Note what came of a worker, and where its actor died, have it done once more."""
        actor, spec = self._busy.pop(reference)
        try:
            failure = _failure(reference)
        except (RayActorError, OutOfMemoryError) as error:
            ray.kill(actor)
            self._deaths[spec.name] += not getattr(error, "preempted", False)
            if self._deaths[spec.name] <= self._max_restarts:
                self._waiting.appendleft(spec)
            else:
                self._fail(spec, self._dead(spec, error))
            return
        except BaseException:
            ray.kill(actor)
            raise
        self._free.append(actor)
        if failure is not None:
            self._fail(spec, failure)
            return
        self._heartbeats[spec.name].finish()
        self.watch.done(spec)

    def _fail(self, spec: Spec, failure: LlbError) -> None:
        self._heartbeats[spec.name].finish("failed")
        self.failures.add(spec.name, failure)

    def _dead(self, spec: Spec, error: Exception) -> MemberError:
        return MemberError(
            f"{spec.title}: its process died and {self._max_restarts} restarts did not help ({why(error)}); rerun the "
            "same command to resume"
        )

    @property
    def _max_restarts(self) -> int:
        return self.specs[0].context.resources.max_restarts


def task_name(spec: Spec) -> str:
    """Name of a worker's task in the dashboard: ``llb-bottle-member-003``."""
    return _named(spec.context.category, spec.name)


def _named(category: str, name: str) -> str:
    return "-".join(part for part in ("llb", category, name) if part)


def _failure(reference: Reference) -> LlbError | None:
    """Failure of a finished worker; None if it did not fail.  Raises what is no failure of the worker's own."""
    try:
        ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, LlbError):
            return error.cause
        # A full disk or a lost mount: Ray's own report of it is a page.
        raise error.cause if isinstance(error.cause, OSError) else error from None
    return None
