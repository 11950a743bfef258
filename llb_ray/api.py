"""The public functions, one per thing a person wants done; the command line is a thin doorway to them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llb_ray.config import RunConfig
from llb_ray.data.manifest import Manifest
from llb_ray.engine.executor import Executor, SerialExecutor, Tell
from llb_ray.engine.pipeline import Result, run_stages
from llb_ray.errors import ConfigError
from llb_ray.remote import local_folder, located

if TYPE_CHECKING:
    import pyarrow as pa

    from llb_ray.engine.predict import Prediction
    from llb_ray.engine.status import Status
    from llb_ray.search.plan import Searcher
    from llb_ray.search.space import Space


def run(
    config: RunConfig,
    manifest: Manifest,
    *,
    out: str | Path,
    executor: str | Executor = "ray",
    tell: Tell = lambda line: None,
    store: str | Path | None = None,
) -> Result:
    """Purify the training images of `manifest`, train the final detector, and say what came of it.

    `executor` is ``ray`` (a local cluster unless RAY_ADDRESS is set), ``serial``, or an `Executor` that the caller
    has entered (so that many runs share one cluster).  `tell` receives plain progress lines.  Everything is written
    to `out`, a folder or the URI of one (``s3://bucket/photos``: whatever `pyarrow.fs.FileSystem.from_uri` takes);
    calling again after an interruption, from any machine that sees it, does only what is missing.  Runs that name the
    same `store`, a local folder, keep their artifacts there instead, and make what they have in common once.
    Raises a `LlbError` with one sentence for whatever the user can mend, OSError for a disk, a mount or a network.
    """
    where, shared = located(out), None if store is None else local_folder("store", store).absolute()
    if shared is not None and not isinstance(where, Path):
        raise ConfigError(f"{where}: a run at a URI keeps its artifacts there; leave the store out")
    if not isinstance(executor, str):
        return run_stages(config, manifest, where, executor, tell, shared)
    with make_executor(executor) as entered:
        return run_stages(config, manifest, where, entered, tell, shared)


def make_executor(name: str, address: str | None = None) -> Executor:
    """The executor called `name`; Ray is imported only if it is asked for."""
    if name == "serial" and address is not None:
        raise ConfigError(f"--ray-address {address} has no effect with the serial executor; drop one of the two")
    if name == "serial":
        return SerialExecutor()
    if name == "ray":
        from llb_ray.distributed.executor import RayExecutor

        return RayExecutor(address)
    raise ConfigError(f"executor {name!r} is unknown; choose ray or serial")


def read_folder(
    data: str | Path, config: RunConfig | None = None, progress: Callable[[int, int], None] | None = None
) -> Manifest:
    """The manifest of a folder of images, or of an MVTec-style tree; see `llb_ray.data.folder`.

    `progress` is called with (done, total) files.
    """
    from llb_ray.data.folder import read_folder as read

    return read(Path(data), (config or RunConfig()).data, progress)


def synth(folder: str | Path, *, categories: Sequence[str] = (), alpha: float = 0.2, seed: int = 0) -> list[Path]:
    """The roots of the synthetic trees written under `folder`, one per category (default: all of them)."""
    from llb_ray.data.synthetic import CATEGORIES, SyntheticConfig, write_synthetic

    recipe = SyntheticConfig(tuple(categories) or CATEGORIES, alpha=alpha, seed=seed)
    root = local_folder("FOLDER", folder)
    write_synthetic(root, recipe)
    return [root / category for category in recipe.categories]


def audit(run: str | Path, *, data: str | Path | None = None) -> list[str]:
    """One sentence per check passed; raises AuditError naming the first thing that does not follow.

    `run` may be a URI, and every file of it is read there.
    """
    from llb_ray.engine.audit import audit_run

    return audit_run(located(run), None if data is None else Path(data))


def report(
    run: str | Path, *, data: str | Path | None = None, progress: Callable[[int, int], None] = lambda done, total: None
) -> Path:
    """The page report.html that was written into the finished run: its folder, and the URI that this is a copy of.

    It is self-contained.  `data` is where the images are now, if they have moved; those that are gone or have changed
    are shown without a photograph.  `progress` is called with (done, total) pictures.
    """
    from llb_ray.engine.finished import FinishedRun
    from llb_ray.engine.runfolder import RunFolder
    from llb_ray.report.html import write_report

    return write_report(FinishedRun(RunFolder.open(located(run)), None if data is None else Path(data)), progress)


def repurify(
    run: str | Path,
    overrides: str | Path,
    *,
    out: str | Path,
    by: str = "",
    data: str | Path | None = None,
    executor: str | Executor = "ray",
    tell: Tell = lambda line: None,
) -> Result:
    """The finished run `run` made once more in `out`, with the decisions of `by` in the CSV file `overrides`.

    Nothing before the decisions is made again: members, scores and features are linked into `out`, or copied from
    another disk or URI.  `data` is where the images are now, if they have moved.  Raises DataError for a file that does
    not fit the run; what it takes and does is otherwise as in `run`.
    """
    from llb_ray.engine.finished import FinishedRun
    from llb_ray.engine.repurify import repurify_run
    from llb_ray.engine.runfolder import RunFolder

    base = FinishedRun(RunFolder.open(located(run)), None if data is None else Path(data))
    if not isinstance(executor, str):
        return repurify_run(base, Path(overrides), by, located(out), executor, tell)
    with make_executor(executor) as entered:
        return repurify_run(base, Path(overrides), by, located(out), entered, tell)


def predict(run: str | Path, data: str | Path, *, out: str | Path) -> "Prediction":
    """Scores and overlays of new images by the final detector of `run` (a folder or a URI), written to folder `out`."""
    from llb_ray.engine.predict import predict_folder
    from llb_ray.report.heatmaps import write_overlays

    prediction = predict_folder(located(run), Path(data), local_folder("--out", out))
    write_overlays(prediction)
    return prediction


def tune(
    config: RunConfig,
    manifest: Manifest,
    space: "Space",
    *,
    out: str | Path,
    objective: str = "canary",
    validation: str | Path | None = None,
    searcher: "Searcher" = "grid",
    trials: int | None = None,
    early_stopping: bool = False,
    workers_per_trial: int = 1,
    max_concurrent: int | None = None,
    ray_address: str | None = None,
    resume: bool = False,
    tell: Tell = lambda line: None,
) -> "pa.Table":
    """The table of trials (`llb_ray.search.trials`), each a whole run of `config` with some settings of `space`.

    Writes trials.parquet, trials.png and best.yaml to `out`; what trials have in common is made once.  No test label
    is read: the manifest's test split takes no part at all.  `validation` is a folder of labelled images (good/ and
    others beside it) for the objective val_auroc.  Raises a `LlbError` for a search that cannot be, or in
    which no trial finished.
    """
    from llb_ray.distributed import cluster
    from llb_ray.distributed.tuning import run_trials
    from llb_ray.search.outcome import conclude
    from llb_ray.search.plan import Search, judged_by

    folder = local_folder("--out", out).absolute()
    labelled = None if validation is None else Path(validation)
    judged = judged_by(objective, manifest, labelled, folder, config)
    plan = Search(
        config, space, judged, folder, objective, searcher, trials, early_stopping, workers_per_trial, max_concurrent
    )
    with cluster.connected(ray_address):
        return conclude(plan, run_trials(plan, tell, resume))


def status(run: str | Path) -> "Status":
    """How far the run in `run`, a folder or a URI, is: its event log and heartbeats say; needs no Ray."""
    from llb_ray.engine.status import read_status

    return read_status(located(run))
