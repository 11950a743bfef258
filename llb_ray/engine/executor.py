"""How workers are run: the protocol, and the serial executor that is the reference for every other."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from llb_ray.config import ResourcesConfig
from llb_ray.engine.worker import Heartbeat, Spec, Worker

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
        heartbeats = announce(specs)
        for spec in specs:
            working = worker(spec)
            for step in worker.STEPS:
                getattr(working, step)()
            heartbeats[spec.name].finish()
            tell(f"{spec.name} done")


def announce(specs: Sequence[Spec]) -> dict[str, Heartbeat]:
    """A heartbeat per worker, by name, each of which has said that its worker waits for its turn."""
    heartbeats = {spec.name: Heartbeat(spec.place, spec.name) for spec in specs}
    for heartbeat in heartbeats.values():
        heartbeat.wait()
    return heartbeats
