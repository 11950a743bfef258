"""Speed, memory and size of a run's final detector, in torch and as ONNX, and how far their answers are apart.

Each runtime is measured in a process of its own, on the same pixels: images of the run, read and resized beforehand,
which is timed by itself because it is the same for all.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from llb_ray.data.manifest import path_from_text
from llb_ray.detectors.base import Exportable
from llb_ray.engine import filenames
from llb_ray.engine.inference.calibrated_run import CalibratedRun
from llb_ray.engine.inference.trained_detector import TrainedDetector
from llb_ray.engine.inference.verdicts import refuse_several
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.errors import ConfigError, MemberError
from llb_ray.exporting.onnx import export_onnx, no_onnx
from llb_ray.exporting.runtimes import LOADERS, TORCH, Floats, Pixels, why_unavailable
from llb_ray.exporting.speed_worker import SpeedSpec, Times


@dataclass(frozen=True)
class RuntimeSpeed:
    """Figures of one runtime; seconds are those from pixels to score and map."""

    runtime: str
    version: str
    device: str
    images_per_s: float  # in batches
    p50_s: float  # of single images
    p95_s: float
    load_s: float
    peak_bytes: int  # of the process: interpreter, libraries, model and images
    model_bytes: int
    score_difference: float  # largest absolute one from torch
    map_difference: float
    num_other_decisions: int  # images on which it decides otherwise than torch


@dataclass(frozen=True)
class Speed:
    """Figures of a run's detector in all runtimes that could be measured."""

    run: str
    detector: str
    num_images: int
    threads: int
    batch: int
    read_s: float  # median of reading and resizing an image
    scale: float  # largest value in torch's maps, which differences are to be compared with
    runtimes: list[RuntimeSpeed]
    unavailable: dict[str, str]  # runtime to reason


@dataclass(frozen=True)
class _Answers:
    score_N: Floats
    map_NHW: Floats


def measure_speed(run: FinishedRun, num_images: int, batch: int, threads: int | None) -> Speed:
    """Figures on `num_images` images of the run, by `threads` CPU threads (default: those of the run's workers).

    Raises ConfigError where an image of the run is gone, MemberError where a runtime fails.
    """
    if run.made.threshold is not None:
        refuse_several(run.made.threshold, run.folder.where, "bench")
    trained = TrainedDetector(CalibratedRun.of(run.folder))
    threads = threads or run.config.resources.num_cpus
    reasons = {name: _why_not(name, trained) for name in LOADERS}
    with tempfile.TemporaryDirectory() as folder:
        image_NHW3, read_s = _pixels(run, trained, num_images)
        np.save(Path(folder) / "images.npy", image_NHW3)
        names = [name for name in LOADERS if not reasons[name]]
        models = _models(run, trained, Path(folder), names)
        found = {name: _measured(name, models[name][0], threads, batch, Path(folder)) for name in names}
    scale = float(np.abs(found[TORCH][1].map_NHW).max())
    threshold, device = trained.calibration.threshold, trained.encoding.device.type
    speeds = [_speed(name, found, models[name][1], threshold, device) for name in names]
    unavailable = {name: reason for name, reason in reasons.items() if reason}
    name, count = run.config.detector.name, len(image_NHW3)
    return Speed(run.folder.where, name, count, threads, batch, read_s, scale, speeds, unavailable)


def _why_not(name: str, trained: TrainedDetector) -> str:
    """Reason why a runtime is not measured; empty if it is."""
    if name == TORCH:
        return ""
    if not isinstance(trained.detector, Exportable):
        return f"detector {trained.config.detector.name} cannot be exported"
    return no_onnx(trained.config.detector) or why_unavailable(name)


def _pixels(run: FinishedRun, trained: TrainedDetector, most: int) -> tuple[Pixels, float]:
    """The first images of the run as the encoder takes them (ids are hashes, so they are a sample); seconds of one."""
    seconds, images = [], []
    for image_id, path in zip(*(run.images[name][:most].to_pylist() for name in ("image_id", "path")), strict=True):
        file, mask = run.root / path_from_text(path), run.mask_of(image_id)
        if not file.is_file():
            raise ConfigError(f"{file}: the run's images are not where they were; give their folder as --data")
        started_s = time.perf_counter()
        images.append(trained.photographs.pixels(file, mask))
        seconds.append(time.perf_counter() - started_s)
    return np.stack(images), float(np.median(seconds))


def _models(run: FinishedRun, trained: TrainedDetector, folder: Path, names: list[str]) -> dict[str, tuple[str, int]]:
    """Run or file that each runtime loads, and the bytes of backbone and detector in it."""
    frozen = sum(value.nbytes for value in trained.encoding.encoder.network().state_dict().values())
    models = {TORCH: (run.folder.where, frozen + run.made.final.file(filenames.DETECTOR).stat().st_size)}
    if names != [TORCH]:
        exported = folder / "model.onnx"
        export_onnx(run, exported)
        models |= {name: (str(exported), exported.stat().st_size) for name in names if name != TORCH}
    return models


def _measured(name: str, model: str, threads: int, batch: int, folder: Path) -> tuple[Times, _Answers]:
    answers, times, asked = (folder / f"{name}{end}" for end in ("-answers.npz", "-times.json", ".json"))
    spec = SpeedSpec(name, model, threads, batch, str(folder / "images.npy"), str(answers), str(times))
    asked.write_text(json.dumps(asdict(spec)))
    command = [sys.executable, "-m", "llb_ray.exporting.speed_worker", str(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MemberError(f"{name}: failed on the detector ({reason}); please report this with the run's config.yaml")
    with np.load(answers) as said:
        return Times(**json.loads(times.read_text())), _Answers(said["score_N"], said["map_NHW"])


def _speed(
    name: str, found: Mapping[str, tuple[Times, _Answers]], size: int, threshold: float, device: str
) -> RuntimeSpeed:
    times, said = found[name]
    torchs = found[TORCH][1]
    other = np.not_equal(said.score_N > threshold, torchs.score_N > threshold)
    return RuntimeSpeed(
        runtime=name,
        version=version(name),
        device=device if name == TORCH else "cpu",
        images_per_s=1 / float(np.median(times.batch_s)),
        p50_s=float(np.quantile(times.single_s, 0.5)),
        p95_s=float(np.quantile(times.single_s, 0.95)),
        load_s=times.load_s,
        peak_bytes=times.peak_bytes,
        model_bytes=size,
        score_difference=float(np.abs(said.score_N - torchs.score_N).max()),
        map_difference=float(np.abs(said.map_NHW - torchs.map_NHW).max()),
        num_other_decisions=int(other.sum()),
    )
