"""The Ray executor: one actor per worker, its GPU given back the moment its last step is done.

Actors are restarted by Ray when their process or node dies, and a step that was interrupted is called again; steps
are idempotent and fits go on from their checkpoints, so the driver has only to tell of it.  There is no placement
group: members are independent, more of them than GPUs simply queue, and under Ray Tune the trial's own group captures
them.
"""

import contextlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import ray
from ray import cloudpickle
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from llb_ray.config import ResourcesConfig
from llb_ray.distributed import cluster
from llb_ray.distributed.death_reason import why
from llb_ray.distributed.failure_monitor import LOOK_S, Watch
from llb_ray.distributed.telemetry import Telemetry
from llb_ray.engine.execution.executor import Failures, Tell, announce, refuse_crowd
from llb_ray.engine.execution.protocols import PeerWorker, Spec, Worker
from llb_ray.errors import LlbError, MemberError

Reference: TypeAlias = "ray.ObjectRef[Any]"
_INLINE_BYTES = 50 * 2**10  # safely below the 100 KiB above which Ray puts an argument into its store itself


@dataclass
class _Running:
    """An actor, how far it is, and what keeps its argument for the day it is started again.

    Ray puts what is larger than 100 KiB (the ids of some thousand images) into its object store, and drops it there as
    soon as the actor is up unless somebody holds it (ray-project/ray issue 53727).
    """

    spec: Spec
    argument: Any
    actor: Any
    steps_left: list[str]


class RayExecutor:
    """Every worker in an actor of its own on a Ray cluster."""

    def __init__(self, address: str | None = None) -> None:
        self._address = address
        self._exit = contextlib.ExitStack()
        self._telemetry = Telemetry()

    def __enter__(self) -> Self:
        self._exit.enter_context(cluster.connected(self._address))
        self._exit.enter_context(self._telemetry)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exit.close()

    def slots(self, resources: ResourcesConfig) -> int:
        return cluster.slots(resources)

    def refuse_unshared(self, proofs: Mapping[Path, Path]) -> None:
        cluster.refuse_unshared(proofs)

    def run(self, worker: type[Worker], specs: Sequence[Spec], tell: Tell, may_fail: int = 0) -> dict[str, LlbError]:
        for spec in specs:
            self.slots(spec.place.resources)  # refuses now what Ray would leave pending for ever
            self._telemetry.watch(spec.place)
        attempt = _attempt()
        running = [
            _start(worker, spec, attempt, spec.place.resources.num_cpus, spec.place.resources.num_gpus)
            for spec in specs
        ]
        return _to_the_end(running, Failures(may_fail), Watch(tell))

    def run_together(self, worker: type[PeerWorker], spec: Spec, count: int, tell: Tell) -> None:
        # Takes seconds to import, which only those who train together should wait for.
        from llb_ray.distributed.train_group import Together, TogetherSpec

        refuse_crowd(self, spec.place.resources, count)
        self._telemetry.watch(spec.place)
        # In an actor: it takes its trainer along when it is killed, and Ray Train's signal handlers stay out of ours.
        together = TogetherSpec(spec.name, spec.title, spec.place, worker, spec, count)
        _to_the_end([_start(Together, together, _attempt(), 0, 0)], Failures(0), Watch(tell))


def _attempt() -> str:
    """Part of a namespace: names are unique in one, and another run, or this one's last try, may still hold them."""
    return uuid.uuid4().hex[:6]


def _to_the_end(running: Sequence[_Running], failures: Failures, watch: Watch) -> dict[str, LlbError]:
    """Have every actor do its steps, and give its place back; why those failed that may."""
    heartbeats = announce([one.spec for one in running])
    try:
        in_flight = {_next_step(one): one for one in running}
        for reference in _as_completed(in_flight, watch):
            one = in_flight.pop(reference)
            failure = _failure(reference, one.spec, one.actor)
            if failure is None and one.steps_left:
                in_flight[_next_step(one)] = one
                continue
            # Early release: with more workers than GPUs, a pending or restarting one needs this place.
            ray.kill(one.actor)
            heartbeats[one.spec.name].finish("done" if failure is None else "failed")
            if failure is None:
                watch.done(one.spec)
            else:
                failures.add(one.spec.name, failure)
    finally:
        for one in running:
            ray.kill(one.actor)
    return failures.by_name


def actor_name(spec: Spec) -> str:
    """Name of the actor in the dashboard: ``llb-bottle-member-003``."""
    return "-".join(part for part in ("llb", spec.place.category, spec.name) if part)


def _start(worker: type[Worker], spec: Spec, attempt: str, num_cpus: float, num_gpus: float) -> _Running:
    actor = ray.remote(worker).options(
        name=actor_name(spec),
        namespace=f"llb-{spec.place.run.name}-{attempt}",
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        max_restarts=spec.place.resources.max_restarts,
        # -1: a retry that meets a restart still pending must not be counted, or it is used up by waiting.
        max_task_retries=-1,
    )
    # Small ones travel inside the call: of those in the store Ray warns on the terminal.
    size = len(cloudpickle.dumps(spec))  # type: ignore[no-untyped-call]
    argument = ray.put(spec) if size > _INLINE_BYTES else spec
    return _Running(spec, argument, actor.remote(argument), list(worker.STEPS))


def _next_step(one: _Running) -> Reference:
    reference: Reference = getattr(one.actor, one.steps_left.pop(0)).remote()
    return reference


def _as_completed(in_flight: dict[Reference, _Running], watch: Watch) -> Iterator[Reference]:
    """References as they finish; `in_flight` may grow and shrink meanwhile."""
    while in_flight:
        done, _ = ray.wait(list(in_flight), num_returns=1, timeout=LOOK_S)
        watch.look([one.spec for one in in_flight.values()])
        yield from done


def _failure(reference: Reference, spec: Spec, actor: Any) -> LlbError | None:
    """Failure of a finished step; None if it did not fail.  Raises what is no failure of the worker's own."""
    try:
        ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, LlbError):
            return error.cause
        # A full disk or a lost mount: Ray's own report of it is a page.
        raise error.cause if isinstance(error.cause, OSError) else error from None
    except (RayActorError, OutOfMemoryError) as error:
        return MemberError(
            f"{spec.title}: its process died and {cluster.num_restarts(actor)} restarts did not help "
            f"({why(error)}); rerun the same command to resume"
        )
    return None
