"""The public functions, one per thing a person wants done; the command line is a thin doorway to them."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llb_ray.config import RunConfig
from llb_ray.data.manifest import Manifest
from llb_ray.disk import write_atomic
from llb_ray.engine.executor import Executor, SerialExecutor, Tell
from llb_ray.engine.pipeline import Result, run_stages
from llb_ray.errors import ConfigError, DataError
from llb_ray.remote import local_folder, located

if TYPE_CHECKING:
    import pyarrow as pa

    from llb_ray.config import ContaminateConfig, DatasetOptions, ScanConfig
    from llb_ray.data.listing import Listing
    from llb_ray.engine.predict import Prediction
    from llb_ray.engine.status import Status
    from llb_ray.exporting.dataset import ExportedSet, Layout
    from llb_ray.exporting.onnx import OnnxModel
    from llb_ray.planning.doctor import Check
    from llb_ray.planning.forecast import Forecast
    from llb_ray.scans.status import ScanStatus
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


def manifest(
    kind: str, root: str | Path, *, out: str | Path | None = None, options: "DatasetOptions | None" = None
) -> "Listing":
    """The listing of a data set by its own layout and tables (`llb_ray.data.adapters`), saved as the file `out`.

    What is wrong with its entries is written beside `out` as CSV (`llb_ray.data.problems.problems_file`).  Raises
    BadEntries, a DataError with all these problems, unless `options.skip_bad`.
    """
    from llb_ray.data.adapters import survey
    from llb_ray.data.problems import problems_file, write_problems

    found = survey(kind, root, options)
    skip_bad = options is not None and options.skip_bad
    if out is None:
        return found.usable(skip_bad)
    target = local_folder("--out", out)
    report = problems_file(target)
    report.unlink(missing_ok=True)
    if found.problems:
        write_problems(report, found.problems)
    listing = found.usable(skip_bad, report)
    listing.save(target)
    return listing


def contaminate(
    config: "ContaminateConfig",
    *,
    out: str | Path,
    listing: "Listing | None" = None,
    root: str | Path | None = None,
) -> list[Path]:
    """The manifest files of contaminated training sets, one for each alpha and seed, written to folder `out`.

    They are drawn from `listing`, or from the recipe's own data set, looked for below `root` (default: the working
    directory).  Raises a `LlbError`, with what is possible, for what there are too few labelled images for.
    """
    from llb_ray.data.contaminate import from_dataset, from_listing

    folder = local_folder("--out", out)
    if config.dataset is not None and listing is None:
        sets = from_dataset(config.dataset.placed(Path(root or "."), folder), config)
    elif config.dataset is None and listing is not None:
        sets = from_listing(listing, config)
    else:
        raise ConfigError("contaminate: give the labelled images once, as a manifest file or as the recipe's dataset")
    made = []
    for name, found in sets:
        made.append(folder / f"{name}.arrow")
        found.save(made[-1])
    return made


def read_manifest(
    path: str | Path,
    category: str | None = None,
    config: RunConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
    root: str | Path | None = None,
) -> Manifest:
    """The manifest of one category of a listing that `manifest` or `contaminate` saved: its images are read now.

    Raises DataError for several categories and none named, and ConfigError for settings of `config.data` that a
    manifest file decides.  `progress` is called with (done, total) files; `root` is where the images are now, if they
    have moved.
    """
    from llb_ray.data.identify import identified
    from llb_ray.data.listing import Listing

    settings = (config or RunConfig()).data
    settings.refuse_beside_manifest()
    listing = Listing.load(Path(path), None if root is None else Path(root).absolute())
    if category is None and len(listing.categories) > 1:
        names = ", ".join(listing.categories)
        raise DataError(f"{path}: lists {len(listing.categories)} categories and a run is one; name it ({names})")
    chosen = listing if category is None else listing.of_category(category)
    return identified(chosen, settings, progress)


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


def predict(
    run: str | Path,
    data: str | Path,
    *,
    out: str | Path,
    overlays: Literal["all", "anomalous", "none"] = "all",
    maps: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> "Prediction":
    """What the final detector of `run` (a folder or a URI) makes of new images, written to the folder `out`.

    `data` is a folder of images or a list of them (`llb_ray.data.inputs`).  Tables have a row per image with its score,
    its decision at the run's threshold, and the share of held-out normal images that score lower; `overlays` says
    which photographs are drawn with their heatmap, `maps` whether the anomaly maps are kept.  Memory does not grow with
    the number of images.  `progress` is called with (done, total) files.
    """
    from llb_ray.engine.predict import predict_images
    from llb_ray.engine.runfolder import RunFolder
    from llb_ray.report.heatmaps import Overlays

    to, folder = local_folder("--out", out), RunFolder.open(located(run))
    draw = Overlays(folder, to, anomalous_only=overlays == "anomalous")
    each = draw if overlays != "none" else lambda judged: None
    return predict_images(folder, Path(data), to, each, progress, keep_maps=maps)


def export(
    run: str | Path,
    format: "Literal['onnx'] | Layout",
    *,
    out: str | Path,
    data: str | Path | None = None,
    copy: bool = False,
) -> "OnnxModel | ExportedSet":
    """What was written to `out` for other tools: the final detector of `run`, or its purified images.

    `format` ``onnx`` makes one self-contained file, proved against torch on images of the run; ``anomalib-csv``,
    ``mvtec-tree``, ``real-iad-json`` and ``parquet`` fill a new folder with the kept images and the labelled test
    images, as hard links unless `copy` is set.  `data` is where the run's images are now, if they have moved.
    """
    from llb_ray.engine.finished import FinishedRun
    from llb_ray.engine.runfolder import RunFolder

    finished = FinishedRun(RunFolder.open(located(run)), None if data is None else Path(data))
    if format == "onnx":
        from llb_ray.exporting.onnx import export_onnx

        return export_onnx(finished, local_folder("--out", out))
    from llb_ray.exporting.dataset import export_set

    return export_set(finished, format, local_folder("--out", out), copy)


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


def scan(
    config: "ScanConfig",
    *,
    out: str | Path,
    executor: str = "ray",
    ray_address: str | None = None,
    tell: Tell = lambda line: None,
) -> "pa.Table":
    """A row for every job of a scan (schema `llb_ray.scans.results.ROWS`): each category, alpha, filter and seed a run.

    Jobs share the cluster, or run one after the other with the executor ``serial``; one that fails is a row with its
    reason and stops no other.  Calling again does only what is missing, failed jobs included.  `out`, a local folder,
    then holds results.parquet, and a run folder for each job.  Raises a `LlbError` for a scan that cannot be.
    """
    from llb_ray.scans.drive import run_scan, serially
    from llb_ray.scans.plan import Scan

    plan = Scan(config, local_folder("--out", out).absolute())
    if executor == "serial":
        make_executor("serial", ray_address)  # refuses an address
        return run_scan(plan, serially, tell)
    if executor != "ray":
        raise ConfigError(f"executor {executor!r} is unknown; choose ray or serial")
    from llb_ray.distributed import cluster
    from llb_ray.distributed.scanning import on_cluster

    with cluster.connected(ray_address):
        return run_scan(plan, on_cluster, tell)


def table(scan: str | Path) -> "pa.Table":
    """The rows of a scan, as far as it is; raises ArtifactError if there is none in the folder."""
    from llb_ray.scans.results import read_results

    return read_results(local_folder("RUN", scan))


def status(run: str | Path) -> "Status":
    """How far the run in `run`, a folder or a URI, is: its event log and heartbeats say; needs no Ray."""
    from llb_ray.engine.status import read_status

    return read_status(located(run))


def scan_status(scan: str | Path) -> "ScanStatus":
    """How far the scan in a folder is; raises ArtifactError if none was ever started there."""
    from llb_ray.scans.status import read_scan_status

    return read_scan_status(local_folder("SCAN", scan))


def doctor(
    config: RunConfig | None = None,
    *,
    out: str | Path | None = None,
    executor: str = "ray",
    ray_address: str | None = None,
) -> "Iterator[Check]":
    """Whether everything is there that a run of `config` needs: a check at a time, as they are made.

    `executor` ``ray`` reaches the cluster, or starts a local one for the moment; ``serial`` leaves Ray out.
    """
    from llb_ray.planning.doctor import examine

    if executor == "serial":
        make_executor(executor, ray_address)  # refuses an address that nobody would use
    elsewhere = bool(ray_address or os.environ.get("RAY_ADDRESS"))
    ray = None if executor == "serial" else partial(make_executor, executor, ray_address)
    return examine(config or RunConfig(), None if out is None else located(out), ray, elsewhere)


def init(
    data: str | Path,
    *,
    out: str | Path = "config.yaml",
    weights: str | Path | None = None,
    backbone: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The commented configuration for a folder of images, written to `out`, which must not be there yet.

    `weights` is a file of pretrained weights, of the timm network `backbone` (default: what the file is called).
    """
    from llb_ray.planning.suggest import suggestion

    path = local_folder("--out", out)
    if path.exists():
        raise ConfigError(f"{path}: is there already; delete it, or choose another --out")
    text = suggestion(read_folder(data, progress=progress), None if weights is None else Path(weights), backbone)
    write_atomic(path, text.encode())
    return path


def plan(
    config: RunConfig,
    manifest: Manifest,
    *,
    out: str | Path = ".",
    executor: str = "ray",
    ray_address: str | None = None,
    tell: Tell = lambda line: None,
) -> "Forecast":
    """What a run will take, by stage, in memory and on disk: foretold after a calibration of a minute at most.

    `out` is where the run is to go, a folder or a URI; nothing is left there.  What cannot fit is in the forecast's
    `refusals`.  Raises a `LlbError` for a run that cannot be at all.
    """
    from llb_ray.planning.drive import planned

    where = located(out)
    folder = where if isinstance(where, Path) else where.copy
    started_s = time.perf_counter()
    with make_executor(executor, ray_address) as workers:
        connect_s = time.perf_counter() - started_s
        return planned(config, manifest, folder, workers, 0.0 if executor == "serial" else connect_s, tell)
