"""New images through a run's final detector, a batch at a time: however many there are, memory stays at a few batches.

::

    OUT/scores.parquet, scores.csv   a row per image: path, image_id, score, decision, quantile
    OUT/quarantine.csv               files that are not usable images, with the reason
    OUT/maps/part-00000.arrow        anomaly maps, where they are asked for
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
import pyarrow as pa

from llb_ray.data.candidate_files import File
from llb_ray.data.decoding import content_id
from llb_ray.data.manifest import path_text
from llb_ray.data.predict_inputs import TAKEN, Data, Inputs, Named, names
from llb_ray.data.streaming_writers import PARTIAL, Rows, Shards
from llb_ray.data.unreadable_files import UnreadableImage
from llb_ray.disk import clear_temporary
from llb_ray.engine.features.encoding import FeatureExtractor
from llb_ray.engine.inference.prediction_journal import UNFINISHED, Journal, Recorded
from llb_ray.engine.inference.trained_detector import ANOMALOUS, Calibration, Pixels, TrainedDetector, Verdicts, batched
from llb_ray.engine.rundir.output_guard import refuse_foreign, refuse_inside
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.errors import DataError

SCORED = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # as the folder or the list has it
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("decision", pa.string(), nullable=False),
        pa.field("quantile", pa.float64(), nullable=False),  # share of held-out normal images that score lower
    ]
)
ASIDE = pa.schema([pa.field("path", pa.string(), nullable=False), pa.field("reason", pa.string(), nullable=False)])
MAPS, OVERLAYS, COLOUR_SCALE = "maps", "overlays", "colour_scale.png"
_MAPS_PER_SHARD = 1000


@dataclass(frozen=True)
class Judged:
    """A batch of files below `root`: those that could be read with the verdicts on them, and those quarantined."""

    root: Path
    files: Sequence[File]
    verdicts: Verdicts | None  # None where none could be read
    aside: Sequence[File]
    everyone: Sequence[File]  # both, in their order

    @classmethod
    def of(cls, root: Path, said: Recorded, calibration: Calibration) -> "Judged":
        """A batch as it was recorded."""
        usable = [file for file in said.files if file.problem is None]
        verdicts = Verdicts(said.score_N, said.map_NHW, calibration) if usable else None
        return cls(root, usable, verdicts, [file for file in said.files if file.problem is not None], said.files)

    def recorded(self, keep_maps: bool) -> Recorded:
        """Record of the batch."""
        if self.verdicts is None:
            return Recorded(self.everyone, np.zeros(0, np.float32), np.zeros((0, 0, 0), np.float32))
        maps = self.verdicts.map_NHW if keep_maps else np.zeros((len(self.files), 0, 0), np.float32)
        return Recorded(self.everyone, self.verdicts.score_N, maps)


@dataclass(frozen=True)
class Prediction:
    """Outcome of a prediction; the rows are in `out`."""

    out: Path
    num_scored: int
    num_anomalous: int
    num_quarantined: int
    threshold: float

    def sentence(self) -> str:
        """Summary of a prediction in one sentence."""
        aside = f", {self.num_quarantined} files quarantined (see quarantine.csv)" if self.num_quarantined else ""
        found = f"{self.num_anomalous} anomalous (score above {self.threshold:.4g})"
        return f"{self.num_scored} images scored{aside}, {found}: {self.out / 'scores.csv'}, scores.parquet"


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
    inputs, detector = Inputs.of(data), TrainedDetector.of(folder, threshold, false_alarm_rate)
    journal = Journal(out, _asked(folder, detector, data, keep_maps, drawn))
    _clear(out, journal.is_new)
    with contextlib.ExitStack() as stack:
        tables = _Tables(out, stack, keep_maps)
        for judged, is_new in _judged(detector, inputs, journal, keep_maps):
            tables.add(judged)
            if is_new:
                each(judged)
                journal.add(tables.num_batches - 1, judged.recorded(keep_maps))
            progress(tables.num_scored + tables.num_quarantined, inputs.num_files)
        if not tables.num_scored:
            journal.drop()
            raise DataError(_nothing_scored(", ".join(map(str, data[:1])), inputs.num_files, tables.first_problem))
    journal.drop()
    counts = tables.num_scored, tables.num_anomalous, tables.num_quarantined
    return Prediction(out, *counts, detector.calibration.threshold)


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
    batch_size = detector.config.resources.batch_size
    run = {"final": made.final.content, "held_out": held_out, "encoder": detector.photographs.key}
    run |= {"threshold": repr(detector.calibration.threshold)}
    named = [path_text(os.path.abspath(name)) for name in data]
    return run | {"data": named, "maps": keep_maps, "drawn": drawn, "batch": batch_size}


def _clear(out: Path, is_new: bool) -> None:
    """Make the folder, and remove what an earlier prediction left there and this one might not replace."""
    out.mkdir(parents=True, exist_ok=True)
    clear_temporary(out / UNFINISHED)
    shutil.rmtree(out / MAPS, ignore_errors=True)
    if is_new:
        shutil.rmtree(out / OVERLAYS, ignore_errors=True)
        (out / COLOUR_SCALE).unlink(missing_ok=True)


def _judged(
    detector: TrainedDetector, inputs: Inputs, journal: Journal, keep_maps: bool
) -> Iterator[tuple[Judged, bool]]:
    """Every batch, and whether it was judged now: those before the first that is not recorded are not judged again."""
    read = partial(_read, detector.photographs, inputs.root)
    chunks = batched(inputs.read(), detector.config.resources.batch_size)
    for number, chunk in enumerate(chunks):
        recorded = journal.find(number, chunk)
        if recorded is None or not all(_unchanged(inputs.root, file, read) for file in recorded.files):
            chunks = chain([chunk], chunks)
            break
        yield Judged.of(inputs.root, recorded, detector.calibration), False
    for batch in detector.encoding.ahead(read, chunks):
        usable = [(file, pixels) for file, pixels in batch if pixels is not None]
        verdicts = detector.judge(np.stack([pixels for _, pixels in usable])) if usable else None
        aside = [file for file, pixels in batch if pixels is None]
        yield Judged(inputs.root, [file for file, _ in usable], verdicts, aside, [file for file, _ in batch]), True


def _unchanged(root: Path, file: File, read: Callable[[File], tuple[File, Pixels | None]]) -> bool:
    """True if a file is what it was when it was judged."""
    if file.problem is not None:
        found, _ = read(replace(file, problem=None))
        return found.problem is not None
    try:
        return content_id(root / file.path) == file.image_id
    except UnreadableImage:
        return False


def _read(photographs: FeatureExtractor, root: Path, file: File) -> tuple[File, Pixels | None]:
    """The file with its image_id, and its pixels; or with its problem, and none."""
    if file.problem is not None:
        return file, None
    try:
        pixels = photographs.pixels(root / file.path)
        return replace(file, image_id=content_id(root / file.path)), pixels
    except UnreadableImage as error:
        return replace(file, problem=error.reason), None


class _Tables:
    """The tables of a prediction as they are written, and how many rows they have."""

    def __init__(self, out: Path, stack: contextlib.ExitStack, keep_maps: bool) -> None:
        self._scored = [stack.enter_context(Rows(out / name, SCORED)) for name in ("scores.csv", "scores.parquet")]
        self._aside = stack.enter_context(Rows(out / "quarantine.csv", ASIDE))
        self._maps = stack.enter_context(Shards(out / MAPS, _MAPS_PER_SHARD)) if keep_maps else None
        self.num_batches = self.num_scored = self.num_anomalous = self.num_quarantined = 0
        self.first_problem = ""  # with the name of its file

    def add(self, judged: Judged) -> None:
        """Write a batch."""
        self.num_batches += 1
        self._put_aside(judged.aside)
        if judged.verdicts is not None:
            self._write(judged.files, judged.verdicts)

    def _put_aside(self, files: Sequence[File]) -> None:
        self._aside.add((path_text(file.path), file.problem) for file in files)
        self.num_quarantined += len(files)
        if files and not self.first_problem:
            self.first_problem = f"{path_text(files[0].path)}: {files[0].problem}"

    def _write(self, files: Sequence[File], verdicts: Verdicts) -> None:
        paths, ids = [path_text(file.path) for file in files], [file.image_id for file in files]
        decisions = verdicts.decisions
        numbers = verdicts.score_N.tolist(), decisions, verdicts.quantile_N.tolist()
        for table in self._scored:
            table.add(zip(paths, ids, *numbers, strict=True))
        if self._maps is not None:
            maps = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(verdicts.map_NHW))
            self._maps.add(
                pa.RecordBatch.from_arrays([pa.array(paths), pa.array(ids), maps], [*SCORED.names[:2], "map"])
            )
        self.num_scored += len(files)
        self.num_anomalous += decisions.count(ANOMALOUS)
