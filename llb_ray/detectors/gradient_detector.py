"""Base class of the detectors that learn by gradient descent: the fit itself, and measuring whole data sets.

A step's batch and dropout are functions of the seed and the step, so a fit that goes on from a checkpoint draws what
it would have drawn.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from torch.optim import Optimizer

from llb_ray.config import ImportanceConfig
from llb_ray.detectors.base import Checkpoints, FitLog, Layers, Report, Source, State, row_batches, silent
from llb_ray.detectors.data_parallel import ALONE, ProcessGroup, Turn
from llb_ray.detectors.importance import ImportanceWeights
from llb_ray.detectors.train_step import Descent, Net, initialise, move_to_device, snapshot
from llb_ray.seeding import seed_for, stream


class TrainingConfig(Protocol):
    """The settings that every such detector has."""

    @property
    def batch_size(self) -> int: ...


Config = TypeVar("Config", bound=TrainingConfig)


class GradientDetector(ABC, Generic[Config, Net]):
    """A `Detector` but for `score`: a subclass says what network learns, down which loss, and what is measured."""

    name: ClassVar[str]  # of its random streams
    pass_size: ClassVar[int]  # images at most at a time in the passes that only measure; it bounds memory

    def __init__(
        self, config: Config, steps: int, device: torch.device, importance: ImportanceConfig | None = None
    ) -> None:
        self._config = config
        self._steps = steps
        self._device = device
        self._importance = importance
        self._fitted: Net | None = None
        self._log: FitLog | None = None

    def fit(
        self,
        source: Source,
        seed: int,
        report: Report = silent,
        checkpoints: Checkpoints | None = None,
        peers: ProcessGroup = ALONE,
    ) -> Self:
        """Itself after its optimiser steps from seeded weights; raises MemberError if the loss is not finite,
        ConfigError for a network that does not suit the layers."""
        descent = self._start(source, seed)
        saved = checkpoints.load() if checkpoints else None
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            if saved is None:
                self._measure_before(descent.network, source)
            else:
                descent.load_state(saved)
            self._descend(descent, source, seed, report, checkpoints, peers)
            self._measure_after(descent.network, source)
            self._log = self._noted(descent, source)
        self._fitted = descent.network
        return self

    def state(self) -> State:
        """The network's weights and what was measured."""
        return snapshot(self._network)

    def load_state(self, state: Mapping[str, torch.Tensor]) -> Self:
        """Itself, as it was when `state` was taken."""
        network = initialise(partial(self._network_of, state), seed=0)
        network.load_state_dict(dict(state))
        self._fitted, self._log = move_to_device(network, self._device), None
        return self

    def log(self) -> FitLog | None:
        """The loss by step; of a weighted one also the weights, and the one that each training image ends with.

        None after `load_state`.
        """
        return self._log

    @property
    @abstractmethod
    def _gradient_norm(self) -> float:
        """Longer gradients are cut to it."""

    @abstractmethod
    def _network_for(self, layers: Layers) -> Net:
        """A network for layers of these shapes."""

    @abstractmethod
    def _network_of(self, state: Mapping[str, torch.Tensor]) -> Net:
        """A network that this state fits."""

    @abstractmethod
    def _optimizer(self, network: Net, batch_size: int) -> Optimizer:
        """The optimiser, at its full learning rate."""

    @abstractmethod
    def _rate_share(self, step: int) -> float:
        """Share of the full learning rate at a step."""

    @abstractmethod
    def _losses(self, network: Net, layers: Layers, step: int, turn: Turn) -> torch.Tensor:
        """The loss of each of this worker's images [B] of a step."""

    @abstractmethod
    def _plain_losses(self, network: Net, layers: Layers) -> torch.Tensor:
        """Per-image loss [B] without training-only terms (hard mining, dropout)."""

    def _measure_before(self, network: Net, source: Source) -> None:
        """Learn what the steps need to know of all the images."""

    def _measure_after(self, network: Net, source: Source) -> None:
        """Learn how the trained network does on all the images."""

    def _ready(self, layers: Layers) -> Layers:
        return tuple(layer.to(self._device) for layer in layers)

    def _pass_size(self, network: Net) -> int:
        """Images at a time in the passes that only measure."""
        return self.pass_size

    def _passes(self, network: Net, source: Source) -> Iterator[Layers]:
        """All rows of the source once, a few at a time."""
        return (self._ready(source.batch(rows)) for rows in row_batches(len(source), self._pass_size(network)))

    @property
    def _network(self) -> Net:
        assert self._fitted is not None, "fit or load_state comes first"
        return self._fitted

    def _start(self, source: Source, seed: int) -> Descent[Net]:
        build = partial(self._network_for, source.batch(np.zeros(1, np.int64)))
        network = move_to_device(initialise(build, seed_for(seed, self.name, "weights")), self._device)
        batch_size = self._batch_size(source)
        weights = ImportanceWeights(self._importance, self._steps, batch_size) if self._importance else None
        return Descent(network, self._optimizer(network, batch_size), weights)

    def _descend(
        self,
        descent: Descent[Net],
        source: Source,
        seed: int,
        report: Report,
        checkpoints: Checkpoints | None,
        peers: ProcessGroup,
    ) -> None:
        turn = Turn(peers, self._batch_size(source), torch.Generator(self._device))
        for step in range(descent.num_done, self._steps):
            rows = stream(seed, self.name, "batch", step).choice(len(source), turn.batch_size, replace=False)
            turn.noise.manual_seed(seed_for(seed, self.name, "dropout", step))
            layers = self._ready(source.batch(rows[turn.rows]))
            loss_B = self._losses(descent.network, layers, step, turn)
            descent.step(loss_B, turn, self._rate_share(step), self._gradient_norm)
            report(step + 1, self._steps, "step", descent.figures)
            if checkpoints and checkpoints.due(step + 1):
                checkpoints.save(descent.state())

    def _batch_size(self, source: Source) -> int:
        return min(self._config.batch_size, len(source))

    @torch.no_grad()
    def _noted(self, descent: Descent[Net], source: Source) -> FitLog:
        """The log; of a weighted loss an image's own row says how it ends, its augmented copies do not."""
        if descent.weights is None:
            return descent.log()
        batches = row_batches(len(source.image_ids), self._pass_size(descent.network))
        losses = [self._plain_losses(descent.network, self._ready(source.batch(rows))) for rows in batches]
        return descent.weights.log(torch.cat(losses).cpu().numpy())


def moments(batches: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance over the first axis of all batches together, float64 so that their difference is exact."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        values = batch.double()
        count += len(values)
        total = total.to(values) + values.sum(dim=0)
        squares = squares.to(values) + values.square().sum(dim=0)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0)
