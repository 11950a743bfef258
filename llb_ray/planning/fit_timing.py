"""Costs of a detector in one of its roles: fits of different length and share, taken apart, and scoring."""

import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import numpy as np
import torch

from llb_ray.config import Role, RunConfig
from llb_ray.detectors.base import Detector, Layers, Report, State
from llb_ray.detectors.factory import build_detector
from llb_ray.engine.features.feature_access import CachedSource
from llb_ray.planning.cost_model import Cost, Linear

_STEPS_S, _SCORE_S = 4.0, 2.0  # what the steps of a fit and the scoring may take
_ROWS = 512  # of a fit, at most
_LEAST_ROWS = 2  # a density compares images with each other


def cost(config: RunConfig, role: Role, num_rows: int, source: CachedSource, device: torch.device) -> Cost:
    """Seconds of a fit on about `num_rows` rows of layers like those of `source`, by row and by step, and of scoring.

    Memories are chosen small and their times scaled, so that a large one does not take the calibration's minute.
    """
    trial, kind = _Trial(config, role, source, device), config.detector_of(role)
    scale = kind.shortened(2)[1]
    many = max(_LEAST_ROWS, min(num_rows, kind.images_at_once(_ROWS)))
    few = max(_LEAST_ROWS, many // 2)
    _, warm_step_s, _ = trial.fit(few, steps=3)
    few_s, _, small = trial.fit(few, steps=2)
    steps = int(np.clip(_STEPS_S / warm_step_s, 4, 200)) if warm_step_s else 2
    many_s, step_s, detector = trial.fit(many, steps)
    fit = Linear.through((few, few_s - 2 * step_s), (many, many_s - steps * step_s))
    state, grown_bytes = detector.state(), partial(state_bytes, scale=scale, growing=kind.memory_tensors)
    return Cost(
        fit=Linear(fit.start * scale, fit.unit),
        step_s=step_s,
        score_s=seconds_per_image(detector, source, kind.images_at_once(config.resources.batch_size)) * scale,
        load_s=_timed(lambda: trial.unfitted(2).load_state(state)),
        state=Linear.through((few, grown_bytes(small.state())), (many, grown_bytes(state))),
    )


def seconds_per_image(detector: Detector, source: CachedSource, batch_size: int) -> float:
    """Seconds of one image by one detector, its layers at hand, in batches of this size."""
    layers = _Repeated(source, batch_size).batch(np.arange(batch_size))
    detector.score(layers)
    started_s, num_done = time.perf_counter(), 0
    while num_done < 3 or (time.perf_counter() - started_s < _SCORE_S and num_done < 20):
        detector.score(layers)
        num_done += 1
    return (time.perf_counter() - started_s) / num_done / batch_size


def state_bytes(state: State, scale: float, growing: Collection[str]) -> float:
    """Bytes of a detector's state with `scale` times as large tensors of these names; others stay as they are."""
    return sum(tensor.nbytes * (scale if name in growing else 1) for name, tensor in state.items())


class _Trial:
    """Fits of one role's detector."""

    def __init__(self, config: RunConfig, role: Role, source: CachedSource, device: torch.device) -> None:
        self._config, self._role, self._source, self._device = config, role, source, device

    def unfitted(self, steps: int) -> Detector:
        """The detector as the run will have it, but for its budget."""
        short, _ = self._config.detector_of(self._role).shortened(steps)
        return build_detector(short, self._role, self._device, self._config.importance_of(self._role))

    def fit(self, num_rows: int, steps: int) -> tuple[float, float, Detector]:
        """Seconds of a fit, seconds of each of its steps (0 where it has none), and the detector."""
        detector, times = self.unfitted(steps), list[float]()
        seconds = _timed(lambda: detector.fit(_Repeated(self._source, num_rows), 0, _noting(times)))
        return seconds, (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0, detector


class _Repeated:
    """A `Source` of as many rows as one likes, out of a few."""

    def __init__(self, source: CachedSource, num_rows: int) -> None:
        self._source = source
        self.image_ids = [source.image_ids[row % len(source)] for row in range(num_rows)]

    def __len__(self) -> int:
        return len(self.image_ids)

    def batch(self, rows: Any) -> Layers:
        return self._source.batch(rows % len(self._source))


def _noting(times: list[float]) -> Report:
    """A report that notes when each step was done."""

    def report(done: int, total: int, unit: str, figures: Any = None) -> None:
        if unit == "step":
            times.append(time.perf_counter())

    return report


def _timed(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s
