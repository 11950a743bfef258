"""The final detector as one ONNX file: bytes in, score, decision and map out, preprocessing and threshold inside.

Input ``image``: uint8 [B, H, W, 3], RGB, of the detector's size, or of any size where the model is to resize by itself
(`resizing`).  The file's metadata says the size and the way to resize, since another way shifts scores.  Input
``threshold``, float32 [1], is optional; its default is the run's.

The model of a run with a mask for each photograph takes it as a fourth channel, not 0 where pixels are ignored.

Outputs: ``score`` float32 [B], ``anomalous`` bool [B], ``map`` float32 [B, h, w].

The file is refused unless onnxruntime gives, for images of the run, what torch gives.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from llb_ray.config import DetectorConfig
from llb_ray.detectors.base import Exportable, Layers
from llb_ray.detectors.factory import weights_origin
from llb_ray.detectors.inspected import ignored_share
from llb_ray.engine.features.mask_channel import split_mask
from llb_ray.engine.inference.calibrated_run import CalibratedRun, VerdictSettings
from llb_ray.engine.inference.trained_detector import TrainedDetector
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.errors import ConfigError, ResourceError
from llb_ray.exporting.comparison import OUTPUTS, ComparedImages, ExportedModel, Pixels, compare_outputs, undo_on_error
from llb_ray.exporting.resizing import Resize

THRESHOLD = "threshold"
_FRESH = "in a new Python process, after `pip install 'llb-ray[onnx]'`"


class Graph(nn.Module):
    """Resizing where it is wanted, encoder, the cache's rounding, detector and decision as one module."""

    def __init__(self, trained: TrainedDetector, any_size: bool) -> None:
        super().__init__()
        if not isinstance(trained.detector, Exportable):
            name = trained.config.detector.name
            raise ConfigError(f"detector {name} cannot be exported, as it has no method scorer; use llb-ray predict")
        if any_size and trained.photographs.has_masks:
            raise ConfigError(
                "an image and its own mask are resized in different ways; export without --any-size, and resize both"
            )
        self.encoder, self.scorer = trained.encoding.encoder.network(), trained.detector.scorer()
        self.resize = Resize(trained.config.detector.size) if any_size else nn.Identity()
        self._cache_dtypes = trained.encoding.encoder.cache_dtypes
        self._ignored = trained.photographs.ignored

    def forward(self, image: torch.Tensor, threshold: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        image, ignored_BHW = self.resize(image), None
        if self._ignored is not None:
            image, ignored_BHW = split_mask(image, self._ignored)
        layers: Layers = self.encoder(image.permute(0, 3, 1, 2))
        # As the detector was trained: on what the cache holds.
        cached = [layer.to(dtype).float() for layer, dtype in zip(layers, self._cache_dtypes, strict=True)]
        if ignored_BHW is not None:
            cached.append(ignored_share(ignored_BHW, layers[0].shape[2:]))
        score_B, map_BHW = self.scorer(*cached)
        return score_B, score_B > threshold, map_BHW


def export_onnx(run: FinishedRun, path: Path, category: str | None = None, any_size: bool = False) -> ExportedModel:
    """Write the final detector to `path`, and say how far it is from torch on images of the run.

    Its threshold is that of `category`, in a run of several; with `any_size` it resizes images by itself.  Raises
    ResourceError where the extra `onnx` is not installed, ConfigError for a name that is not ``.onnx`` or is taken, a
    backbone in another precision than float32, and `any_size` where images have bands or masks of their own, and
    MemberError if the numbers differ; nothing is left at `path` then.
    """
    refuse_name(path, ".onnx")
    trained = exported_detector(run, category)
    images = ComparedImages.of(run, trained, any_size)
    with undo_on_error([path]):
        _write(trained, path, any_size)
        return compare_outputs(path, images, _by_runtime(path, images.given))


def exported_detector(run: FinishedRun, category: str | None) -> TrainedDetector:
    """The detector with one threshold; raises ConfigError for a run of several categories and none named."""
    calibrated = CalibratedRun.of(run.folder, VerdictSettings(category=category))
    calibrated.category(None)
    return TrainedDetector(calibrated)


def refuse_name(path: Path, suffix: str) -> None:
    """Raise ConfigError for the name of a model that does not end so, or is taken."""
    if path.suffix != suffix:
        raise ConfigError(f"--out {path}: has to end in {suffix}")
    if path.exists():
        raise ConfigError(f"--out {path}: already exists; delete it or choose another file")


def traced_inputs(trained: TrainedDetector, any_size: bool) -> tuple[tuple[torch.Tensor, ...], tuple[Any, ...]]:
    """Images and a threshold that a model can be traced with, and which of their axes are of any length."""
    (height, width), channels = trained.config.detector.size, trained.photographs.num_channels
    free = {1: torch.export.Dim("height"), 2: torch.export.Dim("width")} if any_size else {}
    image_BHWC = torch.zeros(2, height, width, channels + trained.photographs.has_masks, dtype=torch.uint8)
    threshold = torch.from_numpy(round_down(trained.calibration.threshold))
    return (image_BHWC, threshold), ({0: torch.export.Dim("batch"), **free}, {})


def no_onnx(config: DetectorConfig) -> str:
    """Reason why a detector of these settings cannot be ONNX; empty if it can."""
    network = config.network
    if network is None or network.precision == "float32":
        return ""
    return f"detector.backbone.precision={network.precision}: ONNX runtimes have no convolution of it on a CPU"


def _write(trained: TrainedDetector, path: Path, any_size: bool) -> None:
    if reason := no_onnx(trained.config.detector):
        raise ConfigError(f"{reason}; export it as torch-export, or train in float32")
    try:
        import onnx
    except ImportError as error:
        raise ResourceError(
            f"exporting needs onnx, onnxscript and onnxruntime ({error}); try again {_FRESH}"
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    inputs, shapes = traced_inputs(trained, any_size)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch and onnxscript about each other
        program = torch.onnx.export(
            Graph(trained, any_size).cpu().eval(),
            inputs,
            dynamo=True,
            input_names=["image", THRESHOLD],
            output_names=list(OUTPUTS),
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    # An input with an initial value of its name is optional.
    model.graph.initializer.append(onnx.numpy_helper.from_array(round_down(trained.calibration.threshold), THRESHOLD))
    onnx.helper.set_model_props(model, _properties(trained, any_size))
    path.write_bytes(model.SerializeToString())


def round_down(threshold: float) -> npt.NDArray[np.float32]:
    """The largest float32 that is not above it, [1]: a float32 score is above both or neither."""
    rounded = np.float32(threshold)
    return np.array([rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-np.inf))])


def _properties(trained: TrainedDetector, any_size: bool) -> dict[str, str]:
    (height, width), levels = trained.config.detector.size, trained.photographs.levels
    shape = "height, width" if any_size else f"{height}, {width}"
    by_itself = "by this model " if any_size else ""
    channels, colours = 3, "RGB"
    if trained.photographs.has_masks:
        channels, colours = 4, "RGB and a channel that is not 0 where the photograph is ignored"
    deep = "" if levels is None else f", from 16 bits by {levels.black:g} as 0 and {levels.white:g} as 255"
    return {
        "llb_ray.threshold": repr(trained.calibration.threshold),  # unless the input `threshold` is another
        "llb_ray.false_alarm_rate": repr(trained.config.threshold.false_alarm_rate),
        "llb_ray.input": f"uint8 [batch, {shape}, {channels}], {colours}, upright{deep}",
        "llb_ray.resize": f"{by_itself}to {height} x {width} px, bicubic with antialias (Pillow), aspect not kept",
        "llb_ray.score": "rises with abnormality; anomalous where it is above the threshold",
        **{f"llb_ray.backbone.{key}": value for key, value in weights_origin(trained.config.detector).items()},
    }


def _by_runtime(path: Path, images: Sequence[Pixels]) -> dict[str, npt.NDArray[Any]]:
    """Outputs of onnxruntime, image by image: other batch sizes than the one that was traced must work."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: it warns of the optional input
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    said = [session.run(OUTPUTS, {"image": image_HW3[None]}) for image_HW3 in images]
    return {name: np.concatenate(values) for name, values in zip(OUTPUTS, zip(*said, strict=True), strict=True)}
