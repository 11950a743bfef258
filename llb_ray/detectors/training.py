"""What the detectors that learn by gradient descent share: the fit itself, and the measuring of whole data sets."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from llb_ray.config import ImportanceConfig
from llb_ray.detectors.base import FitLog, Layers, Report, Source, State, row_batches, silent
from llb_ray.detectors.importance import ImportanceWeights
from llb_ray.errors import MemberError
from llb_ray.seeding import seed_for, stream

Net = TypeVar("Net", bound=nn.Module)


class TrainingConfig(Protocol):
    """The settings that every such detector has."""

    @property
    def batch_size(self) -> int: ...


Config = TypeVar("Config", bound=TrainingConfig)


class GradientDetector(ABC, Generic[Config, Net]):
    """A `Detector` but for `score`: a subclass says what network learns, down which loss, and what is measured."""

    name: ClassVar[str]  # of its random streams
    pass_size: ClassVar[int]  # images at a time in the passes that only measure; it bounds memory

    def __init__(
        self, config: Config, steps: int, device: torch.device, importance: ImportanceConfig | None = None
    ) -> None:
        self._config = config
        self._steps = steps
        self._device = device
        self._importance = importance
        self._fitted: Net | None = None
        self._log: FitLog | None = None

    def fit(self, source: Source, seed: int, report: Report = silent) -> Self:
        """Itself after its optimiser steps from seeded weights; raises MemberError if the loss is not finite,
        ConfigError for a network that does not suit the layers."""
        build = partial(self._network_for, source.batch(np.zeros(1, np.int64)))
        network = placed(initialised(build, seed_for(seed, self.name, "weights")), self._device)
        weights = ImportanceWeights(self._importance, self._steps, self._device) if self._importance else None
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            self._measure_before(network, source)
            self._descend(network, source, seed, report, weights)
            self._measure_after(network, source)
            self._log = weights.log(self._final_losses(network, source)) if weights else None
        self._fitted = network
        return self

    def state(self) -> State:
        """The network's weights and what was measured."""
        return snapshot(self._network)

    def load_state(self, state: Mapping[str, torch.Tensor]) -> Self:
        """Itself, as it was when `state` was taken."""
        network = initialised(partial(self._network_of, state), seed=0)
        network.load_state_dict(dict(state))
        self._fitted, self._log = placed(network, self._device), None
        return self

    def log(self) -> FitLog | None:
        """Loss and weights by step, and the weight each training image ends with; None for an unweighted loss."""
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
    def _optimizer(self, network: Net, batch_size: int) -> tuple[Optimizer, LRScheduler]:
        """What takes the steps, and how its learning rate goes."""

    @abstractmethod
    def _losses(self, network: Net, layers: Layers, step: int, noise: torch.Generator) -> torch.Tensor:
        """The loss of each image [B] of a step."""

    @abstractmethod
    def _plain_losses(self, network: Net, layers: Layers) -> torch.Tensor:
        """The loss of each image [B] without what only serves training."""

    def _measure_before(self, network: Net, source: Source) -> None:
        """Learn what the steps need to know of all the images."""

    def _measure_after(self, network: Net, source: Source) -> None:
        """Learn how the trained network does on all the images."""

    def _ready(self, layers: Layers) -> Layers:
        return tuple(layer.to(self._device) for layer in layers)

    def _passes(self, source: Source) -> Iterator[Layers]:
        """All images of the source once, a few at a time."""
        return (self._ready(source.batch(rows)) for rows in row_batches(len(source), self.pass_size))

    @property
    def _network(self) -> Net:
        assert self._fitted is not None, "fit or load_state comes first"
        return self._fitted

    def _descend(
        self, network: Net, source: Source, seed: int, report: Report, weights: ImportanceWeights | None
    ) -> None:
        rng = stream(seed, self.name, "batches")
        noise = torch.Generator(self._device).manual_seed(seed_for(seed, self.name, "dropout"))
        batch_size = min(self._config.batch_size, len(source))
        optimizer, schedule = self._optimizer(network, batch_size)
        for step in range(self._steps):
            rows = rng.choice(len(source), batch_size, replace=False)
            loss_B = self._losses(network, self._ready(source.batch(rows)), step, noise)
            # The score that weighs an image is its loss of this very step: no second pass is needed.
            loss = loss_B.mean() if weights is None else weights.mean(loss_B)
            descend(network, optimizer, loss, self._gradient_norm, step)
            schedule.step()
            report(step + 1, self._steps, "step")

    @torch.no_grad()
    def _final_losses(self, network: Net, source: Source) -> Iterator[torch.Tensor]:
        for layers in self._passes(source):
            yield self._plain_losses(network, layers)


def initialised(build: Callable[[], Net], seed: int) -> Net:
    """A fresh network on the CPU, its weights a function of the seed; torch's global generators are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would also seed every GPU
        return build()


def placed(network: Net, device: torch.device) -> Net:
    """The network on the device, channels last: a third faster on a CPU."""
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def descend(network: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor, norm: float, step: int) -> None:
    """One optimiser step down `loss`, its gradient clipped to `norm`; raises MemberError if the loss is not finite."""
    if not torch.isfinite(loss):
        raise MemberError(f"the loss at step {step} is {loss.item()}; lower detector.learning_rate")
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), norm)
    optimizer.step()


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


def snapshot(network: nn.Module) -> State:
    """Everything the network holds, copied to the CPU (safetensors-ready)."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in network.state_dict().items()}
