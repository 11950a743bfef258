"""The executor protocol, and the serial executor that is the reference for every other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from llb_ray.config import ResourcesConfig, RunConfig, WorkerRange
from llb_ray.engine.execution.heartbeat import Beat, Heartbeat, read_beat
from llb_ray.errors import LlbError, ResourceError

if TYPE_CHECKING:  # it imports torch, which takes a second
    from llb_ray.engine.execution.protocols import PeerWorker, Spec, Worker

Tell = Callable[[str], None]  # a plain line for the person who watches


class Executor(Protocol):
    """A context in which workers run to the end of their steps; every executor leaves the same artifacts."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def slots(self, resources: ResourcesConfig) -> int:
        """Number of workers with these resources that can run at once; at least 1.

        Raises ResourceError when not even one fits.
        """

    def refuse_unshared(self, proofs: Mapping[Path, Path]) -> None:
        """Raise ResourceError unless every machine that workers may run on sees these folders, each proved by a file
        that was just written to it, or is known to be in it."""

    def run(
        self, worker: "type[Worker]", specs: "Sequence[Spec]", tell: Tell, may_fail: int = 0
    ) -> dict[str, LlbError]:
        """Reasons of failed workers, by name, `may_fail` of them at most; one per spec, each through all its steps.

        The first failure beyond that is raised, and at once whatever is no `LlbError`.
        """

    def run_together(self, worker: "type[PeerWorker]", spec: "Spec", count: WorkerRange, tell: Tell) -> None:
        """`count` workers of one spec, peers of each other, through all its steps at once: the most that there is room
        for.

        Raises ResourceError where there is no room for the fewest.
        """


@dataclass
class Failures:
    """The failures that a run goes on without."""

    may_fail: int
    by_name: dict[str, LlbError] = field(default_factory=dict)

    def add(self, name: str, error: LlbError) -> None:
        """Take note of it; raises it if it is one too many."""
        if len(self.by_name) >= self.may_fail:
            raise error
        self.by_name[name] = error


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

    def refuse_unshared(self, proofs: Mapping[Path, Path]) -> None:
        return None

    def run(
        self, worker: "type[Worker]", specs: "Sequence[Spec]", tell: Tell, may_fail: int = 0
    ) -> dict[str, LlbError]:
        heartbeats, failures = announce(specs), Failures(may_fail)
        for spec in specs:
            working = worker(spec)
            try:
                for step in worker.STEPS:
                    getattr(working, step)()
            except LlbError as error:
                heartbeats[spec.name].finish("failed")
                failures.add(spec.name, error)
                continue
            for line in resumption(read_beat(spec.context, spec.name)):
                tell(line)
            heartbeats[spec.name].finish()
            tell(f"{spec.name} done")
        return failures.by_name

    def run_together(self, worker: "type[PeerWorker]", spec: "Spec", count: WorkerRange, tell: Tell) -> None:
        refuse_crowd(self, spec.context.resources, count)
        self.run(worker, [spec], tell)


def refuse_labels(executor: Executor, config: RunConfig) -> None:
    """Raise ResourceError for labels of nodes where the executor cannot choose a node."""
    if name := ignored_labels(executor, config):
        raise ResourceError(
            f"{name} names nodes of a Ray cluster, and the serial executor stays on this machine; "
            "drop the setting, or take --executor ray"
        )


def ignored_labels(executor: Executor, config: RunConfig) -> str:
    """The setting that asks for nodes with labels where the executor cannot choose a node; else empty."""
    if not isinstance(executor, SerialExecutor):
        return ""
    if config.resources.label_selector:
        return "resources.label_selector"
    return "final.label_selector" if config.final.label_selector else ""


def refuse_crowd(executor: Executor, resources: ResourcesConfig, count: WorkerRange) -> None:
    """Raise ResourceError if the fewest of `count` workers with these resources cannot run at once."""
    room = executor.slots(resources)
    if count.least > room:
        fewest = "" if count.is_fixed else f"{count.least} of "
        raise ResourceError(
            f"{fewest}final.num_workers={count} must run at once, each with {resources.num_cpus} CPUs and "
            f"{resources.num_gpus:g} GPUs, and there is room for {room}; lower it, or take the Ray executor on a "
            "cluster that has room"
        )


def announce(specs: "Sequence[Spec]") -> dict[str, Heartbeat]:
    """A heartbeat per worker, by name, each of which has said that its worker waits for its turn."""
    heartbeats = {spec.name: Heartbeat(spec.context, spec.name) for spec in specs}
    for heartbeat in heartbeats.values():
        heartbeat.wait()
    return heartbeats


def resumption(beat: Beat | None) -> list[str]:
    """Message about a worker's death before its last beat; empty where there was none."""
    if beat is None:
        return []
    where = f"at {beat.unit.removesuffix('s')} {beat.first}/{beat.total}"
    if beat.starts > 1:
        rest = f"resuming {where}" if beat.first else "nothing was left"
        return [f"{beat.name}: its process died and was restarted ({beat.starts - 1}x), {rest}"]
    # Images come in batches and are counted from zero, so their first count says nothing.
    begun_before = beat.unit == "step" and beat.first > 1
    return [f"{beat.name}: resumed from checkpoint {where}"] if begun_before else []
