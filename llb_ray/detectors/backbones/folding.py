"""Batch norms of a frozen network folded into the convolutions before them: the same function in half the time."""

import copy
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from llb_ray.config import Size, sides
from llb_ray.detectors.backbones.timm_import import Network

_TOLERANCE = 1e-3  # of a layer's largest value; rounding stays a hundred times below


def fold_batch_norms(model: Network, image_size_px: int | Size) -> Network:
    """A copy of `model`, which is in evaluation mode, with batch norms folded; `model` where that changes its layers.

    Where a norm reads a convolution's output is seen as an image passes.  That nothing else reads this output is not
    seen: so the layers of both networks are compared.
    """
    noise = torch.Generator().manual_seed(0)
    image_13HW = torch.randn(1, 3, *sides(image_size_px), generator=noise)
    folded = copy.deepcopy(model)
    with torch.inference_mode():
        pairs = list(_pairs(folded, image_13HW))
    for convolution, norm in pairs:
        _fold(folded, convolution, norm)
    return folded if _alike(model, folded, image_13HW) else model


def _pairs(model: Network, image_13HW: torch.Tensor) -> Iterator[tuple[str, str]]:
    """Names of convolutions, and of the batch norms beside them that read their output."""
    made: dict[int, tuple[str, torch.Tensor]] = {}  # by identity; the tensors are held, or others would get it
    found: dict[str, str] = {}

    def note(name: str, output: torch.Tensor) -> None:
        made[id(output)] = (name, output)

    def match(name: str, tensor: torch.Tensor) -> None:
        convolution, _ = made.get(id(tensor), ("", None))
        if convolution and convolution.rpartition(".")[0] == name.rpartition(".")[0]:
            found[convolution] = name

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(lambda _, __, output, name=name: note(name, output)))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(lambda _, inputs, name=name: match(name, inputs[0])))
    model.forward_features(image_13HW)
    for handle in handles:
        handle.remove()
    yield from found.items()


def _fold(model: Network, convolution: str, norm: str) -> None:
    conv, bn = model.get_submodule(convolution), model.get_submodule(norm)
    statistics = (bn.running_mean, bn.running_var, bn.eps)
    conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, bn.weight, bn.bias)
    parent, _, name = norm.rpartition(".")
    # timm's norms do the activation as well.
    setattr(model.get_submodule(parent), name, getattr(bn, "act", nn.Identity()))


@torch.inference_mode()
def _alike(model: Network, folded: Network, image_13HW: torch.Tensor) -> bool:
    """True if the layers of both are the same but for rounding."""
    layers = zip(
        *(one.forward_intermediates(image_13HW, intermediates_only=True) for one in (model, folded)), strict=True
    )
    return all(bool((one - other).abs().max() <= _TOLERANCE * one.abs().max()) for one, other in layers)
