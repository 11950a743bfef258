"""Batches of a prediction on the workers of an executor: they fill its journal, which the driver then reads.

A worker that dies is replaced, and its batches are judged again; batches that are recorded stay recorded when the
driver dies too.  However many images there are, no more batches are listed than some workers take at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from llb_ray.data.predict_inputs import Inputs
from llb_ray.engine.execution.executor import Executor
from llb_ray.engine.execution.protocols import WorkerContext
from llb_ray.engine.inference.batch_judge import Batch, BatchJudge
from llb_ray.engine.inference.trained_detector import batched
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.engine.rundir.run_index import INDEX

_MOST_BATCHES = 64  # of a worker, which loads the detector once for them
_WORKERS_PER_SLOT = 4  # at once, so that those who are done early find something to do


@dataclass(frozen=True)
class BatchesSpec:
    """Some batches for one worker."""

    name: str
    context: WorkerContext
    judge: BatchJudge
    batches: Sequence[Batch]

    @property
    def title(self) -> str:
        first, last = self.batches[0][1][0].path, self.batches[-1][1][-1].path
        return f"{self.name} ({first} to {last})"


class BatchWorker:
    """Judges and records the batches of its spec."""

    STEPS: ClassVar[tuple[str, ...]] = ("judge",)

    def __init__(self, spec: BatchesSpec) -> None:
        self._spec = spec

    def judge(self) -> None:
        """Step: every batch is in the journal."""
        for _ in self._spec.judge.judge(self._spec.batches):
            pass


def judge_on(
    executor: Executor,
    judge: BatchJudge,
    inputs: Inputs,
    folder: RunFolder,
    progress: Callable[[int, int], None],
) -> None:
    """Have workers judge all batches that are not recorded; `progress` is called with (done, total) files.

    Raises ResourceError where no worker finds room, or one does not see the run, the images or the folder of the
    prediction.
    """
    context = WorkerContext(folder.store, judge.journal.folder, judge.run.config.resources, "predict")
    executor.refuse_unshared(_proofs(judge, inputs, folder))
    size, slots = judge.run.batch_size, executor.slots(context.resources)
    most = max(1, min(_MOST_BATCHES, -(-inputs.num_files // (size * slots))))
    missing = (batch for batch in judge.batches(inputs) if judge.find(batch) is None)
    for some in batched(batched(missing, most), slots * _WORKERS_PER_SLOT):
        specs = [BatchesSpec(f"batches-{part[0][0]:08d}", context, judge, part) for part in some]
        executor.run(BatchWorker, specs, tell=lambda line: None)
        progress(min(inputs.num_files, (some[-1][-1][0] + 1) * size), inputs.num_files)


def _proofs(judge: BatchJudge, inputs: Inputs, folder: RunFolder) -> dict[Path, Path]:
    """Folders that every worker has to see, each with a file in it."""
    images = (inputs.root / file.path for file in inputs.read() if file.problem is None)
    first = next((path for path in images if path.exists()), None)
    known = {} if first is None else {inputs.root: first}
    return {folder.path: folder.file(INDEX), judge.journal.folder: judge.journal.proof, **known}
