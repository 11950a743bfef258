"""Optimiser loop state: seeded weights, guarded steps, and everything that is needed to resume."""

import math
import threading
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from llb_ray.detectors.base import FitLog, State
from llb_ray.detectors.data_parallel import Turn
from llb_ray.detectors.importance import ImportanceWeights
from llb_ray.errors import MemberError

Net = TypeVar("Net", bound=nn.Module)
_GLOBAL_GENERATOR = threading.Lock()  # runs may be threads of one process


class Descent(Generic[Net]):
    """A network, its optimiser and the weights of its loss, `num_done` steps after the start."""

    def __init__(self, network: Net, optimizer: Optimizer, weights: ImportanceWeights | None) -> None:
        self.network = network
        self.optimizer = optimizer
        self.weights = weights
        self.num_done = 0
        self._loss_S: list[float] = []  # the plain mean over the batch, by step
        self.figures: dict[str, float] = {}  # of the last step, for progress displays

    def step(self, loss_B: torch.Tensor, turn: Turn, rate_share: float, norm: float) -> None:
        """One step down the (weighted) mean of the batch's losses, given those of this worker's rows, its gradient cut
        to `norm`, at a share of the optimiser's learning rate; raises MemberError if the mean is not finite."""
        weight_B = self._weights(turn.all_gather(loss_B))[turn.rows]
        self.optimizer.zero_grad()
        ((weight_B * loss_B).sum() / turn.batch_size).backward()  # type: ignore[no-untyped-call]
        turn.peers.all_reduce([one.grad for one in self.network.parameters() if one.grad is not None])
        nn.utils.clip_grad_norm_(self.network.parameters(), norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate_share * self.optimizer.defaults["lr"]
        self.optimizer.step()
        self.num_done += 1

    def _weights(self, whole_B: torch.Tensor) -> torch.Tensor:
        """Weight of each loss of the whole batch [B], of mean one."""
        loss = whole_B.mean().item()
        self.figures = {"loss": loss}
        if not math.isfinite(loss):
            raise MemberError(f"the loss at step {self.num_done} is {loss}; lower detector.learning_rate")
        self._loss_S.append(loss)
        if self.weights is None:
            return torch.ones_like(whole_B)
        # The score that weighs an image is its loss of this very step: no second pass is needed.
        weight_B = self.weights.weigh(whole_B.cpu().numpy())
        self.figures["effective_sample_size"] = self.weights.ess
        return torch.from_numpy(weight_B).to(whole_B)

    def log(self) -> FitLog:
        """Every step's loss, as of a plain mean; nothing of single images."""
        steps = {"step": np.arange(self.num_done, dtype=np.int32), "loss": np.array(self._loss_S, np.float32)}
        return FitLog(steps, {})

    def state(self) -> State:
        """Everything that the steps to come and the log depend on, copied to the CPU."""
        parts = {
            "network": snapshot(self.network),
            "optimizer": _slots(self.optimizer),
            "importance": self.weights.state() if self.weights else {},
        }
        named = {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
        return named | {"num_done": torch.tensor(self.num_done), "loss_S": torch.tensor(self._loss_S)}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Be where the fit was when `state` was taken; the next steps are bit-equal to those it would have made."""
        self.network.load_state_dict(_part(state, "network"))
        _load_slots(self.optimizer, _part(state, "optimizer"))
        if self.weights:
            self.weights.load_state(_part(state, "importance"))
        self.num_done = int(state["num_done"])
        self._loss_S = state["loss_S"].tolist()


def initialise(build: Callable[[], Net], seed: int) -> Net:
    """A fresh network on the CPU, its weights a function of the seed; torch's global generators are left alone."""
    with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would also seed every GPU
        return build()


def move_to_device(network: Net, device: torch.device) -> Net:
    """The network on the device, channels last: a third faster on a CPU."""
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def snapshot(network: nn.Module) -> State:
    """Everything the network holds, copied to the CPU (safetensors-ready)."""
    return {name: _copied(tensor) for name, tensor in network.state_dict().items()}


def cosine_share(step: int, steps: int, warmup_steps: int, last: float) -> float:
    """Share of the learning rate at a step: a linear warm-up to one, then a cosine down to `last`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2


def _slots(optimizer: Optimizer) -> State:
    """The optimiser's state of each parameter, by the parameter's number and the slot's name."""
    slots = optimizer.state_dict()["state"]
    return {f"{index}.{name}": _copied(tensor) for index, slot in slots.items() for name, tensor in slot.items()}


def _load_slots(optimizer: Optimizer, state: State) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots: dict[int, State] = {}
    for key, tensor in state.items():
        index, _, name = key.partition(".")
        slots.setdefault(int(index), {})[name] = _laid_out(tensor, parameters[int(index)])
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_out(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """The tensor in the memory order of its parameter: in another, the same step would be slower."""
    return torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _part(state: Mapping[str, torch.Tensor], part: str) -> State:
    return {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}
