"""The Ray executor: one actor per worker, its GPU given back the moment its last step is done.

Actors are restarted by Ray when their process or node dies, and a step that was interrupted is called again; steps
are idempotent, so the driver sees nothing of it.  There is no placement group: members are independent, more of
them than GPUs simply queue, and under Ray Tune the trial's own group captures them.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from llb_ray.config import ResourcesConfig
from llb_ray.distributed import cluster
from llb_ray.distributed.deaths import why
from llb_ray.engine.executor import Tell, refuse_crowd
from llb_ray.engine.worker import PeerWorker, Spec, Worker
from llb_ray.errors import LlbError, MemberError

_PATIENCE_S = 60.0
Reference: TypeAlias = "ray.ObjectRef[Any]"


@dataclass
class _Running:
    """An actor, and how far it is."""

    spec: Spec
    actor: Any
    steps_left: list[str]


class RayExecutor:
    """Every worker in an actor of its own on a Ray cluster."""

    def __init__(self, address: str | None = None) -> None:
        self._address = address
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._exit.enter_context(cluster.connected(self._address))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exit.close()

    def slots(self, resources: ResourcesConfig) -> int:
        return cluster.slots(resources)

    def run(self, worker: type[Worker], specs: Sequence[Spec], tell: Tell) -> None:
        for spec in specs:
            self.slots(spec.place.resources)  # refuses now what Ray would leave pending for ever
        owned = [(spec.place.resources.num_cpus, spec.place.resources.num_gpus) for spec in specs]
        _to_the_end([_start(worker, spec, *one) for spec, one in zip(specs, owned, strict=True)], tell)

    def run_together(self, worker: type[PeerWorker], spec: Spec, count: int, tell: Tell) -> None:
        # Takes seconds to import, which only those who train together should wait for.
        from llb_ray.distributed.training import Together, TogetherSpec

        refuse_crowd(self, spec.place.resources, count)
        # In an actor: it takes its trainer along when it is killed, and Ray Train's signal handlers stay out of ours.
        together = TogetherSpec(spec.name, spec.place, worker, spec, count)
        _to_the_end([_start(Together, together, num_cpus=0, num_gpus=0)], tell)


def _to_the_end(running: Sequence[_Running], tell: Tell) -> None:
    """Have every actor do its steps, and give its place back."""
    try:
        in_flight = {_next_step(one): one for one in running}
        for reference in _as_completed(in_flight, tell):
            one = in_flight.pop(reference)
            _collect(reference, one)
            if one.steps_left:
                in_flight[_next_step(one)] = one
            else:
                # Early release: with more workers than GPUs, a pending or restarting one needs this place.
                ray.kill(one.actor)
                tell(f"{one.spec.name} done")
    finally:
        for one in running:
            ray.kill(one.actor)


def _start(worker: type[Worker], spec: Spec, num_cpus: float, num_gpus: float) -> _Running:
    actor = ray.remote(worker).options(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        max_restarts=spec.place.resources.max_restarts,
        # -1: a retry that meets a restart still pending must not be counted, or it is used up by waiting.
        max_task_retries=-1,
    )
    return _Running(spec, actor.remote(spec), list(worker.STEPS))


def _next_step(one: _Running) -> Reference:
    reference: Reference = getattr(one.actor, one.steps_left.pop(0)).remote()
    return reference


def _as_completed(in_flight: dict[Reference, _Running], tell: Tell) -> Iterator[Reference]:
    """References as they finish; `in_flight` may grow and shrink meanwhile."""
    while in_flight:
        done, _ = ray.wait(list(in_flight), num_returns=1, timeout=_PATIENCE_S)
        if not done:
            names = sorted(one.spec.name for one in in_flight.values())
            tell(f"still at work or waiting for a place: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}")
        yield from done


def _collect(reference: Reference, one: _Running) -> None:
    try:
        ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, LlbError):
            raise error.cause from None
        raise
    except (RayActorError, OutOfMemoryError) as error:
        raise MemberError(
            f"{one.spec.name}: its process died and {one.spec.place.resources.max_restarts} restarts did not help "
            f"({why(error)}); run the same command again to go on from what is finished"
        ) from error
