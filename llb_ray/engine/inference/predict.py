"""New images through a run's final detector, a batch at a time: however many there are, memory stays at a few batches.

::

    OUT/scores.parquet, scores.csv   a row per image (`engine.inference.prediction_tables`)
    OUT/features.parquet             mean features of each image, for `llb_ray.engine.drift`
    OUT/quarantine.csv               files that are not usable images, with the reason
    OUT/regions.parquet, coco.json   a row per region; the same as COCO annotations
    OUT/maps/part-00000.arrow        anomaly maps, where they are asked for
    OUT/masks/                       regions as black and white images, where they are asked for
    OUT/overlays/                    see `llb_ray.report.heatmaps`
    OUT/.unfinished/                 progress (`engine.inference.prediction_journal`), until it is finished
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from llb_ray.data.manifest import path_text
from llb_ray.data.predict_inputs import TAKEN, Data, Inputs, Named
from llb_ray.data.predict_inputs import names as named
from llb_ray.data.streaming_writers import PARTIAL
from llb_ray.disk import clear_temporary
from llb_ray.engine.execution.executor import Executor
from llb_ray.engine.features.mean_features import NUM_MEANS
from llb_ray.engine.inference.batch_judge import BatchJudge
from llb_ray.engine.inference.calibrated_run import CalibratedRun, VerdictSettings
from llb_ray.engine.inference.image_categories import with_categories
from llb_ray.engine.inference.photograph_masks import PhotographMasks
from llb_ray.engine.inference.prediction_journal import UNFINISHED, Journal
from llb_ray.engine.inference.prediction_tables import (
    COCO_FILE,
    MAPS,
    REGIONS_FILE,
    SCORES_FILE,
    Judged,
    Tables,
    write_coco,
)
from llb_ray.engine.inference.prediction_worker import judge_on
from llb_ray.engine.inference.regions import ANY
from llb_ray.engine.inference.verdicts import NO_REGIONS
from llb_ray.engine.notebook_tables import MOST_ROWS, html_table
from llb_ray.engine.rundir.output_guard import refuse_foreign, refuse_inside
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.errors import DataError

OVERLAYS, MASKS, COLOUR_SCALE = "overlays", "masks", "colour_scale.png"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """Outcome of a prediction; the rows are in `out`."""

    out: Path
    num_scored: int
    num_anomalous: int
    num_quarantined: int
    threshold: float | None  # None of several categories, each of which has its own
    num_regions: int | None  # None where the run has no pixel threshold

    def sentence(self) -> str:
        """Summary of a prediction in one sentence."""
        aside = f", {self.num_quarantined} files quarantined (see quarantine.csv)" if self.num_quarantined else ""
        threshold = "the threshold of its category" if self.threshold is None else f"{self.threshold:.4g}"
        found = f"{self.num_anomalous} anomalous (score above {threshold})"
        files = f"{self.out / 'scores.csv'}, {SCORES_FILE}"
        if self.num_regions is None:
            return f"{self.num_scored} images scored{aside}, {found}: {files}; no regions: {NO_REGIONS}"
        regions = f"{self.num_regions} regions: {files}, {REGIONS_FILE}, {COCO_FILE}"
        return f"{self.num_scored} images scored{aside}, {found}, {regions}"

    def _repr_html_(self) -> str:
        """Table of the images with the highest scores, for notebooks."""
        names = ["path", "score", "decision", "quantile", "num_regions"]
        scores = parquet.read_table(self.out / SCORES_FILE, columns=names).sort_by([("score", "descending")])
        rows = [tuple(row.values()) for row in scores.slice(0, MOST_ROWS).to_pylist()]
        return html_table(self.sentence(), names, rows, more=max(0, self.num_scored - MOST_ROWS))


def predict_images(
    folder: RunFolder,
    data: Data,
    out: Path,
    each: Callable[[Judged], None],
    progress: Callable[[int, int], None],
    *,
    settings: VerdictSettings,
    keep_maps: bool = False,
    drawn: str = "",
    executor: Executor | None = None,
) -> Prediction:
    """Score the images that `data` names (`Inputs.of`: an image, a folder, a list, a pattern, several) into `out`.

    Decisions are at the run's threshold, or at the one of `settings` (`Calibration.moved`); of a run of several
    categories at that of each image's own, which is the one of `settings` or is found (`with_categories`).
    Batches are judged here, or by workers of `executor`.
    A row per file, copies included.  An image of the run itself gets the run's score, within float noise.  `each` is
    called with every batch, `progress` with (done, total) files.  The same call after an interruption, for which
    `drawn` says what `each` does, goes on with the first batch that is not recorded; bytes are the same as without
    one.  Raises DataError if not one file is usable.
    """
    data = named(data)
    for name in data:
        if os.path.isdir(name):
            refuse_inside(Path(name), out)
    refuse_foreign(out, "scores.parquet", f"scores.parquet{PARTIAL}", UNFINISHED)
    run = CalibratedRun.of(folder, settings)
    names = run.calibrations.keys()
    inputs = with_categories(Inputs.of(data, with_categories=len(names) > 1), names)
    if run.masks is not None:
        _check_masks(run.masks, inputs)
    journal = Journal(out, _asked(folder, run, data, keep_maps, drawn))
    _clear(out, journal.is_new)
    judge = BatchJudge(run, inputs.root, journal, each, keep_maps)
    if executor is not None:
        judge_on(executor, judge, inputs, folder, progress)
    tables = _write_tables(out, data, judge, inputs, progress, checked=executor is not None)
    if run.finds_regions:
        write_coco(out)
    journal.drop()
    counts = tables.num_scored, tables.num_anomalous, tables.num_quarantined
    thresholds = {calibration.threshold for calibration in run.calibrations.values()}
    return Prediction(out, *counts, thresholds.pop() if len(names) == 1 else None, tables.num_regions)


def _check_masks(masks: PhotographMasks, inputs: Inputs) -> None:
    """Log what is missing of the masks that are given; raises DataError for the folder of the photographs."""
    masks.given.refuse_photographs(inputs.root)
    for warning in (masks.notice, masks.given.unmatched(lambda: (file.path for file in inputs.read()))):
        if warning:
            _log.warning(warning)


def _write_tables(
    out: Path,
    data: Sequence[Named],
    judge: BatchJudge,
    inputs: Inputs,
    progress: Callable[[int, int], None],
    checked: bool,
) -> Tables:
    """The tables of all batches, written; raises DataError, and leaves none, where not one file is usable."""
    run = judge.run
    with contextlib.ExitStack() as stack:
        tables = Tables(out, stack, judge.keep_maps, run.finds_regions, has_categories=ANY not in run.calibrations)
        for judged in judge.all(inputs, checked):
            tables.add(judged)
            progress(tables.num_scored + tables.num_quarantined, inputs.num_files)
        if not tables.num_scored:
            judge.journal.drop()
            raise DataError(_nothing_scored(", ".join(map(str, data[:1])), inputs.num_files, tables.first_problem))
    return tables


def _nothing_scored(data: str, num_files: int, first: str) -> str:
    """One sentence for a prediction without a single score; `first` is the first file with its problem."""
    reason = (
        f"none of the {num_files} files found can be judged (first, {first})"
        if num_files
        else "holds no readable image"
    )
    return f"{data}: {reason}; give {TAKEN}"


def _asked(
    folder: RunFolder, calibrated: CalibratedRun, data: Sequence[Named], keep_maps: bool, drawn: str
) -> dict[str, Any]:
    """Everything the bytes of a prediction depend on, besides the files themselves."""
    made = folder.made()
    held_out = made.threshold.content if made.threshold else ""
    run = {"final": made.final.content, "held_out": held_out, "encoder": calibrated.photographs.key}
    found = sorted(calibrated.calibrations.items())
    run |= {"threshold": repr([(name, one.threshold) for name, one in found])}
    run |= {"regions": repr([(name, one.regions) for name, one in found])}
    named = [path_text(os.path.abspath(name)) for name in data]
    run |= {} if calibrated.masks is None else {"masks": calibrated.masks.key}
    asked = {"data": named, "maps": keep_maps, "drawn": drawn, "batch": calibrated.batch_size, "features": NUM_MEANS}
    return run | asked


def _clear(out: Path, is_new: bool) -> None:
    """Make the folder, and remove what an earlier prediction left there and this one might not replace."""
    out.mkdir(parents=True, exist_ok=True)
    clear_temporary(out / UNFINISHED)
    shutil.rmtree(out / MAPS, ignore_errors=True)
    stale = [REGIONS_FILE, COCO_FILE, *([COLOUR_SCALE] if is_new else [])]
    for name in [OVERLAYS, MASKS] if is_new else []:
        shutil.rmtree(out / name, ignore_errors=True)
    for name in stale:
        (out / name).unlink(missing_ok=True)
