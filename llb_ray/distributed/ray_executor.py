"""The Ray executor: workers in a pool of actors, as many as the cluster holds, whose places are soon given back."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from llb_ray.config import ResourcesConfig, WorkerRange
from llb_ray.distributed import capacity, cluster
from llb_ray.distributed.failure_monitor import KnownNodes, Watch
from llb_ray.distributed.telemetry import Telemetry
from llb_ray.distributed.worker_pool import ActorKind, IdleActors, PoolRun
from llb_ray.engine.execution.executor import Failures, Tell, refuse_crowd
from llb_ray.engine.execution.protocols import PeerWorker, Spec, Worker
from llb_ray.errors import LlbError, ResourceError

# Ray Train keeps what counts a cluster's places where it first started, and does without it once that node is lost.
_ON_THE_HEAD = {"num_cpus": 0, "num_gpus": 0, "resources": {"node:__internal_head__": 0.001}}


class RayExecutor:
    """Workers on the actors of a Ray cluster."""

    def __init__(self, address: str | None = None) -> None:
        self._address = address
        self._exit = contextlib.ExitStack()
        self._telemetry = Telemetry()
        self._idle = IdleActors()

    def __enter__(self) -> Self:
        self._exit.enter_context(cluster.connect(self._address))
        self._exit.enter_context(self._telemetry)
        self._exit.callback(self._idle.release)
        self._nodes = KnownNodes()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exit.close()

    def slots(self, resources: ResourcesConfig) -> int:
        return capacity.slots(resources)

    def refuse_unshared(self, proofs: Mapping[Path, Path]) -> None:
        cluster.refuse_unshared(proofs)

    def run(self, worker: type[Worker], specs: Sequence[Spec], tell: Tell, may_fail: int = 0) -> dict[str, LlbError]:
        failures = Failures(may_fail)
        if not specs:
            return failures.by_name
        self._telemetry.watch(specs[0].context)
        resources = specs[0].context.resources
        capacity.wait_for_node(resources, tell)
        PoolRun(
            worker, specs, ActorKind.of(specs[0]), _Room(resources), self._idle, failures, Watch(tell, self._nodes)
        ).to_the_end()
        return failures.by_name

    def run_together(self, worker: type[PeerWorker], spec: Spec, count: WorkerRange, tell: Tell) -> None:
        # Takes seconds to import, which only those who train together should wait for.
        from llb_ray.distributed.train_group import Together, TogetherSpec

        refuse_crowd(self, spec.context.resources, count)
        capacity.wait_for_node(spec.context.resources, tell)
        self._telemetry.watch(spec.context)
        # In an actor: it takes its trainer along when it is killed, and Ray Train's signal handlers stay out of ours.
        together = TogetherSpec(spec.name, spec.title, spec.context, worker, spec, count)
        kind = ActorKind(spec.context.run, spec.context.category, _ON_THE_HEAD)
        PoolRun(Together, [together], kind, lambda: 1, self._idle, Failures(0), Watch(tell, self._nodes)).to_the_end()
        self._idle.release()


class _Room:
    """The number of actors to have at once, while nodes come and go; an autoscaler looks at those that are pending.

    Raises ResourceError at the start when not even one fits: Ray would leave it pending for ever.
    """

    def __init__(self, resources: ResourcesConfig) -> None:
        self._resources = resources
        self._last = capacity.slots(resources)

    def __call__(self) -> int:
        with contextlib.suppress(ResourceError):  # the last node is gone, and another may join
            self._last = capacity.slots(self._resources)
        return self._last
