"""Several workers that go through the same steps as peers: Ray Train starts them, connects them and starts them again.

A worker that dies takes the others down, for they wait for it; Ray Train then restarts all of them, at most
`resources.max_restarts` times, and they go on from the checkpoint of the leading one (`engine.execution.checkpoint`).
Where their number is a range, it starts as many as the nodes hold, each time.
"""

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pyarrow.fs import LocalFileSystem
from ray import train
from ray.train.torch import TorchConfig, TorchTrainer

from llb_ray.config import WorkerRange
from llb_ray.distributed.capacity import label_selector
from llb_ray.distributed.death_reason import why
from llb_ray.distributed.drain_watch import watching_drains
from llb_ray.distributed.torch_data_parallel import TorchPeers
from llb_ray.engine.execution.protocols import PeerWorker, Spec, WorkerContext, device_for
from llb_ray.engine.filenames import CHECKPOINTS
from llb_ray.errors import LlbError, MemberError


@dataclass(frozen=True)
class TogetherSpec:
    """The workers of one fit, and what they fit."""

    name: str
    title: str
    context: WorkerContext
    worker: type[PeerWorker]
    spec: Spec
    count: WorkerRange


class Together:
    """A `Worker` that has others do the work, each with the resources of `place`; itself it needs none."""

    STEPS: ClassVar[tuple[str, ...]] = ("work",)

    def __init__(self, spec: TogetherSpec) -> None:
        self._spec = spec
        # Where every node sees the run; what a killed driver leaves there goes with the checkpoints.
        self._storage = spec.context.run / CHECKPOINTS / "train"

    def __repr__(self) -> str:
        return f"Together({self._spec.name}, {self._spec.count} workers)"

    def work(self) -> None:
        """All steps of all the workers are done afterwards; raises what one of them raised."""
        # A relative path must mean to the workers what it means here.
        os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
        self._clear()
        try:
            self._trainer().fit()
        except train.ControllerError as error:
            raise self._verdict([error.controller_failure]) from error
        except train.WorkerGroupError as error:
            raise self._verdict(list(error.worker_failures.values())) from error
        finally:
            self._clear()

    def _clear(self) -> None:
        remote = self._spec.context.store.remote
        if remote is not None:
            remote.delete_folder(self._storage)
        shutil.rmtree(self._storage, ignore_errors=True)

    def _shared(self) -> tuple[Any, str]:
        """The file system that every node sees, and the storage in it."""
        remote = self._spec.context.store.remote
        # A path stays a path, whatever characters it has.
        return (LocalFileSystem(), str(self._storage)) if remote is None else remote.opened(self._storage)

    def _trainer(self) -> TorchTrainer:
        resources, (filesystem, storage) = self._spec.context.resources, self._shared()
        count = self._spec.count
        owned = {"CPU": resources.num_cpus} | ({"GPU": 1} if resources.num_gpus else {})
        return TorchTrainer(
            _take_part,
            train_loop_config={"worker": self._spec.worker, "spec": self._spec.spec},
            # Ray Train would take nccl for every GPU it is asked for, but they may be only logical ones.
            torch_config=TorchConfig(backend="nccl" if resources.num_gpus and resources.device != "cpu" else "gloo"),
            scaling_config=train.ScalingConfig(  # type: ignore[call-arg]  # mypy sees the class that v2 replaces
                num_workers=count.most if count.is_fixed else tuple(count),  # type: ignore[arg-type]  # the same
                # A training that runs keeps its workers: Ray would stop it for places that other runs hold, and wait.
                elastic_resize_monitor_interval_s=math.inf,
                use_gpu=bool(resources.num_gpus),
                resources_per_worker=owned,
                label_selector=label_selector(resources),
            ),
            run_config=train.RunConfig(  # type: ignore[call-arg]  # the same
                name=self._spec.name,
                storage_path=storage,
                storage_filesystem=filesystem,
                failure_config=train.FailureConfig(max_failures=resources.max_restarts),
                callbacks=[_OwnErrorsAreFinal()],  # type: ignore[list-item]
                logging_config=train.LoggingConfig(log_level="ERROR"),
            ),
        )

    def _verdict(self, failures: Sequence[Exception]) -> Exception:
        """The error to raise: a worker's own exception, if there is one, else one of ours that says how a worker ended.

        A RuntimeError counts as an end, for it is also what gloo and nccl raise when a peer has died.
        """
        deaths = [error for error in failures if type(error).__module__.partition(".")[0] == "ray"]
        losses = [error for error in failures if isinstance(error, RuntimeError)]
        own = [error for error in failures if error not in deaths + losses]
        return (
            own[0]
            if own
            else MemberError(
                f"{self._spec.title}: a worker died for good ({why((deaths + losses)[0])}); "
                "rerun the same command to resume from the last checkpoint"
            )
        )


class _OwnErrorsAreFinal(train.UserCallback):
    """Ends the training at an error of ours: it would come again after every restart."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if isinstance(error, LlbError):
                raise error


def _take_part(work: dict[str, Any]) -> None:
    """The part of each worker."""
    spec: Spec = work["spec"]
    working = work["worker"](spec, TorchPeers(device_for(spec.context.resources)))
    with watching_drains(any_node=True):  # the leading worker saves for the others
        for step in working.STEPS:
            getattr(working, step)()
