"""Times a miniature run and its parts on the workers that a run will have.

Two runs of different size give what a stage costs at all and what it costs per image; fits (`fit_timing`) what members
and the final detector take, which may be of different kinds.  All of it is done by the engine itself, on layers of real
photographs, by as many workers at a time as will share the machine.  Nothing of the results is kept.
"""

import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from llb_ray.artifacts import Artifact
from llb_ray.config import Role, RunConfig
from llb_ray.data.manifest import TEST, TRAIN, Manifest
from llb_ray.data.mask_folders import MaskFolders
from llb_ray.data.tables import read_table
from llb_ray.disk import write_json
from llb_ray.engine import filenames
from llb_ray.engine.execution.executor import SerialExecutor
from llb_ray.engine.execution.protocols import WorkerContext, device_for, owned_threads
from llb_ray.engine.features.feature_access import CachedSource
from llb_ray.engine.pipeline.pipeline import Result, RunSpec, run_stages
from llb_ray.engine.rundir.run_artifacts import RunArtifacts
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.engine.workers.fitter import load_detector
from llb_ray.errors import ResourceError
from llb_ray.planning.cost_model import CostModel, Linear
from llb_ray.planning.fit_timing import cost, seconds_per_image
from llb_ray.seeding import stream

FEW = 8  # images of each split in the first run: an encoder's batches are filled up to 8 anyhow
MOST = 256  # in the second
_ENCODE_S = 10.0  # what the second run may take
_TOO_SLOW_S = 1.0  # an image, in the first run: then there is no second


@dataclass(frozen=True)
class CalibrationSpec:
    """Some photographs of each split, and the configuration of the run that is to be."""

    name: str
    context: WorkerContext
    config: RunConfig
    manifest: Manifest
    fit_rows: Mapping[Role, int]  # of the largest fit in each role that the run has

    @property
    def title(self) -> str:
        return self.name

    @property
    def result(self) -> Path:
        return self.context.run / f"{self.name}.json"


class Calibrator:
    """Measures on the worker that it is."""

    STEPS: ClassVar[tuple[str, ...]] = ("measure",)

    def __init__(self, spec: CalibrationSpec) -> None:
        self._spec = spec

    def measure(self) -> None:
        """Measure everything; the spec's `result` has it afterwards.  Raises ResourceError for lack of memory."""
        try:
            with owned_threads(self._spec.context.resources):
                measured = _measured(self._spec)
        except (MemoryError, torch.OutOfMemoryError) as error:
            reason = str(error).partition("\n")[0]
            raise ResourceError(
                f"out of memory while trying out one worker ({reason}); lower detector.image_size_px, "
                "detector.batch_size or resources.batch_size, or give it a larger machine"
            ) from error
        write_json(self._spec.result, asdict(measured))


class Idler:
    """Does nothing, in a process that has loaded all that a worker has: measures how long those take to start."""

    STEPS: ClassVar[tuple[str, ...]] = ("rest",)

    def __init__(self, spec: CalibrationSpec) -> None:
        self._spec = spec

    def rest(self) -> None:
        """Nothing."""


def num_labelled(manifest: Manifest) -> int:
    """Number of test images with a label, which is what `evaluate` looks at."""
    labels = manifest.split(TEST)["label"]
    return len(labels) - int(labels.null_count)


def sample_images(manifest: Manifest, most: int) -> Manifest:
    """At most `most` images of each split, drawn at random."""
    splits = np.array(manifest.table["split"].to_pylist())
    turn_N = stream(0, "plan").permutation(len(splits))
    rows = [row for split in (TRAIN, TEST) for row in turn_N[splits[turn_N] == split][:most]]
    return replace(
        manifest,
        table=manifest.table.take(sorted(rows)),
        quarantine=manifest.quarantine.slice(0, 0),
        near=manifest.near.slice(0, 0),
    )


def _measured(spec: CalibrationSpec) -> CostModel:
    started_s = time.perf_counter()
    short, _ = spec.config.detector.shortened(steps=2)
    # No members, and no threshold, which would take folds; with the cache, whatever there is room for in the real run.
    plain = {"purify": {"filter": "none"}, "threshold": {"method": "none"}, "features": {}, "final": {}}
    plain |= {"data": _data_section(spec.config), "detector": short.model_dump()}
    config = RunConfig.model_validate(spec.config.model_dump() | plain)
    few = _run(config, sample_images(spec.manifest, FEW), spec.context.run / f"{spec.name}-few")
    many = _more(config, spec, few)
    made = RunFolder.open(many.result.path).made()
    if not made.features:
        raise ResourceError(f"{many.result.path}: the disk has no room for a few images' layers; choose another --out")
    source, device = _source(spec, made), _device(spec)
    return CostModel(
        encode=Linear.through(few.stage("features", few.num_images), many.stage("features", many.num_images)),
        costs={role: cost(spec.config, role, rows, source, device) for role, rows in spec.fit_rows.items()},
        reading=_reading(config, few, many, made, source),
        evaluate=Linear.through(few.stage("evaluate", few.num_labelled), many.stage("evaluate", many.num_labelled)),
        unclocked_s=few.unclocked_s,
        layer_bytes=_bytes(made.features) / many.num_images,
        map_bytes=_bytes(made.final_scores) / many.num_images,
        other_bytes=_bytes([made.images, made.labels, made.purified, made.evaluated]) / many.num_images,
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        resident_bytes=_pages(1),
        shared_bytes=_pages(2),
        gpu_bytes=torch.cuda.max_memory_reserved() if device.type == "cuda" else 0,
        gpu_total_bytes=torch.cuda.mem_get_info()[1] if device.type == "cuda" else 0,
        seconds=time.perf_counter() - started_s,
    )


@dataclass(frozen=True)
class _Small:
    """A miniature run."""

    result: Result
    manifest: Manifest
    unclocked_s: float

    @property
    def num_images(self) -> int:
        return len(self.manifest.table)

    @property
    def num_labelled(self) -> int:
        return num_labelled(self.manifest)

    def stage(self, name: str, units: int) -> tuple[float, float]:
        """A measurement for `Linear.through`."""
        return units, sum(time.seconds for time in self.result.times if time.stage == name)


def _data_section(config: RunConfig) -> dict[str, Any]:
    """The section data, without folders of masks: a sample of the images may have none, and they take no time."""
    folders = MaskFolders.of(config.data, config.detector.size)
    return config.data.model_dump() | ({"ignore_mask": None, "inspect_mask": None} if folders else {})


def _run(config: RunConfig, manifest: Manifest, out: Path) -> _Small:
    started_s = time.perf_counter()
    result = run_stages(RunSpec(config, manifest, out), SerialExecutor(), lambda line: None)
    seconds = time.perf_counter() - started_s
    return _Small(result, manifest, seconds - sum(time.seconds for time in result.times))


def _more(config: RunConfig, spec: CalibrationSpec, few: _Small) -> _Small:
    """A second run, as large as its time allows."""
    units, seconds = few.stage("features", few.num_images)
    if seconds / units > _TOO_SLOW_S:
        return few
    most = int(np.clip(_ENCODE_S / (seconds / units) / 2, 4 * FEW, MOST))
    return _run(config, sample_images(spec.manifest, most), spec.context.run / f"{spec.name}-many")


def _reading(config: RunConfig, few: _Small, many: _Small, made: RunArtifacts, source: CachedSource) -> Linear:
    """The stage final-scores, per image, less what its detector takes."""
    stage = Linear.through(few.stage("final-scores", few.num_images), many.stage("final-scores", many.num_images))
    detector = load_detector(config.detector_of("final"), made.final, config.resources)
    own_s = seconds_per_image(detector, source, config.detector.images_at_once(config.resources.batch_size))
    return replace(stage, unit=max(0.0, stage.unit - own_s))


def _source(spec: CalibrationSpec, made: RunArtifacts) -> CachedSource:
    """The layers of the training images of the larger run."""
    image_ids = read_table(made.purified.file(filenames.PURIFIED))["image_id"].to_pylist()
    return CachedSource(made.features, image_ids, _device(spec))


def _device(spec: CalibrationSpec) -> torch.device:
    return device_for(spec.context.resources)


def _bytes(artifacts: Sequence[Artifact]) -> int:
    return sum(size for artifact in artifacts for size in artifact.sizes.values())


def _pages(column: int) -> int:
    """Memory of this process, from Linux's statm: 1 is all of it, 2 what of it is files; 0 where there is no /proc."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[column]) * resource.getpagesize() if path.exists() else 0
