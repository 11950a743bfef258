"""New images through a run's final detector, a batch at a time: however many there are, memory stays at a few batches.

::

    OUT/scores.parquet, scores.csv   a row per image (`engine.inference.prediction_tables`)
    OUT/quarantine.csv               files that are not usable images, with the reason
    OUT/regions.parquet, coco.json   a row per region; the same as COCO annotations
    OUT/maps/part-00000.arrow        anomaly maps, where they are asked for
    OUT/masks/                       regions as black and white images, where they are asked for
    OUT/overlays/                    see `llb_ray.report.heatmaps`
    OUT/.unfinished/                 progress (`engine.inference.prediction_journal`), until it is finished
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet

from llb_ray.data.candidate_files import File
from llb_ray.data.decoding import content_id
from llb_ray.data.manifest import path_text
from llb_ray.data.predict_inputs import TAKEN, Data, Inputs, Named, names
from llb_ray.data.streaming_writers import PARTIAL
from llb_ray.data.unreadable_files import UnreadableImage
from llb_ray.disk import clear_temporary
from llb_ray.engine.features.encoding import FeatureExtractor
from llb_ray.engine.inference.prediction_journal import UNFINISHED, Journal, Recorded
from llb_ray.engine.inference.prediction_tables import (
    COCO_FILE,
    MAPS,
    REGIONS_FILE,
    SCORES_FILE,
    Judged,
    Tables,
    write_coco,
)
from llb_ray.engine.inference.trained_detector import Sized, TrainedDetector, batched, stacked
from llb_ray.engine.inference.verdicts import NO_REGIONS, Calibration, Verdicts
from llb_ray.engine.notebook_tables import MOST_ROWS, html_table
from llb_ray.engine.rundir.output_guard import refuse_foreign, refuse_inside
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.ensemble.pixel_threshold import FALSE_AREA_RATE
from llb_ray.errors import DataError

OVERLAYS, MASKS, COLOUR_SCALE = "overlays", "masks", "colour_scale.png"


@dataclass(frozen=True)
class Prediction:
    """Outcome of a prediction; the rows are in `out`."""

    out: Path
    num_scored: int
    num_anomalous: int
    num_quarantined: int
    threshold: float
    num_regions: int | None  # None where the run has no pixel threshold

    def sentence(self) -> str:
        """Summary of a prediction in one sentence."""
        aside = f", {self.num_quarantined} files quarantined (see quarantine.csv)" if self.num_quarantined else ""
        found = f"{self.num_anomalous} anomalous (score above {self.threshold:.4g})"
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
    keep_maps: bool = False,
    drawn: str = "",
    threshold: float | None = None,
    false_alarm_rate: float | None = None,
    false_area_rate: float = FALSE_AREA_RATE,
) -> Prediction:
    """Score the images that `data` names (`Inputs.of`: an image, a folder, a list, a pattern, several) into `out`.

    Decisions are at the run's threshold, or at the one that is given (`Calibration.moved`).
    A row per file, copies included.  An image of the run itself gets the run's score, within float noise.  `each` is
    called with every batch, `progress` with (done, total) files.  The same call after an interruption, for which
    `drawn` says what `each` does, goes on with the first batch that is not recorded; bytes are the same as without
    one.  Raises DataError if not one file is usable.
    """
    data = names(data)
    for name in data:
        if os.path.isdir(name):
            refuse_inside(Path(name), out)
    refuse_foreign(out, "scores.parquet", f"scores.parquet{PARTIAL}", UNFINISHED)
    inputs, detector = Inputs.of(data), TrainedDetector.of(folder, threshold, false_alarm_rate, false_area_rate)
    finder = detector.calibration.regions
    journal = Journal(out, _asked(folder, detector, data, keep_maps, drawn))
    _clear(out, journal.is_new)
    with contextlib.ExitStack() as stack:
        tables = Tables(out, stack, keep_maps, finds_regions=finder is not None)
        for judged, is_new in _judged(detector, inputs, journal, keep_maps):
            tables.add(judged)
            if is_new:
                each(judged)
                journal.add(tables.num_batches - 1, _recorded(judged, keep_maps))
            progress(tables.num_scored + tables.num_quarantined, inputs.num_files)
        if not tables.num_scored:
            journal.drop()
            raise DataError(_nothing_scored(", ".join(map(str, data[:1])), inputs.num_files, tables.first_problem))
    if finder is not None:
        write_coco(out)
    journal.drop()
    counts = tables.num_scored, tables.num_anomalous, tables.num_quarantined
    return Prediction(out, *counts, detector.calibration.threshold, tables.num_regions)


def _nothing_scored(data: str, num_files: int, first: str) -> str:
    """One sentence for a prediction without a single score; `first` is the first file with its problem."""
    reason = (
        f"none of the {num_files} files found is a readable image (first, {first})"
        if num_files
        else "holds no readable image"
    )
    return f"{data}: {reason}; give {TAKEN}"


def _asked(
    folder: RunFolder, detector: TrainedDetector, data: Sequence[Named], keep_maps: bool, drawn: str
) -> dict[str, Any]:
    """Everything the bytes of a prediction depend on, besides the files themselves."""
    made = folder.made()
    held_out = made.threshold.content if made.threshold else ""
    batch_size = detector.encoding.batch_size
    run = {"final": made.final.content, "held_out": held_out, "encoder": detector.photographs.key}
    run |= {"threshold": repr(detector.calibration.threshold), "regions": repr(detector.calibration.regions)}
    named = [path_text(os.path.abspath(name)) for name in data]
    return run | {"data": named, "maps": keep_maps, "drawn": drawn, "batch": batch_size}


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


def _judged(
    detector: TrainedDetector, inputs: Inputs, journal: Journal, keep_maps: bool
) -> Iterator[tuple[Judged, bool]]:
    """Every batch, and whether it was judged now: those before the first that is not recorded are not judged again."""
    read = partial(_read, detector.photographs, inputs.root)
    chunks = batched(inputs.read(), detector.encoding.batch_size)
    for number, chunk in enumerate(chunks):
        recorded = journal.find(number, chunk)
        if recorded is None or not all(_unchanged(inputs.root, file, read) for file in recorded.files):
            chunks = chain([chunk], chunks)
            break
        yield _restored(inputs.root, recorded, detector.calibration), False
    for batch in detector.encoding.ahead(read, chunks):
        yield _judge(detector, inputs.root, batch), True


def _judge(detector: TrainedDetector, root: Path, batch: Sequence[tuple[File, Sized | None]]) -> Judged:
    usable = [(file, sized) for file, sized in batch if sized is not None]
    verdicts = detector.judge(*stacked([sized for _, sized in usable])) if usable else None
    regions = verdicts.regions if verdicts and detector.calibration.regions else []
    aside = [file for file, sized in batch if sized is None]
    return Judged(root, [file for file, _ in usable], verdicts, regions, aside, [file for file, _ in batch])


def _restored(root: Path, said: Recorded, calibration: Calibration) -> Judged:
    """The batch as it was recorded."""
    usable = [file for file in said.files if file.problem is None]
    verdicts = Verdicts(said.score_N, said.map_NHW, said.sizes, calibration) if usable else None
    aside = [file for file in said.files if file.problem is not None]
    return Judged(root, usable, verdicts, said.regions, aside, said.files)


def _recorded(judged: Judged, keep_maps: bool) -> Recorded:
    """Record of the batch."""
    if judged.verdicts is None:
        return Recorded(judged.everyone, np.zeros(0, np.float32), [], [], np.zeros((0, 0, 0), np.float32))
    maps = judged.verdicts.map_NHW if keep_maps else np.zeros((len(judged.files), 0, 0), np.float32)
    return Recorded(judged.everyone, judged.verdicts.score_N, judged.verdicts.sizes, judged.regions, maps)


def _unchanged(root: Path, file: File, read: Callable[[File], tuple[File, Sized | None]]) -> bool:
    """True if a file is what it was when it was judged."""
    if file.problem is not None:
        found, _ = read(replace(file, problem=None))
        return found.problem is not None
    try:
        return content_id(root / file.path) == file.image_id
    except UnreadableImage:
        return False


def _read(photographs: FeatureExtractor, root: Path, file: File) -> tuple[File, Sized | None]:
    """The file with its image_id, and its pixels and size; or with its problem, and none."""
    if file.problem is not None:
        return file, None
    try:
        sized = photographs.sized(root / file.path)
        return replace(file, image_id=content_id(root / file.path)), sized
    except UnreadableImage as error:
        return replace(file, problem=error.reason), None
