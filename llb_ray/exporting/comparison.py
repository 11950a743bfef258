"""An exported model beside torch: the images that it is tried on, and what becomes of one that says something else."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from llb_ray.data.decoding import read_rgb
from llb_ray.data.manifest import path_from_text
from llb_ray.engine.inference.trained_detector import TrainedDetector
from llb_ray.engine.inference.verdicts import Verdicts
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.errors import ConfigError, LlbError, MemberError

OUTPUTS = ("score", "anomalous", "map")
TOLERANCE = 1e-3  # of the largest value in the maps; float noise stays a hundred times below
RESIZED_TOLERANCE = 1e-2  # where the model resizes: a value between two levels may be rounded otherwise
_COMPARED = 16  # images
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ExportedModel:
    """The file written, and how far its numbers are from torch's."""

    path: Path
    num_compared: int
    score_difference: float  # largest absolute one
    map_difference: float
    tolerance: float  # for both, in the same unit

    def sentence(self) -> str:
        """Summary of the export in one sentence."""
        return (
            f"{self.path}: on {self.num_compared} images of the run within {self.score_difference:.2g} (scores) and "
            f"{self.map_difference:.2g} (maps) of torch, {self.tolerance:.2g} allowed"
        )


@dataclass(frozen=True)
class ComparedImages:
    """Images as an exported model takes them, [H, W, 3] each, and what it has to answer."""

    given: Sequence[Pixels]
    expected: Verdicts
    tolerance: float  # share of the largest value in the maps

    @classmethod
    def of(cls, run: FinishedRun, trained: TrainedDetector, any_size: bool) -> Self:
        """The first images of the run: ids are hashes, so that they are a sample.

        Raises ConfigError for images of any size where those have several bands.
        """
        photographs, images = trained.photographs, run.images.slice(0, _COMPARED)
        paths = [run.root / path_from_text(path) for path in images["path"].to_pylist()]
        masks = [run.mask_of(image_id) for image_id in images["image_id"].to_pylist()]
        image_BHWC = np.stack([photographs.pixels(*one) for one in zip(paths, masks, strict=True)])
        if any_size and photographs.scale is not None:
            raise ConfigError("images of several bands are resized before they are scaled; export without --any-size")
        whole = [read_rgb(path, None, photographs.max_pixels, photographs.levels) for path in paths if any_size]
        tolerance = RESIZED_TOLERANCE if any_size else TOLERANCE
        return cls(whole or list(image_BHWC), trained.judge(image_BHWC), tolerance)


@contextmanager
def undo_on_error(paths: Sequence[Path]) -> Iterator[None]:
    """Inside, a model is written to these files and tried; they are removed if that fails.

    Raises MemberError for an error of an exporter or a runtime, of which there are many kinds.
    """
    try:
        yield
    except BaseException as error:
        for path in paths:
            path.unlink(missing_ok=True)
        if not isinstance(error, Exception) or isinstance(error, (LlbError, OSError)):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise MemberError(
            f"{paths[0]}: this detector cannot be exported ({type(error).__name__}: {reason}); nothing was written, "
            "please report this with the run's config.yaml"
        ) from error


def compare_outputs(path: Path, images: ComparedImages, runtimes: Mapping[str, npt.NDArray[Any]]) -> ExportedModel:
    """Summary of the model at `path`, whose answers are `runtimes`, by the names of its outputs.

    Raises MemberError where they differ from torch's by more than the tolerance.
    """
    torchs = images.expected
    score = float(np.abs(torchs.score_N - runtimes["score"]).max())
    maps = float(np.abs(torchs.map_NHW - runtimes["map"]).max())
    tolerance = images.tolerance * float(np.abs(torchs.map_NHW).max())
    if not max(score, maps) <= tolerance:  # also true of NaN
        raise MemberError(
            f"{path}: the exported model's scores differ by {score:.3g} from torch's and its maps by {maps:.3g}, "
            f"more than the {tolerance:.3g} allowed; nothing was written, please report this with the run's config.yaml"
        )
    return ExportedModel(path, len(torchs), score, maps, tolerance)
