"""A run's final detector for images that arrive as bytes: decoded, judged and drawn exactly as `predict` does it."""

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from llb_ray.config import Size
from llb_ray.data.unreadable_files import UnreadableImage
from llb_ray.engine.inference.calibrated_run import CalibratedRun
from llb_ray.engine.inference.trained_detector import Pixels, Sized, TrainedDetector, stacked
from llb_ray.engine.inference.verdicts import Floats
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.remote import locate
from llb_ray.report.heatmaps import Painter
from llb_ray.report.region_boxes import with_boxes
from llb_ray.serving.answer import Judged, Refused, run_version


@dataclass(frozen=True)
class Raw:
    """A detector's answer on one image, before it is drawn."""

    score: float
    decision: str
    quantile: float
    map_HW: Floats
    size: Size  # of the photograph


class Judge:
    """The detector of a run, in memory; its methods may be called from several threads."""

    def __init__(self, run: str) -> None:
        """Raises a `LlbError` for what `llb_ray.Detector.load` refuses."""
        folder = RunFolder.open(locate(run))
        self._version = run_version(run)
        self._detector = TrainedDetector(CalibratedRun.of(folder))
        self._painter = Painter(folder)
        self._painter.scale  # noqa: B018  # drawn from a few hundred maps: now, not while somebody waits
        size = self._detector.config.detector.size
        black_HWC = np.zeros((*size, self._detector.photographs.num_channels), np.uint8)
        self.judge([(black_HWC, size)])  # loads kernels

    def read(self, content: bytes) -> Sized | Refused:
        """The image as the detector takes it [H, W, C] with its own size, or why it is none."""
        try:
            with _file_of(content) as path:
                return self._detector.photographs.sized(path)
        except UnreadableImage as error:
            return Refused(error.reason)

    def judge(self, images: Sequence[Sized]) -> list[Raw]:
        """The answers on images that were read."""
        # A CPU gains nothing from a batch, and the encoder fills one of two images up to eight.
        size = len(images) if self._detector.encoding.device.type == "cuda" else 1
        return [raw for start in range(0, len(images), size) for raw in self._judge(images[start : start + size])]

    def _judge(self, images: Sequence[Sized]) -> list[Raw]:
        verdicts = self._detector.judge(*stacked(images))
        columns = verdicts.score_N.tolist(), verdicts.decisions, verdicts.quantile_N.tolist(), verdicts.map_NHW
        return [Raw(*row) for row in zip(*columns, verdicts.sizes, strict=True)]

    def verdict(self, content: bytes, raw: Raw, with_overlay: bool) -> Judged:
        """The verdict on the image with these bytes."""
        image_id, overlay = hashlib.sha256(content).hexdigest()[:32], None
        calibration = self._detector.calibration
        found = None if calibration.regions is None else calibration.regions.find(raw.map_HW, raw.size)
        if with_overlay:
            with _file_of(content) as path:
                overlay = _png(with_boxes(self._painter(path, raw.map_HW), found or [], raw.size))
        said = raw.score, raw.decision, raw.quantile, None if found is None else [asdict(one) for one in found]
        return Judged(self._version, calibration.threshold, image_id, *said, overlay)


@contextlib.contextmanager
def _file_of(content: bytes) -> Iterator[Path]:
    """A file with the bytes: every format is read by the code that reads a run's own images."""
    with tempfile.NamedTemporaryFile(prefix="llb-served-") as file:
        file.write(content)
        file.flush()
        yield Path(file.name)


def _png(picture_HW3: Pixels) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(picture_HW3).save(file, "PNG")
        return file.getvalue()
