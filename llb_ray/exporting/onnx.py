"""The final detector as one ONNX file: bytes in, score, decision and map out, preprocessing and threshold inside.

Input ``image``: uint8 [B, H, W, 3], RGB, of the detector's size.  Resizing is left to the caller, because no runtime
resizes as Pillow does (bicubic with antialias, aspect not kept), and another way shifts scores; the file's metadata
says the size and the way.  Input ``threshold``, float32 [1], is optional; its default is the run's.

Outputs: ``score`` float32 [B], ``anomalous`` bool [B], ``map`` float32 [B, h, w].

The file is refused unless onnxruntime gives, for images of the run, what torch gives.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from llb_ray.data.ignored_regions import GREY
from llb_ray.data.manifest import path_from_text
from llb_ray.detectors.base import Exportable, Layers
from llb_ray.detectors.factory import weights_origin
from llb_ray.engine.inference.calibrated_run import CalibratedRun
from llb_ray.engine.inference.trained_detector import TrainedDetector
from llb_ray.engine.inference.verdicts import Verdicts
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.errors import ConfigError, MemberError, ResourceError

OUTPUTS, THRESHOLD = ("score", "anomalous", "map"), "threshold"
TOLERANCE = 1e-3  # of the largest value in the maps; float noise stays a hundred times below
_COMPARED = 16  # images
_FRESH = "in a new Python process, after `pip install 'llb-ray[onnx]'`"
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


class Graph(nn.Module):
    """Encoder, the cache's rounding, detector and decision as one module."""

    def __init__(self, trained: TrainedDetector) -> None:
        super().__init__()
        if not isinstance(trained.detector, Exportable):
            name = trained.config.detector.name
            raise ConfigError(f"detector {name} cannot be exported, as it has no method scorer; use llb-ray predict")
        self.encoder, self.scorer = trained.encoding.encoder.network(), trained.detector.scorer()
        self._cache_dtypes = trained.encoding.encoder.cache_dtypes
        ignored = trained.photographs.ignored
        self._ignored_HW = None if ignored is None else torch.from_numpy(ignored.mask_HW)

    def forward(self, image: torch.Tensor, threshold: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if self._ignored_HW is not None:
            image = torch.where(self._ignored_HW[..., None], torch.full_like(image, GREY), image)
        layers: Layers = self.encoder(image.permute(0, 3, 1, 2))
        # As the detector was trained: on what the cache holds.
        cached = [layer.to(dtype).float() for layer, dtype in zip(layers, self._cache_dtypes, strict=True)]
        score_B, map_BHW = self.scorer(*cached)
        return score_B, score_B > threshold, map_BHW


def export_onnx(run: FinishedRun, path: Path, category: str | None = None) -> ExportedModel:
    """Write the final detector to `path`, and say how far it is from torch on images of the run.

    Its threshold is that of `category`, in a run of several. Raises ResourceError where the extra `onnx` is not
    installed, ConfigError for a name that is not ``.onnx`` or is taken, and MemberError if the numbers differ;
    nothing is left at `path` then.
    """
    refuse_name(path, ".onnx")
    trained = exported_detector(run, category)
    image_BHW3 = images_of(run, trained)
    _write(trained, image_BHW3[:2], path)
    return compare_outputs([path], trained.judge(image_BHW3), _by_runtime(path, image_BHW3))


def exported_detector(run: FinishedRun, category: str | None) -> TrainedDetector:
    """The detector with one threshold; raises ConfigError for a run of several categories and none named."""
    calibrated = CalibratedRun.of(run.folder, category=category)
    calibrated.category(None)
    return TrainedDetector(calibrated)


def refuse_name(path: Path, suffix: str) -> None:
    """Raise ConfigError for the name of a model that does not end so, or is taken."""
    if path.suffix != suffix:
        raise ConfigError(f"--out {path}: has to end in {suffix}")
    if path.exists():
        raise ConfigError(f"--out {path}: already exists; delete it or choose another file")


def images_of(run: FinishedRun, trained: TrainedDetector) -> Pixels:
    """The first images of the run: ids are hashes, so that they are a sample."""
    paths = run.images["path"][:_COMPARED].to_pylist()
    return np.stack([trained.photographs.pixels(run.root / path_from_text(path)) for path in paths])


def _write(trained: TrainedDetector, example_BHW3: Pixels, path: Path) -> None:
    try:
        import onnx
    except ImportError as error:
        raise ResourceError(
            f"exporting needs onnx, onnxscript and onnxruntime ({error}); try again {_FRESH}"
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch and onnxscript about each other
        program = torch.onnx.export(
            Graph(trained).cpu().eval(),
            (torch.from_numpy(example_BHW3), torch.from_numpy(round_down(trained.calibration.threshold))),
            dynamo=True,
            input_names=["image", THRESHOLD],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("batch")}, {}),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    # An input with an initial value of its name is optional.
    model.graph.initializer.append(onnx.numpy_helper.from_array(round_down(trained.calibration.threshold), THRESHOLD))
    onnx.helper.set_model_props(model, _properties(trained))
    path.write_bytes(model.SerializeToString())


def round_down(threshold: float) -> npt.NDArray[np.float32]:
    """The largest float32 that is not above it, [1]: a float32 score is above both or neither."""
    rounded = np.float32(threshold)
    return np.array([rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-np.inf))])


def _properties(trained: TrainedDetector) -> dict[str, str]:
    (height, width), levels = trained.config.detector.size, trained.photographs.levels
    deep = "" if levels is None else f", from 16 bits by {levels.black:g} as 0 and {levels.white:g} as 255"
    return {
        "llb_ray.threshold": repr(trained.calibration.threshold),  # unless the input `threshold` is another
        "llb_ray.false_alarm_rate": repr(trained.config.threshold.false_alarm_rate),
        "llb_ray.input": f"uint8 [batch, {height}, {width}, 3], RGB{deep}",
        "llb_ray.resize": f"to {height} x {width} px, bicubic with antialias (Pillow), aspect ratio not kept",
        "llb_ray.score": "rises with abnormality; anomalous where it is above the threshold",
        **{f"llb_ray.backbone.{key}": value for key, value in weights_origin(trained.config.detector).items()},
    }


def _by_runtime(path: Path, image_BHW3: Pixels) -> dict[str, npt.NDArray[Any]]:
    """Outputs of onnxruntime, image by image: other batch sizes than the one that was traced must work."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: it warns of the optional input
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    said = [session.run(OUTPUTS, {"image": image_HW3[None]}) for image_HW3 in image_BHW3]
    return {name: np.concatenate(values) for name, values in zip(OUTPUTS, zip(*said, strict=True), strict=True)}


def compare_outputs(paths: Sequence[Path], torchs: Verdicts, runtimes: Mapping[str, npt.NDArray[Any]]) -> ExportedModel:
    """Summary of a model in the files `paths`, whose answers are `runtimes`, by the names of its outputs.

    Raises MemberError, with the files removed, where they differ from torch's by more than `TOLERANCE`.
    """
    score = float(np.abs(torchs.score_N - runtimes["score"]).max())
    maps = float(np.abs(torchs.map_NHW - runtimes["map"]).max())
    tolerance = TOLERANCE * float(np.abs(torchs.map_NHW).max())
    if not max(score, maps) <= tolerance:  # also true of NaN
        for path in paths:
            path.unlink()
        raise MemberError(
            f"{paths[0]}: the exported model's scores differ by {score:.3g} from torch's and its maps by {maps:.3g}, "
            f"more than the {tolerance:.3g} allowed; nothing was written, please report this with the run's config.yaml"
        )
    return ExportedModel(paths[0], len(torchs), score, maps, tolerance)
