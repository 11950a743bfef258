"""Batches of a prediction: judged, recorded in its journal, and found there again.

Batches follow from the inputs alone, so that any process that judges one, in any order, leaves the same record.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np

from llb_ray.data.candidate_files import File
from llb_ray.data.decoding import content_id
from llb_ray.data.predict_inputs import Inputs
from llb_ray.data.unreadable_files import UnreadableImage
from llb_ray.engine.features.mean_features import NUM_MEANS
from llb_ray.engine.inference.calibrated_run import CalibratedRun
from llb_ray.engine.inference.prediction_journal import Journal, Recorded
from llb_ray.engine.inference.prediction_tables import Judged
from llb_ray.engine.inference.trained_detector import Sized, TrainedDetector, batched, stacked
from llb_ray.engine.inference.verdicts import Verdicts
from llb_ray.errors import DataError

Batch = tuple[int, Sequence[File]]  # its number, and the files


@dataclass(frozen=True)
class BatchJudge:
    """Judges the batches of one prediction; `each` is called with every one before it is recorded."""

    run: CalibratedRun
    root: Path
    journal: Journal
    each: Callable[[Judged], None]
    keep_maps: bool

    @cached_property
    def _detector(self) -> TrainedDetector:
        return TrainedDetector(self.run)

    def batches(self, inputs: Inputs) -> Iterator[Batch]:
        """All batches, in their order."""
        return enumerate(batched(inputs.read(), self.run.batch_size))

    def all(self, inputs: Inputs, checked: bool) -> Iterator[Judged]:
        """Every batch in its order, those that are not recorded judged now; of `checked` ones see `find`."""
        found = ((batch, self.find(batch, checked)) for batch in self.batches(inputs))
        for is_missing, some in groupby(found, lambda pair: pair[1] is None):
            if is_missing:
                yield from self.judge(batch for batch, _ in some)
            else:
                yield from (judged for _, judged in some if judged is not None)

    def find(self, batch: Batch, checked: bool = False) -> Judged | None:
        """The batch as it was recorded; None where it was not, or, unless that was `checked`, a file has changed."""
        said = self.journal.find(*batch)
        if said is None or not (checked or all(map(self._unchanged, said.files))):
            return None
        usable = [file for file in said.files if file.problem is None]
        own = [self.run.calibrations[file.category] for file in usable]
        verdicts = Verdicts(said.score_N, said.map_NHW, said.feature_NS, said.sizes, own) if usable else None
        aside = [file for file in said.files if file.problem is not None]
        return Judged(self.root, usable, verdicts, said.regions, aside, said.files)

    def judge(self, batches: Iterable[Batch]) -> Iterator[Judged]:
        """The batches, each recorded as soon as it is judged; files are read a few batches ahead."""
        numbers = deque[int]()

        def chunks() -> Iterator[Sequence[File]]:
            for number, files in batches:
                numbers.append(number)
                yield files

        for read in self._detector.encoding.ahead(self._read, chunks()):
            judged = self._judged(read)
            self.each(judged)
            self.journal.add(numbers.popleft(), _recorded(judged, self.keep_maps))
            yield judged

    def _judged(self, batch: Sequence[tuple[File, Sized | None]]) -> Judged:
        usable = [(file, sized) for file, sized in batch if sized is not None]
        names = [file.category for file, _ in usable]
        verdicts = self._detector.judge(*stacked([sized for _, sized in usable]), names) if usable else None
        regions = verdicts.regions if verdicts and self.run.finds_regions else []
        aside = [file for file, sized in batch if sized is None]
        return Judged(self.root, [file for file, _ in usable], verdicts, regions, aside, [file for file, _ in batch])

    def _unchanged(self, file: File) -> bool:
        """True if a file is what it was when it was judged."""
        if file.problem is not None:
            found, _ = self._read(replace(file, problem=None))
            return found.problem is not None
        try:
            return content_id(self.root / file.path) == file.image_id
        except UnreadableImage:
            return False

    def _read(self, file: File) -> tuple[File, Sized | None]:
        """The file with its image_id, and its pixels and size; or with its problem, and none."""
        if file.problem is not None:
            return file, None
        try:
            image_id = content_id(self.root / file.path)
            mask = None if self.run.masks is None else self.run.masks.of_file(file.path, image_id)
            return replace(file, image_id=image_id), self.run.photographs.sized(self.root / file.path, mask)
        except UnreadableImage as error:
            return replace(file, problem=error.reason), None
        except DataError as error:  # of its mask
            return replace(file, problem=str(error)), None


def _recorded(judged: Judged, keep_maps: bool) -> Recorded:
    """Record of the batch."""
    said = judged.verdicts
    if said is None:
        nothing = np.zeros((0, NUM_MEANS), np.float32)
        return Recorded(judged.everyone, nothing[:, 0], [], [], nothing, np.zeros((0, 0, 0), np.float32))
    maps = said.map_NHW if keep_maps else np.zeros((len(judged.files), 0, 0), np.float32)
    return Recorded(judged.everyone, said.score_N, said.sizes, judged.regions, said.feature_NS, maps)
