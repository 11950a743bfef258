"""Regions as mask files: white where a photograph's map is above the run's pixel threshold, else black."""

from pathlib import Path

import numpy as np

from llb_ray.engine import filenames
from llb_ray.engine.inference.predict import MASKS
from llb_ray.engine.inference.prediction_tables import Judged
from llb_ray.engine.inference.verdicts import NO_REGIONS
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.errors import ArtifactError
from llb_ray.report.heatmaps import save_picture


class Masks:
    """Writer of ``masks/<path>.png`` below `out`, of the photographs' size, for each image of each batch.

    Raises ArtifactError for a run without held-out maps; one without a threshold is refused for that, elsewhere.
    """

    def __init__(self, folder: RunFolder, out: Path) -> None:
        threshold = folder.made().threshold
        if threshold is not None and filenames.PIXEL_LEVELS not in threshold.files:
            raise ArtifactError(f"{folder.where}: {NO_REGIONS}")
        self._out = out

    def __call__(self, judged: Judged) -> None:
        """Write the masks of a batch."""
        if judged.verdicts is None:
            return
        found = judged.verdicts.finders, judged.verdicts.map_NHW, judged.verdicts.sizes
        for file, finder, map_HW, size in zip(judged.files, *found, strict=True):
            mask_HW = np.where(finder.mask(map_HW, size), np.uint8(255), np.uint8(0))
            save_picture(mask_HW, self._out / MASKS, file)
