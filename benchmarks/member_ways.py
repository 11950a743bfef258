"""Ways of training several sub-models on one device, for members_together.py: alone, stacked under vmap, grouped.

Shapes: K members, B images a batch, C channels, H x W cells, G groups of layers.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from llb_ray.config import load
from llb_ray.detectors.base import Layers, top_mean
from llb_ray.detectors.data_parallel import ALONE, Turn
from llb_ray.detectors.reconstruction import TOP_SHARE, Network
from llb_ray.detectors.reconstruction_config import ReconstructionConfig
from llb_ray.detectors.train_step import Descent, initialise, move_to_device

CONFIGS = Path(__file__).parent.parent / "configs"
SCORED = 32  # images in a batch that is scored: the default of resources.batch_size
Step = Callable[[], torch.Tensor]  # one optimiser step; the members' losses [K] before it
State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A decoder, the layers that it redraws, and how many steps or batches make a turn."""

    config: str
    shapes: Sequence[tuple[int, int, int]]
    repeats: int

    @property
    def detector(self) -> ReconstructionConfig:
        detector = load(CONFIGS / self.config).detector
        assert isinstance(detector, ReconstructionConfig)
        return detector

    def layers(self, seed: int, num_images: int, device: torch.device) -> Layers:
        """Random features of as many images, the same for the same seed."""
        noise = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(num_images, *shape, generator=noise).to(device) for shape in self.shapes)


CASES = {
    "CNN": Case("reconstruction_cnn.yaml", ((32, 28, 28), (96, 14, 14)), repeats=10),  # MobileNetV2 at 224 px
    "small ViT": Case("dinomaly.yaml", ((192, 8, 8),) * 8, repeats=2),  # a ViT-Tiny with 64 patches
    "ViT-B": Case("dinomaly.yaml", ((768, 28, 28),) * 8, repeats=10),  # as published: for a GPU
}


class Member(nn.Module):
    """A network whose loss and whose scores are both calls, as `functional_call` wants them."""

    def __init__(self, case: Case, seed: int) -> None:
        super().__init__()
        self.network = initialise(partial(Network, case.detector, case.shapes), seed)

    def forward(self, layers: Layers, scoring: bool) -> torch.Tensor:
        """Scores [B], or the mean of the losses."""
        if scoring:
            return top_mean(self.network.abnormality(layers), TOP_SHARE)
        return self.network.loss(layers, None, 0).mean()


class Alone:
    """One member after the other, as shipped: never more than one in training."""

    def __init__(self, case: Case, members: Sequence[int], device: torch.device) -> None:
        self._case, self._members, self._device = case, members, device

    def steps(self) -> Iterator[Step]:
        yield from map(self._step, self._members)

    def scorer(self) -> Step:
        networks = [move_to_device(Member(self._case, member), self._device) for member in self._members]
        layers = self._case.layers(0, SCORED, self._device)
        return lambda: torch.stack([network(layers, scoring=True) for network in networks])

    def _step(self, member: int) -> Step:
        config = self._case.detector
        network = move_to_device(Member(self._case, member), self._device)
        layers = self._case.layers(member, config.batch_size, self._device)
        descent = Descent(network, _adam(network.parameters(), config), weights=None)
        turn = Turn(ALONE, 1, torch.Generator(self._device))

        def step() -> torch.Tensor:
            loss = network(layers, scoring=False)
            descent.step(loss[None], turn, rate_share=1, norm=config.gradient_norm)
            return loss.detach()[None]

        return step


class Stacked:
    """All members as one set of parameters [K, ...], called through vmap."""

    def __init__(self, case: Case, members: Sequence[int], device: torch.device) -> None:
        networks = [Member(case, member).to(device) for member in members]
        self._case, self._members, self._device = case, members, device
        self._parameters, self._buffers = stack_module_state(networks)
        self._base = copy.deepcopy(networks[0]).to("meta")
        for module in self._base.modules():
            if isinstance(module, nn.GroupNorm):
                # Under vmap it refuses channels last (torch 2.13), which is what the decoder hands it.
                module.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))

    def steps(self) -> Iterator[Step]:
        config = self._case.detector
        batches = [self._case.layers(member, config.batch_size, self._device) for member in self._members]
        layers = tuple(self._joined(level) for level in zip(*batches, strict=True))
        learnt = [parameter for parameter in self._parameters.values() if parameter.requires_grad]
        optimizer = _adam(learnt, config)

        def step() -> torch.Tensor:
            loss_K = self._losses(layers)
            optimizer.zero_grad()
            loss_K.sum().backward()
            _clip_each(learnt, config.gradient_norm)
            optimizer.step()
            return loss_K.detach()

        yield step

    def scorer(self) -> Step:
        layers = self._case.layers(0, SCORED, self._device)
        return lambda: self._scores(layers)

    def _joined(self, batches: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack(batches)

    def _losses(self, layers: Layers) -> torch.Tensor:
        return vmap(partial(self._call, scoring=False))(self._parameters, self._buffers, layers)

    def _scores(self, layers: Layers) -> torch.Tensor:
        return vmap(partial(self._call, scoring=True), in_dims=(0, 0, None))(self._parameters, self._buffers, layers)

    def _call(self, parameters: State, buffers: State, layers: Layers, scoring: bool) -> torch.Tensor:
        called: torch.Tensor = functional_call(self._base, (parameters, buffers), (layers, scoring))
        return called


class Grouped(Stacked):
    """The pyramid decoder once more, by hand: the members side by side in the channels of grouped convolutions."""

    def _joined(self, batches: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat(tuple(batches), dim=1).contiguous(memory_format=torch.channels_last)

    def _losses(self, layers: Layers) -> torch.Tensor:
        near = [functional.cosine_similarity(a.flatten(2), b.flatten(2), dim=2) for a, b in self._pairs(layers)]
        return 1 - torch.stack(near).mean(dim=(0, 1))

    def _scores(self, layers: Layers) -> torch.Tensor:
        size = layers[0].shape[-2:]
        pairs = self._pairs([self._joined([layer] * len(self._members)) for layer in layers])
        maps = [1 - functional.cosine_similarity(a, b, dim=2) for a, b in pairs]
        large = [functional.interpolate(one, size, mode="bilinear", align_corners=False) for one in maps]
        map_BKHW = torch.stack(large).mean(dim=0)
        return top_mean(map_BKHW.flatten(0, 1), TOP_SHARE).unflatten(0, map_BKHW.shape[:2]).transpose(0, 1)

    def _pairs(self, layers: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """What is to be redrawn and what is made of it, [B, K, C, H, W] each, layer by layer."""
        config = self._case.detector
        side = {"kernel_size": config.neighbourhood, "stride": 1, "padding": config.neighbourhood // 2}
        targets = [functional.avg_pool2d(layer, **side, count_include_pad=False) for layer in layers]
        squeezed = [self._apart(functional.adaptive_avg_pool2d(one, targets[-1].shape[-2:])) for one in targets]
        picture = self._conv("bottleneck.widen", torch.cat(squeezed, dim=2).flatten(1, 2))
        picture = self._conv("bottleneck.narrow", functional.gelu(picture))
        for index in range(config.decoder_depth):
            picture = self._block(f"stem.{index}", picture)
        pairs = []
        for index, target in reversed(list(enumerate(targets))):
            larger = functional.interpolate(picture, target.shape[-2:], mode="nearest")
            picture = self._block(f"blocks.{index}", larger)
            pairs.append((self._apart(target), self._apart(self._conv(f"heads.{index}", picture))))
        return pairs[::-1]

    def _block(self, name: str, picture: torch.Tensor) -> torch.Tensor:
        weight, bias = self._named(f"{name}.change.0")
        normed = functional.group_norm(picture, len(self._members), weight.flatten(), bias)
        hidden = functional.gelu(self._conv(f"{name}.change.1", normed))
        return picture + self._conv(f"{name}.change.3", hidden)

    def _conv(self, name: str, picture: torch.Tensor) -> torch.Tensor:
        weight, bias = self._named(name)
        kernel = weight.flatten(0, 1).reshape(-1, *weight.shape[2:], *(1,) * (5 - weight.dim()))
        return functional.conv2d(picture, kernel, bias, padding=kernel.shape[-1] // 2, groups=len(self._members))

    def _named(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        path = f"network.decoder.{name}"
        return self._parameters[f"{path}.weight"], self._parameters[f"{path}.bias"].flatten()

    def _apart(self, picture: torch.Tensor) -> torch.Tensor:
        return picture.unflatten(1, (len(self._members), -1))


def _adam(parameters: Iterable[torch.Tensor], config: ReconstructionConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay)


def _clip_each(stacked: Sequence[torch.Tensor], norm: float) -> None:
    """As `nn.utils.clip_grad_norm_`, member by member."""
    gradients = [parameter.grad for parameter in stacked if parameter.grad is not None]
    total_K = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    share_K = (norm / (total_K + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(share_K.view(-1, *(1,) * (gradient.dim() - 1)))
