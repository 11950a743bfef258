"""How workers are run: the protocol, and the serial executor that is the reference for every other."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from llb_ray.config import ResourcesConfig
from llb_ray.engine.worker import PeerWorker, Spec, Worker
from llb_ray.errors import ResourceError

Tell = Callable[[str], None]  # a plain line for the person who watches


class Executor(Protocol):
    """A context in which workers run to the end of their steps; every executor leaves the same artifacts."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def slots(self, resources: ResourcesConfig) -> int:
        """How many workers with these resources can work at once; at least 1.

        Raises ResourceError when not even one fits.
        """

    def run(self, worker: type[Worker], specs: Sequence[Spec], tell: Tell) -> None:
        """One worker per spec, each through all its steps; the first failure of a worker's own is raised."""

    def run_together(self, worker: type[PeerWorker], spec: Spec, count: int, tell: Tell) -> None:
        """`count` workers of one spec, peers of each other, through all its steps at once.

        Raises ResourceError where there is no room for all of them.
        """


class SerialExecutor:
    """Every worker in this process, one after the other."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def slots(self, resources: ResourcesConfig) -> int:
        return 1

    def run(self, worker: type[Worker], specs: Sequence[Spec], tell: Tell) -> None:
        for spec in specs:
            working = worker(spec)
            for step in worker.STEPS:
                getattr(working, step)()
            tell(f"{spec.name} done")

    def run_together(self, worker: type[PeerWorker], spec: Spec, count: int, tell: Tell) -> None:
        refuse_crowd(self, spec.place.resources, count)


def refuse_crowd(executor: Executor, resources: ResourcesConfig, count: int) -> None:
    """Raise ResourceError if `count` workers with these resources cannot be at work at once."""
    room = executor.slots(resources)
    if count > room:
        raise ResourceError(
            f"final.num_workers={count} must be at work at once, each with {resources.num_cpus} CPUs and "
            f"{resources.num_gpus:g} GPUs, and there is room for {room}; lower it, or take the Ray executor on a "
            "cluster that has room"
        )
