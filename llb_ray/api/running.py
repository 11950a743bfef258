"""Making a run, and making one again with decisions by hand."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from llb_ray.config import RunConfig
from llb_ray.data.manifest import Manifest
from llb_ray.engine.execution.executor import Executor, SerialExecutor, Tell, ignored_labels, refuse_labels
from llb_ray.errors import ConfigError
from llb_ray.remote import local_folder, locate

if TYPE_CHECKING:
    from llb_ray.engine.pipeline.pipeline import Result


def run(
    config: RunConfig,
    manifest: Manifest,
    *,
    out: str | Path,
    executor: str | Executor = "ray",
    tell: Tell = lambda line: None,
    store: str | Path | None = None,
) -> "Result":
    """Purify the training images of `manifest`, train the final detector, and return the outcome.

    `executor` is ``ray`` (a local cluster unless RAY_ADDRESS is set), ``serial``, or an `Executor` that the caller
    has entered (so that many runs share one cluster).  `tell` receives plain progress lines.  Everything is written
    to `out`, a folder or the URI of one (``s3://bucket/photos``: whatever `pyarrow.fs.FileSystem.from_uri` takes);
    calling again after an interruption, from any machine that sees it, does only what is missing.  Runs that name the
    same `store`, a local folder, keep their artifacts there instead, and make what they have in common once.
    Raises a `LlbError` with one sentence for whatever the user can fix, OSError for a disk, a mount or a network.
    """
    from llb_ray.engine.pipeline.pipeline import RunSpec, run_stages
    from llb_ray.tracking.track import refuse_untracked

    refuse_untracked(config.tracking)
    if config.tracking:
        local_folder("tracking: --out", out)
    where, shared = locate(out), None if store is None else local_folder("store", store).absolute()
    if shared is not None and not isinstance(where, Path):
        raise ConfigError(f"{where}: a run at a URI keeps its artifacts there; leave the store out")
    spec = RunSpec(config, manifest, where, shared)
    with _entered(executor) as workers:
        refuse_labels(workers, config)
        return run_stages(spec, workers, tell)


def repurify(
    run: str | Path,
    overrides: str | Path,
    *,
    out: str | Path,
    by: str = "",
    data: str | Path | None = None,
    executor: str | Executor = "ray",
    ray_address: str | None = None,
    tell: Tell = lambda line: None,
) -> "Result":
    """The finished run `run` made once more in `out`, with the decisions of `by` in the CSV file `overrides`.

    Nothing before the decisions is made again: members, scores and features are linked into `out`, or copied from
    another disk or URI.  `data` is where the images are now, if they have moved.  Raises DataError for a file that does
    not fit the run, before an executor is started; what it takes and does is otherwise as in `run`.
    """
    from llb_ray.engine.inspection.finished_run import FinishedRun
    from llb_ray.engine.pipeline.repurify import read_amendment, repurify_run
    from llb_ray.engine.rundir.run_folder import RunFolder

    base = FinishedRun(RunFolder.open(locate(run)), None if data is None else Path(data))
    amendment = read_amendment(base, Path(overrides), by, locate(out))
    with _entered(executor, ray_address) as workers:
        _note_labels(workers, base.config, tell)
        return repurify_run(base, amendment, locate(out), workers, tell)


def update(
    run: str | Path,
    data: str | Path,
    *,
    out: str | Path,
    corrected: str | Path | None = None,
    by: str = "",
    executor: str | Executor = "ray",
    ray_address: str | None = None,
    tell: Tell = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> "Result":
    """The finished run `run` made once more in `out` with the further images in the folder `data`.

    These are encoded and scored by the members that exist; then all images are decided about, and the final detector
    and its threshold are made.  `corrected` is a folder that `predict` wrote, in whose scores.csv `by` corrected
    decisions: these hold for the images as decisions by hand.  `progress` is called with (done, total) new files.
    Raises DataError where nothing is new; what it takes and does is otherwise as in `repurify`.
    """
    from llb_ray.data.folder import read_folder
    from llb_ray.data.manifest import path_from_text
    from llb_ray.engine.inference.corrections import read_corrections
    from llb_ray.engine.inspection.finished_run import FinishedRun
    from llb_ray.engine.pipeline.update import join_update, update_run
    from llb_ray.engine.rundir.run_folder import RunFolder

    base = FinishedRun(RunFolder.open(locate(run)), None)
    corrections = None if corrected is None else read_corrections(Path(corrected), by)
    category = path_from_text(base.images["category"][0].as_py())  # which groups are named by
    more = read_folder(Path(data), base.config.data.model_copy(update={"category": category}), progress)
    joined = join_update(base, more, corrections, locate(out))
    with _entered(executor, ray_address) as workers:
        _note_labels(workers, base.config, tell)
        return update_run(base, joined, locate(out), workers, tell)


def make_executor(name: str, address: str | None = None) -> Executor:
    """The executor called `name`; Ray is imported only if it is asked for."""
    if name == "serial" and address is not None:
        raise ConfigError(f"--ray-address {address} has no effect with the serial executor; drop one of the two")
    if name == "serial":
        return SerialExecutor()
    if name == "ray":
        from llb_ray.distributed.ray_executor import RayExecutor

        return RayExecutor(address)
    raise ConfigError(f"executor {name!r} is unknown; choose ray or serial")


def _note_labels(workers: Executor, config: RunConfig, tell: Tell) -> None:
    """Report that labels have no effect; they are a finished run's, and cannot be dropped as from a new one."""
    if name := ignored_labels(workers, config):
        tell(f"note: {name} has no effect: the serial executor stays on this machine")


def _entered(executor: str | Executor, address: str | None = None) -> AbstractContextManager[Executor]:
    """The executor of this name, entered for the context; one that the caller has entered stays so after it."""
    return make_executor(executor, address) if isinstance(executor, str) else nullcontext(executor)
