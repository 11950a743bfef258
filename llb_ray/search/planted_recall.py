"""Defects planted in images of a run, and how many of them each of two runs finds at its own threshold.  No labels.

Both final detectors may have learnt from the originals; none has seen the defects.
"""

import numpy as np
import numpy.typing as npt

from llb_ray.data.decoding import read_rgb
from llb_ray.data.manifest import path_from_text
from llb_ray.engine.features.measured_levels import read_levels
from llb_ray.engine.inference.calibrated_run import CalibratedRun
from llb_ray.engine.inference.trained_detector import TrainedDetector
from llb_ray.engine.inference.verdicts import ANOMALOUS
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.ensemble.purified_dataset import kept_ids
from llb_ray.errors import ConfigError
from llb_ray.search.synthetic_defects import KINDS, plant_defect
from llb_ray.seeding import stream

MOST = 40  # images: a review shows the result within seconds
Pixels = npt.NDArray[np.uint8]


def planted_recall(before: FinishedRun, after: FinishedRun) -> tuple[int, int, int]:
    """Number of defects that were planted in images which both runs keep, and of those that each of the two finds.

    Raises ConfigError for images of several bands and for runs of several categories, OSError or UnreadableImage for
    images that are gone, ArtifactError where a run has no threshold.
    """
    if before.config.data.bands is not None:
        raise ConfigError("defects are planted in RGB photographs alone")
    both = sorted(set(kept_ids(before.purified)) & set(kept_ids(after.purified)))[:MOST]
    paths = dict(zip(*(before.images[name].to_pylist() for name in ("image_id", "path")), strict=True))
    damaged = [_planted(before, paths[image_id], image_id, number) for number, image_id in enumerate(both)]
    return len(damaged), _num_found(before, damaged), _num_found(after, damaged)


def _planted(run: FinishedRun, path: str, image_id: str, number: int) -> Pixels:
    place, levels = run.root / path_from_text(path), read_levels(run.made.levels)
    image_HW3 = read_rgb(place, None, run.config.data.max_pixels, levels)
    return plant_defect(image_HW3, KINDS[number % len(KINDS)], stream(0, "planted", image_id))[0]


def _num_found(run: FinishedRun, damaged: list[Pixels]) -> int:
    return TrainedDetector(CalibratedRun.of(run.folder)).predict(damaged).decisions.count(ANOMALOUS)
