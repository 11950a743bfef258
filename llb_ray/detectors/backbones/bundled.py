"""The weights in installed packages, by the names of timm; the packages have those of EfficientNet-PyTorch."""

import re

import torch

from llb_ray.detectors.backbones.timm_import import Network, check_name
from llb_ray.detectors.base import State
from llb_ray.detectors.weight_packages import PACKAGES, REMEDY, SETTING, WeightsPackage
from llb_ray.errors import ConfigError


def weights_package(name: str) -> WeightsPackage:
    """The package with the weights of a timm network; raises ConfigError where there is none."""
    check_name(name)
    if name not in PACKAGES:
        raise ConfigError(
            f"{SETTING} = bundled: there is no package with the weights of {name}, only of {', '.join(PACKAGES)}; "
            f"choose one of these as detector.backbone.name, or {REMEDY}"
        )
    return PACKAGES[name]


def load_package(package: WeightsPackage) -> State:
    """The tensors of a package by their names in the file, on the CPU; raises WeightsError as `find` does."""
    # torch's older file format, which `read_weights` refuses from strangers: here every byte is known.
    content: State = torch.load(package.find(), map_location="cpu", weights_only=True)
    return content


def rename_to_timm(state: State, model: Network) -> State:
    """`state` by the names of `model`, a timm EfficientNet, where it is in those of EfficientNet-PyTorch."""
    places = [f"blocks.{i}.{j}" for i, stage in enumerate(model.blocks) for j in range(len(stage))]
    expanded = {name.split(".")[1] for name in state if "._expand_conv." in name}
    return {_timm_name(name, places, expanded): tensor for name, tensor in state.items()}


_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_WITHOUT_EXPANSION = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_WITH_EXPANSION = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _timm_name(name: str, places: list[str], expanded: set[str]) -> str:
    """A name without a counterpart stays as it is, for the strict load to refuse."""
    if inside := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
        number, module, tensor = inside.groups()
        modules = _WITH_EXPANSION if number in expanded else _WITHOUT_EXPANSION
        place = places[int(number)] if int(number) < len(places) else None
        return f"{place}.{modules[module]}.{tensor}" if place and module in modules else name
    module, _, tensor = name.partition(".")
    return f"{_OUTSIDE.get(module, module)}.{tensor}"
