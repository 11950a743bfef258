"""Dispatches missing artifacts to workers and accounts for worker time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from llb_ray.artifacts import Store
from llb_ray.config import ResourcesConfig, WorkerRange
from llb_ray.engine.evaluation.pixel_counter import PixelShard
from llb_ray.engine.execution.executor import Executor
from llb_ray.engine.execution.heartbeat import read_beat
from llb_ray.engine.execution.protocols import Spec, Worker
from llb_ray.engine.features.featurizer import Shard
from llb_ray.engine.rundir.stage_timer import StageTimer
from llb_ray.engine.workers.fitter import MemberSpec
from llb_ray.engine.workers.scorer import ScoreShard
from llb_ray.errors import LlbError
from llb_ray.seeding import stream

Part = TypeVar("Part", Shard, MemberSpec, ScoreShard, PixelShard)  # what has a recipe


@dataclass
class Dispatcher:
    """Has the executor run a run's workers."""

    executor: Executor
    timer: StageTimer
    worker_s: float = 0.0  # that workers worked, all of them together
    gpu_s: float = 0.0  # the same, each second times the GPUs of the worker

    @property
    def store(self) -> Store:
        return self.timer.folder.store

    def unmade(self, parts: Sequence[Part]) -> list[Part]:
        """The parts that no finished artifact is there for.

        In an order of the run's own if it shares its store: a run waits for what another is making, so two that went
        the same way would take every step together, at the speed of one.
        """
        unmade, folder = [part for part in parts if self.timer.sound(part.recipe) is None], self.timer.folder
        if folder.shared_store is None:
            return unmade
        return [unmade[index] for index in stream(0, "turns", str(folder.path)).permutation(len(unmade))]

    def deal(self, shards: Sequence[Any], resources: ResourcesConfig) -> list[tuple[Any, ...]]:
        """The shards of each worker, for as many with these resources as can run at once."""
        slots = min(self.executor.slots(resources), len(shards))
        return [tuple(shards[slot::slots]) for slot in range(slots)]

    def each(self, worker: type[Worker], specs: Sequence[Spec], may_fail: int = 0) -> Mapping[str, LlbError]:
        """Have a worker do each of these; those that failed, `may_fail` at most, by name."""
        failed = self.executor.run(worker, specs, self.timer.tell, may_fail)
        self._count(specs)
        return failed

    def together(self, worker: type[Worker], specs: Sequence[Spec], num_workers: WorkerRange) -> None:
        """Have so many workers do these, one after the other, as one."""
        for spec in specs:
            self.executor.run_together(worker, spec, num_workers, self.timer.tell)
        self._count(specs, num_workers.most)

    def _count(self, specs: Sequence[Spec], num_workers: int = 1) -> None:
        """Add the time that these workers worked, from their first beat to their last."""
        for spec in specs:
            beat = read_beat(spec.context, spec.name)
            seconds = num_workers * (beat.time_s - beat.since_s) if beat else 0.0
            self.worker_s += seconds
            self.gpu_s += seconds * spec.context.resources.num_gpus
