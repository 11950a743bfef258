"""A run's final detector in the programs that can run it: torch, ONNX Runtime and OpenVINO.

Shapes: B images, H x W pixels of the detector's size.
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
TORCH = "torch"


class Answer(NamedTuple):
    """Scores [B] and maps [B, h, w] of a batch."""

    score_B: Floats
    map_BHW: Floats


Judge = Callable[[Pixels], Answer]


def load_torch(run: str, threads: int) -> Judge:
    """The detector of a run, a folder or a URI, on the device of the run, as `llb_ray.Detector` judges."""
    from llb_ray.engine.inference.trained_detector import TrainedDetector

    trained = TrainedDetector.load(run)
    resources = trained.config.resources.model_copy(update={"num_cpus": threads})
    trained.config = trained.config.model_copy(update={"resources": resources})

    def judge(image_BHW3: Pixels) -> Answer:
        verdicts = trained.judge(image_BHW3)
        return Answer(verdicts.score_N, verdicts.map_NHW)

    return judge


def load_onnxruntime(model: str, threads: int) -> Judge:
    """An exported ONNX file in ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors: it warns of the optional input
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def judge(image_BHW3: Pixels) -> Answer:
        return Answer(*session.run(["score", "map"], {"image": image_BHW3}))

    return judge


def import_openvino() -> Any:
    """The package openvino, without its telemetry.

    That reports every import and export to its makers, and where there is no network the process may never end.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it was not installed
    import openvino

    return openvino


def load_openvino(model: str, threads: int) -> Judge:
    """An exported ONNX file in OpenVINO on the CPU, in float32."""
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = import_openvino().Core().compile_model(model, "CPU", settings)
    score, area = compiled.output("score"), compiled.output("map")

    def judge(image_BHW3: Pixels) -> Answer:
        found: Any = compiled([image_BHW3])
        return Answer(found[score], found[area])

    return judge


LOADERS: dict[str, Callable[[str, int], Judge]] = {
    TORCH: load_torch,
    "onnxruntime": load_onnxruntime,
    "openvino": load_openvino,
}
_EXPORT = "pip install 'llb-ray[onnx]'"
_NEEDED = {  # packages, and the command that installs them
    "onnxruntime": (["onnx", "onnxscript", "onnxruntime"], _EXPORT),
    "openvino": (["openvino", "onnx", "onnxscript", "onnxruntime"], f"{_EXPORT} openvino"),  # the export is compared
}


def why_unavailable(name: str) -> str:
    """Reason why a runtime cannot be used here, with its remedy; empty if it can."""
    packages, command = _NEEDED[name]
    missing = [package for package in packages if find_spec(package) is None]
    return f"not installed ({', '.join(missing)}): {command}" if missing else ""
