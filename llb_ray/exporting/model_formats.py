"""The final detector as a program of torch.export, or in OpenVINO's format; refused unless it answers as torch does."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.errors import ResourceError
from llb_ray.exporting.comparison import OUTPUTS, ComparedImages, ExportedModel, compare_outputs, undo_on_error
from llb_ray.exporting.onnx import Graph, export_onnx, exported_detector, refuse_name, traced_inputs
from llb_ray.exporting.runtimes import import_openvino, load_openvino, why_unavailable


def export_program(run: FinishedRun, path: Path, category: str | None = None, any_size: bool = False) -> ExportedModel:
    """Summary of the program of torch.export that was written to `path`, which ends in ``.pt2``.

    It takes uint8 images [B, H, W, 3] and a threshold [1], and gives scores, decisions and maps; the threshold it is
    proved with is that of `category`, in a run of several. Raises ConfigError for the name, and MemberError if its
    numbers differ from the detector's.
    """
    refuse_name(path, ".pt2")
    trained = exported_detector(run, category)
    images = ComparedImages.of(run, trained, any_size)
    inputs, shapes = traced_inputs(trained, any_size)
    with undo_on_error([path]), torch.no_grad():
        graph = Graph(trained, any_size).cpu().eval().requires_grad_(False)
        program = torch.export.export(graph, inputs, dynamic_shapes=shapes)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.export.save(program, path)
        loaded = torch.export.load(path).module()
        said = [loaded(torch.from_numpy(image_HW3[None]), inputs[1]) for image_HW3 in images.given]
        outputs = {name: torch.cat(some).numpy() for name, some in zip(OUTPUTS, zip(*said, strict=True), strict=True)}
        return compare_outputs(path, images, outputs)


def export_openvino(run: FinishedRun, path: Path, category: str | None = None, any_size: bool = False) -> ExportedModel:
    """Summary of OpenVINO's files that were written: `path`, which ends in ``.xml``, and its weights beside it.

    They are made of the ONNX file and have its inputs and outputs.  Raises ConfigError for the name, ResourceError
    where OpenVINO or the extra `onnx` is not installed, and MemberError if the numbers differ from the detector's.
    """
    refuse_name(path, ".xml")
    reason = why_unavailable("openvino")
    if reason:
        raise ResourceError(f"exporting to OpenVINO: {reason}")
    with undo_on_error([path, path.with_suffix(".bin")]):
        _write_openvino(run, path, category, any_size)
        images = ComparedImages.of(run, exported_detector(run, category), any_size)
        judge = load_openvino(str(path), run.config.resources.num_cpus)
        said = [judge(image_HW3[None]) for image_HW3 in images.given]
        score_B, map_BHW = (np.concatenate(some) for some in zip(*said, strict=True))
        return compare_outputs(path, images, {"score": score_B, "map": map_BHW})


def _write_openvino(run: FinishedRun, path: Path, category: str | None, any_size: bool) -> None:
    openvino = import_openvino()
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        export_onnx(run, onnx, category, any_size)
        path.parent.mkdir(parents=True, exist_ok=True)
        openvino.save_model(openvino.Core().read_model(onnx), path, compress_to_fp16=False)
