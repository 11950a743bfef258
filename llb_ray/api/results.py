"""Commands on a finished or running run: watch it, check it, look at it, judge new images, hand it to other tools."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llb_ray.api.running import make_executor
from llb_ray.disk import write_atomic
from llb_ray.errors import ConfigError
from llb_ray.remote import local_folder, locate

if TYPE_CHECKING:
    from llb_ray.data.predict_inputs import Data
    from llb_ray.engine.audit.audit import Passed
    from llb_ray.engine.drift.watch import Drift
    from llb_ray.engine.execution.executor import Executor, Tell
    from llb_ray.engine.inference.predict import Prediction
    from llb_ray.engine.inspection.run_status import Status
    from llb_ray.engine.rundir.stage_timer import StageTime
    from llb_ray.exporting.comparison import ExportedModel
    from llb_ray.exporting.dataset_layouts import ExportedSet, Layout
    from llb_ray.exporting.speed import Speed


def status(run: str | Path) -> "Status":
    """Progress of the run in `run`, a folder or a URI, from its event log and heartbeats; needs no Ray."""
    from llb_ray.engine.inspection.run_status import read_status

    return read_status(locate(run))


def audit(
    run: str | Path,
    *,
    data: str | Path | None = None,
    rescore: int | None = 8,
    sign: str | Path | None = None,
    verify: str | Path | None = None,
    each: "Callable[[Passed], None]" = lambda passed: None,
) -> list[str]:
    """One sentence per check passed; raises AuditError naming the first thing that does not follow.

    `run` may be a URI, and every file of it is read there.  `rescore` images, chosen at random, are scored again by all
    detectors of the run; all images with 0, none with None.  `verify` is a file with the public key that the run has to
    be signed with, `sign` one with a private key to sign it with once all checks passed.  `each` is called with every
    check as it passes.
    """
    from llb_ray.engine.audit.audit import audit_run

    keys = [None if key is None else Path(key) for key in (sign, verify)]
    sentences = []
    for passed in audit_run(locate(run), None if data is None else Path(data), rescore, *keys):
        each(passed)
        sentences.append(passed.found)
    return sentences


def report(
    run: str | Path,
    *,
    data: str | Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    tell: "Tell" = lambda line: None,
    times: "list[StageTime] | None" = None,
) -> Path:
    """The page report.html that was written into the finished run: its folder, and the URI that this is a copy of.

    It is self-contained.  `data` is where the images are now, if they have moved; those that are gone or have changed
    are shown without a photograph.  `progress` is called with (done, total) pictures.  The run's event log has it as
    the stage ``report``, whose time `tell` receives as a line, and `times` as a last item.
    """
    from llb_ray.engine.inspection.finished_run import FinishedRun
    from llb_ray.engine.inspection.run_status import REPORT_STAGE
    from llb_ray.engine.rundir.run_folder import RunFolder
    from llb_ray.engine.rundir.stage_timer import StageTimer
    from llb_ray.report.html import write_report

    finished = FinishedRun(RunFolder.open(locate(run)), None if data is None else Path(data))
    with StageTimer(finished.folder, tell, [] if times is None else times).timed(REPORT_STAGE, reused=False):
        return write_report(finished, progress)


def predict(
    run: str | Path,
    data: "Data",
    *,
    out: str | Path,
    overlays: Literal["all", "anomalous", "none"] = "all",
    maps: bool = False,
    masks: bool = False,
    threshold: float | None = None,
    false_alarm_rate: float | None = None,
    false_area_rate: float = 0.001,
    category: str | None = None,
    ignore_mask: str | Path | None = None,
    inspect_mask: str | Path | None = None,
    executor: "str | Executor" = "serial",
    ray_address: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> "Prediction":
    """Verdicts of the final detector of `run` (a folder or a URI) on new images, written to the folder `out`.

    `data` is an image, a folder of images, a list of them, a pattern (``new/*.jpg``), ``-`` for paths on standard
    input, or several of these (`llb_ray.data.predict_inputs`). Tables have a row per image with its score, its
    decision at the run's threshold (or at `threshold`, or at the one that the run's held-out scores give for
    `false_alarm_rate`; of a run of several categories at that of each image's own, which is `category`, or in a
    column of the list, or the name of a folder), and the share of held-out normal images that score lower; and a
    row per region: a place where the map is above what a share `false_area_rate` of the area of held-out normal
    images exceeds. `overlays` says which photographs are drawn with their heatmap, `maps` and `masks` whether these
    are kept as files. `ignore_mask` and `inspect_mask` are folders with a mask for each photograph, at its path
    relative to `data`, or one file, for a run that was made with such a folder. Memory does not grow with the number
    of images. `executor` is ``serial`` (this process), ``ray`` (workers on a cluster; the run, the images and `out` on
    storage that all nodes share), or one that was entered; what is interrupted goes on with the same call. `progress`
    is called with (done, total) files.
    """
    from llb_ray.data.ignored_regions import MaskPaths
    from llb_ray.engine.inference.calibrated_run import VerdictSettings
    from llb_ray.engine.inference.predict import predict_images
    from llb_ray.engine.rundir.run_folder import RunFolder
    from llb_ray.report.drawing import drawing

    to, where = local_folder("--out", out), locate(run)
    if executor != "serial":  # workers have other working directories
        to, where = to.absolute(), where.absolute() if isinstance(where, Path) else where
    folder = RunFolder.open(where)
    each = drawing(folder, to, overlays, masks)
    drawn = f"{overlays}, masks" if masks else overlays
    masked = MaskPaths.of(ignore_mask, inspect_mask)
    settings = VerdictSettings(threshold, false_alarm_rate, false_area_rate, category, masked)
    judge = partial(predict_images, folder, data, to, each, progress, settings=settings, keep_maps=maps, drawn=drawn)
    if executor == "serial" and ray_address is None:
        return judge()
    with make_executor(executor, ray_address) if isinstance(executor, str) else nullcontext(executor) as entered:
        return judge(executor=entered)


def threshold(run: str | Path, *, false_alarm_rate: float) -> dict[str, Any]:
    """The facts of the threshold (docs/file-formats.md) that `run`, a folder or a URI, has for this rate from now on.

    It comes from the held-out scores that the run keeps, so nothing is trained; the run's configuration has the new
    rate, and its report and signature are removed.  Raises ArtifactError for a run without a threshold, ConfigError for
    a rate outside (0, 0.5].
    """
    from llb_ray.engine.pipeline.recalibrate import set_false_alarm_rate

    return set_false_alarm_rate(locate(run), false_alarm_rate)


def drift(
    run: str | Path,
    predictions: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    by: str | None = None,
    table: str | Path | None = None,
    reference: str | Path | None = None,
    max_share: float | None = None,
    level: float = 0.01,
) -> "Drift":
    """Comparison of the images of `predictions`, which `predict` wrote with `run`, with the run's own.

    Each prediction is a lot; with `by` ``folder`` each folder of images, with another `by` each value of that column of
    `table`.  They are compared with the run's held-out scores, or with the prediction `reference`, and the threshold
    may be exceeded by a share `max_share` of them.  Where nothing has changed, any alarm is raised with a probability
    of `level` at most.  The page goes to the file `out`.
    """
    from llb_ray.engine.drift.watch import compare
    from llb_ray.engine.rundir.run_folder import RunFolder
    from llb_ray.report.drift_page import drift_page

    folder, where = RunFolder.open(locate(run)), [Path(one) for one in predictions]
    given = {"table": table, "reference": reference}
    paths = {name: None if one is None else Path(one) for name, one in given.items()}
    found = compare(folder, where, by=by, max_share=max_share, level=level, **paths)
    if out is not None:
        write_atomic(local_folder("--out", out), drift_page(found).encode())
    return found


def export(
    run: str | Path,
    format: "Literal['onnx', 'torch-export', 'openvino'] | Layout",
    *,
    out: str | Path,
    data: str | Path | None = None,
    copy: bool = False,
    category: str | None = None,
    any_size: bool = False,
) -> "ExportedModel | ExportedSet":
    """Summary of an export to `out` for other tools: the final detector of `run`, or its purified images.

    `format` ``onnx`` makes one self-contained file, proved against torch on images of the run, and so do
    ``torch-export``, a program of torch.export, and ``openvino``, which is two files; ``anomalib-csv``,
    ``mvtec-tree``, ``real-iad-json`` and ``parquet`` fill a new folder with the kept images and the labelled test
    images, as hard links unless `copy` is set.  `data` is where the run's images are now, if they have moved.  A
    model has the threshold of `category`, in a run of several, and with `any_size` it resizes images by itself.
    """
    from llb_ray.engine.inspection.finished_run import FinishedRun
    from llb_ray.engine.rundir.run_folder import RunFolder

    finished = FinishedRun(RunFolder.open(locate(run)), None if data is None else Path(data))
    if format == "onnx":
        from llb_ray.exporting.onnx import export_onnx

        return export_onnx(finished, local_folder("--out", out), category, any_size)
    if format == "torch-export":
        from llb_ray.exporting.model_formats import export_program

        return export_program(finished, local_folder("--out", out), category, any_size)
    if format == "openvino":
        from llb_ray.exporting.model_formats import export_openvino

        return export_openvino(finished, local_folder("--out", out), category, any_size)
    if category is not None:
        raise ConfigError(f"category {category!r} has no effect with {format}, which has the images of all; drop it")
    if any_size:
        raise ConfigError(f"--any-size has no effect with {format}, which is not a model; drop it")
    from llb_ray.exporting.dataset_layouts import export_set

    return export_set(finished, format, local_folder("--out", out), copy)


def bench(
    run: str | Path, *, data: str | Path | None = None, images: int = 64, batch: int = 32, threads: int | None = None
) -> "Speed":
    """Speed, memory, size and agreement of the final detector of `run` in torch, ONNX Runtime and OpenVINO.

    Each that is installed judges `images` images of the run, one by one and `batch` at a time, on `threads` CPU threads
    (default: those of the run's workers; torch on the device of the run).  `data` is where the run's images are now, if
    they have moved.  Raises ConfigError where they are gone.
    """
    from llb_ray.engine.inspection.finished_run import FinishedRun
    from llb_ray.engine.rundir.run_folder import RunFolder
    from llb_ray.exporting.speed import measure_speed

    finished = FinishedRun(RunFolder.open(locate(run)), None if data is None else Path(data))
    return measure_speed(finished, images, batch, threads)
