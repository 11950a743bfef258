"""The Ray executor: one actor per worker, its GPU given back the moment its last step is done.

Actors are restarted by Ray when their process or node dies, and a step that was interrupted is called again; steps
are idempotent, so the driver sees nothing of it.  There is no placement group: members are independent, more of
them than GPUs simply queue, and under Ray Tune the trial's own group captures them.
"""

import contextlib
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from llb_ray.config import ResourcesConfig
from llb_ray.distributed import cluster
from llb_ray.distributed.telemetry import Telemetry
from llb_ray.engine.executor import Tell, announce
from llb_ray.engine.worker import Spec, Worker
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

    def run(self, worker: type[Worker], specs: Sequence[Spec], tell: Tell) -> None:
        for spec in specs:
            self.slots(spec.place.resources)  # refuses now what Ray would leave pending for ever
            self._telemetry.watch(spec.place)
        heartbeats = announce(specs)
        # Names are unique in a namespace, and another run, or this one's last try, may still hold them.
        attempt = uuid.uuid4().hex[:6]
        running = [_start(worker, spec, attempt) for spec in specs]
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
                    heartbeats[one.spec.name].finish()
                    tell(f"{one.spec.name} done")
        finally:
            for one in running:
                ray.kill(one.actor)


def actor_name(spec: Spec) -> str:
    """What the dashboard shows: ``llb-bottle-member-003``."""
    return "-".join(part for part in ("llb", spec.place.category, spec.name) if part)


def _start(worker: type[Worker], spec: Spec, attempt: str) -> _Running:
    resources = spec.place.resources
    actor = ray.remote(worker).options(
        name=actor_name(spec),
        namespace=f"llb-{spec.place.run.name}-{attempt}",
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus,
        max_restarts=resources.max_restarts,
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
            f"({_why(error)}); run the same command again to go on from what is finished"
        ) from error


def _why(error: Exception) -> str:
    """The telling line of Ray's report of a death: the last Python error in it, else how the process ended."""
    lines = str(error).strip().splitlines()
    errors = [line.strip() for line in lines if re.match(r"\s*[\w.]*Error: ", line)]
    endings = [line.partition("exit detail: ")[2] for line in lines if "exit detail: " in line]
    return (errors or endings or lines)[-1][:300]
