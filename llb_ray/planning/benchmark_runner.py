"""The calibration of a plan, run by the executor that the run will have."""

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from llb_ray.artifacts import Store
from llb_ray.config import RunConfig
from llb_ray.data.manifest import TRAIN, Manifest, path_from_text
from llb_ray.engine.execution.executor import Executor, SerialExecutor, Tell, refuse_labels
from llb_ray.engine.execution.protocols import WorkerContext
from llb_ray.errors import DataError
from llb_ray.planning.cost_model import CostModel
from llb_ray.planning.forecast import Forecast, forecast
from llb_ray.planning.machine import existing
from llb_ray.planning.outlook import remember
from llb_ray.planning.timing_worker import MOST, CalibrationSpec, Calibrator, Idler, sample_images
from llb_ray.planning.workload import Cluster, Size

_AT_ONCE = 8  # calibrations: enough to see what workers of one machine take from each other


def forecast_run(
    config: RunConfig, manifest: Manifest, out: Path, executor: Executor, connect_s: float, tell: Tell
) -> Forecast:
    """Forecast of a run after less than a minute of calibration; nothing is left in `out`.

    Raises DataError where there is too little to train on, ResourceError where not one worker fits the cluster.
    """
    size = Size.of(config, manifest)
    if size.num_train < max(1, size.num_members):
        raise DataError(
            f"{manifest.root}: {size.num_train} training images cannot be divided among {size.num_members} members"
        )
    refuse_labels(executor, config)
    slots = executor.slots(config.resources)
    with tempfile.TemporaryDirectory(prefix=".plan-", dir=existing(out)) as name:
        specs = list(_specs(config, manifest, Path(name), min(slots, _AT_ONCE, max(1, size.num_members)), size))
        executor.refuse_unshared(_proofs(manifest, Path(name)))
        tell(f"trying out {len(specs)} workers on {len(specs[0].manifest.table)} images")
        serial = isinstance(executor, SerialExecutor)
        start_s = 0.0 if serial else _start_s(executor, specs)
        executor.run(Calibrator, specs, lambda line: None)
        found = [CostModel.of_json(json.loads(spec.result.read_text())) for spec in specs]
    measured = _middle(found)
    remember(config, measured)
    return forecast(config, manifest, measured, Cluster(slots, start_s, serial, connect_s), out)


def _start_s(executor: Executor, specs: Sequence[CalibrationSpec]) -> float:
    """Seconds until so many workers have begun, in processes that are not there yet."""
    idle = [replace(spec, name=f"idler-{number:03d}") for number, spec in enumerate(specs)]
    started_s = time.perf_counter()
    executor.run(Idler, idle, lambda line: None)
    return time.perf_counter() - started_s


def _specs(config: RunConfig, manifest: Manifest, folder: Path, count: int, size: Size) -> Iterator[CalibrationSpec]:
    context = WorkerContext(Store(folder / "artifacts"), folder / "progress", config.resources)
    few, rows = sample_images(manifest, MOST), size.fit_rows
    for number in range(count):
        yield CalibrationSpec(f"calibrator-{number:03d}", context, config, few, rows)


def _proofs(manifest: Manifest, folder: Path) -> dict[Path, Path]:
    """A file in each folder that every worker has to see."""
    proof = folder / "proof"
    proof.touch()
    image = path_from_text(manifest.split(TRAIN)["path"][0].as_py())
    return {folder: proof, manifest.root: manifest.root / image}


def _middle(found: Sequence[Any]) -> Any:
    """The medians of what several workers measured beside each other."""
    kind: Any = type(found[0])
    if is_dataclass(found[0]):
        return kind(**{one.name: _middle([getattr(each, one.name) for each in found]) for one in fields(found[0])})
    if kind is dict:
        return {key: _middle([each[key] for each in found]) for key in found[0]}
    return kind(median(found))
