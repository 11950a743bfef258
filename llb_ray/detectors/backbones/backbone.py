"""A frozen timm network as an encoder."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from llb_ray.config import BackboneConfig, Size, sides
from llb_ray.detectors.backbones.folding import fold_batch_norms
from llb_ray.detectors.backbones.network import context_layers, layers_of, load_network, size_refused
from llb_ray.detectors.backbones.timm_import import Network, timm
from llb_ray.detectors.backbones.weight_sources import weights_file
from llb_ray.detectors.base import Layers
from llb_ray.disk import file_digest
from llb_ray.errors import ConfigError

_FLOAT16_MAX = torch.finfo(torch.float16).max


class Backbone:
    """An `Encoder`: the outputs of some layers of a frozen network, for uint8 RGB images.

    `with_context` adds a deeper layer after them where the network has one (`network.context_layers`).

    Raises ConfigError for a model name, layer or image size that timm refuses, WeightsError for weights that
    are missing or belong to another architecture.
    """

    def __init__(
        self, config: BackboneConfig, image_size_px: int | Size, device: torch.device, with_context: bool = False
    ) -> None:
        self.config = config
        self.image_size_px = image_size_px
        self._layers = _layers(config, image_size_px, with_context)
        self.cache_dtypes = (torch.float16,) * len(self._layers)
        self._fingerprint = fingerprint(config, image_size_px, with_context)
        model = fold_batch_norms(load_network(config, image_size_px).eval().requires_grad_(False), image_size_px)
        self._model = model.to(device, memory_format=torch.channels_last)  # images come that way: no copy
        self._mean_311, self._std_311 = (scale.to(device) for scale in _normalisation(self._model))
        self.layer_channels = self._trial_run()

    def fingerprint(self) -> Mapping[str, Any]:
        return self._fingerprint

    def network(self) -> nn.Module:
        """uint8 images [B, 3, H, W] to layers, unchecked, as one module that can be exported."""
        return _Forward(self._model, self._forward)

    @torch.inference_mode()
    def encode(self, image_B3HW: torch.Tensor) -> Layers:
        """One float32 BCHW tensor per configured layer, on the backbone's device; no class or register tokens.

        Raises ConfigError where an activation does not fit the float16 that layers are cached in.
        """
        assert image_B3HW.dtype == torch.uint8
        assert image_B3HW.shape[1:] == (3, *sides(self.image_size_px))
        layers = self._forward(image_B3HW.to(self._mean_311.device))
        for index, layer_BCHW in zip(self._layers, layers, strict=True):
            self._check_range(index, layer_BCHW)
        return layers

    def _forward(self, image_B3HW: torch.Tensor) -> Layers:
        normal_B3HW = (image_B3HW.float() / 255 - self._mean_311) / self._std_311
        precision = getattr(torch, self.config.precision)
        with torch.autocast(normal_B3HW.device.type, precision, enabled=precision is not torch.float32):
            layers = self._model.forward_intermediates(
                normal_B3HW, indices=list(self._layers), intermediates_only=True, stop_early=True, output_fmt="NCHW"
            )
        return tuple(layer.float() for layer in layers)

    def _check_range(self, index: int, layer_BCHW: torch.Tensor) -> None:
        largest = layer_BCHW.abs().amax()
        if not largest <= _FLOAT16_MAX:  # also true of NaN
            raise ConfigError(
                f"detector.backbone.layers: layer {index} of {self.config.name} reaches {largest.item():.3g}, beyond "
                f"the float16 range ({_FLOAT16_MAX:g}) features are cached in; choose other layers or check the weights"
            )

    @torch.inference_mode()
    def _trial_run(self) -> tuple[int, ...]:
        """Channels of each layer; one black image shows here, not hours later, what the network refuses."""
        size_px = self.image_size_px
        try:
            layers = self._forward(torch.zeros(1, 3, *sides(size_px), device=self._mean_311.device))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise size_refused(self.config.name, size_px, error) from error
        return tuple(layer_BCHW.shape[1] for layer_BCHW in layers)


class _Forward(nn.Module):
    """A backbone's forward pass, as the module that its weights belong to."""

    def __init__(self, model: nn.Module, layers: Callable[[torch.Tensor], Layers]) -> None:
        super().__init__()
        self.model = model  # registered: an exporter must find the weights
        self._layers = layers

    def forward(self, image_B3HW: torch.Tensor) -> Layers:
        return self._layers(image_B3HW)


def fingerprint(config: BackboneConfig, image_size_px: int | Size, with_context: bool = False) -> dict[str, Any]:
    """Everything a backbone's output depends on, JSON-ready; the weights by content (sha256), not by path.

    No weights are loaded: finished features are found without.  Raises ConfigError and WeightsError.
    """
    path = weights_file(config)
    weights = file_digest(path) if path else f"random, torch {torch.__version__}, timm {timm.__version__}"
    layers = list(_layers(config, image_size_px, with_context))
    found = {"backbone": config.name, "layers": layers, "image_size_px": image_size_px, "weights": weights}
    found["batch_norm"] = "folded"  # it moves last bits
    return found if config.precision == "float32" else found | {"precision": config.precision}


def _layers(config: BackboneConfig, image_size_px: int | Size, with_context: bool) -> tuple[int, ...]:
    return layers_of(config, image_size_px) + (context_layers(config, image_size_px) if with_context else ())


def _normalisation(model: Network) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation, [3, 1, 1] each, that the network was trained with (for pixels in 0..1)."""
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    return mean, std
