"""Remaining time of a run in progress: the forecast of `plan`, corrected by what stages really took.

The costs are those of the last calibration of the same configuration on this machine (`llb-ray plan`), or else of a
slow core: the correction is soon larger than their error.
"""

import contextlib
import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from platformdirs import user_cache_path

from llb_ray.artifacts import digest
from llb_ray.config import Role, RunConfig
from llb_ray.data.manifest import Manifest
from llb_ray.disk import write_json
from llb_ray.engine.execution.executor import Executor, SerialExecutor
from llb_ray.engine.rundir.stage_timer import StageTime
from llb_ray.planning.cost_model import Cost, CostModel, Linear
from llb_ray.planning.forecast import forecast
from llb_ray.planning.workload import Cluster, Size

_TRUST_S = 2.0  # of the forecast: what stages took counts more, the longer they took
_CORRECTION = (0.1, 20.0)  # at least and at most
_START_S = 4.0  # of a worker in a process of its own
_REPORT_S = 0.02  # per image that it shows
_UNFORESEEN = ("ray", "other")  # before the first stage, and between stages
_ENCODE_S, _PIXELS_S = 0.05, 0.005  # of a slow core at 224 px, by a network and without one
_PX = 224


@dataclass(frozen=True)
class Expected:
    """A stage that is to come: seconds, and the images that it goes through (0: it counts something else)."""

    stage: str
    seconds: float
    num_images: int = 0


@dataclass(frozen=True)
class Outlook:
    """The stages of a run as they were expected before it began."""

    stages: Sequence[Expected] = ()

    def of(self, stage: str) -> Expected | None:
        """Expected time of a stage; None of one that was not expected."""
        return next((one for one in self.stages if one.stage == stage), None)

    def left_s(
        self, times: Sequence[StageTime], stage: str, elapsed_s: float, share: float, stage_left_s: float | None
    ) -> float | None:
        """Seconds to the end of a run that is through with `times` and for `elapsed_s` busy with a share of `stage`.

        `stage_left_s` is what the stage's own speed says.  None where nothing was expected.
        """
        if not self.stages:
            return None
        ahead, spent_s, expected_s = list(self.stages), 0.0, 0.0
        for time in times:
            done = _taken(ahead, time.stage)
            if done is not None and not time.reused:
                spent_s, expected_s = spent_s + time.seconds, expected_s + done.seconds
        now = _taken(ahead, stage)
        if now is not None and share:
            spent_s, expected_s = spent_s + elapsed_s, expected_s + share * now.seconds
        low, high = _CORRECTION
        correction = min(high, max(low, (spent_s + _TRUST_S) / (expected_s + _TRUST_S)))
        if stage_left_s is None:
            stage_left_s = 0.0 if now is None else max(0.0, correction * now.seconds - elapsed_s)
        return stage_left_s + correction * sum(one.seconds for one in ahead)


def outlook(config: RunConfig, manifest: Manifest, executor: Executor, out: Path) -> Outlook:
    """Expected times of a run of `config` in `out`; raises ResourceError where not one worker fits."""
    serial, size = isinstance(executor, SerialExecutor), Size.of(config, manifest)
    cluster = Cluster(executor.slots(config.resources), 0.0 if serial else _START_S, serial)
    stages = forecast(config, manifest, _remembered(config) or _usual(config, size), cluster, out).stages
    images = {"features": size.cached_images, "final-scores": size.num_images}
    images |= dict.fromkeys(("member-scores", "fold-scores"), size.num_train) | {"held-out-maps": size.mapped_images}
    expected = [Expected(one.stage, one.seconds, images.get(one.stage, 0)) for one in stages]
    report = Expected("report", _REPORT_S * size.num_train)
    return Outlook([*(one for one in expected if one.stage not in _UNFORESEEN), report])


def remember(config: RunConfig, measured: CostModel) -> None:
    """Keep what a calibration found, for the runs of the same detectors on this machine."""
    with contextlib.suppress(OSError):  # an outlook does without
        _file(config).parent.mkdir(parents=True, exist_ok=True)
        write_json(_file(config), asdict(measured))


def _remembered(config: RunConfig) -> CostModel | None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # none yet, or of another version
        return CostModel.of_json(json.loads(_file(config).read_text()))
    return None


def _file(config: RunConfig) -> Path:
    """File of a configuration's calibration: it depends on nothing but detectors, workers and machine."""
    cache = Path(os.environ.get("LLB_CACHE") or user_cache_path("llb_ray")).absolute()
    detectors = [config.detector_of(role).model_dump(mode="json") for role in ("member", "final")]
    key = digest([platform.node(), config.resources.model_dump(mode="json"), detectors])
    return cache / "calibrations" / f"{key[:32]}.json"


def _taken(ahead: list[Expected], stage: str) -> Expected | None:
    """The first of these that is of the stage, which is then ahead no more."""
    for index, one in enumerate(ahead):
        if one.stage == stage:
            return ahead.pop(index)
    return None


def _usual(config: RunConfig, size: Size) -> CostModel:
    """The costs of a slow core."""
    area = math.prod(config.detector.size) / _PX**2
    return CostModel(
        encode=Linear(1.0, area * (_PIXELS_S if config.detector.network is None else _ENCODE_S)),
        costs={role: _cost(config, role, area) for role in size.fit_rows},
        reading=Linear(0.3, 0.001),
        evaluate=Linear(0.2, 0.004 * area),
        unclocked_s=3.0,
        layer_bytes=100_000 * area,
        map_bytes=0.0,
        other_bytes=0.0,
        peak_bytes=0,
        resident_bytes=0,
        shared_bytes=0,
        gpu_bytes=0,
        gpu_total_bytes=0,
        seconds=0.0,
    )


def _cost(config: RunConfig, role: Role, area: float) -> Cost:
    core = config.detector_of(role).slow_core
    return Cost(Linear(core.fit, core.row * area), core.step * area, core.score * area, 0.0, Linear(0.0, 0.0))
