"""Frozen timm networks as encoders: the only module that imports timm.

Weights are read from a local file, fetched from the Hugging Face hub, or random when that word is typed; they are
never random because something went wrong (random features: image AUROC 0.53 on magnetic tile, trained ones 0.82).
"""

import difflib
import functools
import importlib.util
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llb_ray.config import BackboneConfig
from llb_ray.detectors.base import Layers, State
from llb_ray.detectors.weights import REMEDY, SETTING, differences, read_weights, without_head
from llb_ray.disk import file_digest
from llb_ray.errors import ConfigError, WeightsError
from llb_ray.seeding import seed_for


@functools.cache  # a second define() raises
def declare_missing_torchvision_ops() -> bool:
    """Let torchvision import beside a CPU-only torch; True when its compiled operators are there.

    The registry's torchvision is a CUDA build; beside torch+cpu its library does not load and the import dies on
    operators without a schema.  Two schemas are enough (tested with torchvision 0.17 to 0.29).
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    try:
        for library in Path(spec.origin).parent.glob("_C*.so"):
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
        return True
    except OSError:
        for op in ("nms", "qnms"):
            torch.library.define(f"torchvision::{op}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return False


declare_missing_torchvision_ops()

import huggingface_hub  # noqa: E402
import timm  # noqa: E402
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # noqa: E402

_HUB_FILE = "model.safetensors"  # what timm publishes for every model it hosts
_PROBE_TIMEOUT_S = 5
_FLOAT16_MAX = torch.finfo(torch.float16).max
Network = Any  # a timm model: an nn.Module with pretrained_cfg, feature_info and forward_intermediates


class Backbone:
    """An `Encoder`: the outputs of some layers of a frozen network, for uint8 RGB images.

    Raises ConfigError for a model name, layer or image size that timm refuses, WeightsError for weights that
    are missing or belong to another architecture.
    """

    def __init__(self, config: BackboneConfig, image_size_px: int, device: torch.device) -> None:
        self.config = config
        self.image_size_px = image_size_px
        self.cache_dtypes = (torch.float16,) * len(config.layers)
        self._fingerprint = fingerprint(config, image_size_px)
        model = _load(config, image_size_px).eval().requires_grad_(False)
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
        assert image_B3HW.shape[1:] == (3, self.image_size_px, self.image_size_px)
        layers = self._forward(image_B3HW.to(self._mean_311.device))
        for index, layer_BCHW in zip(self.config.layers, layers, strict=True):
            self._check_range(index, layer_BCHW)
        return layers

    def _forward(self, image_B3HW: torch.Tensor) -> Layers:
        normal_B3HW = (image_B3HW.float() / 255 - self._mean_311) / self._std_311
        indices = list(self.config.layers)
        precision = getattr(torch, self.config.precision)
        with torch.autocast(normal_B3HW.device.type, precision, enabled=precision is not torch.float32):
            layers = self._model.forward_intermediates(
                normal_B3HW, indices=indices, intermediates_only=True, stop_early=True, output_fmt="NCHW"
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
        size = self.image_size_px
        try:
            layers = self._forward(torch.zeros(1, 3, size, size, device=self._mean_311.device))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise _size_refused(self.config.name, size, error) from error
        return tuple(layer_BCHW.shape[1] for layer_BCHW in layers)


class _Forward(nn.Module):
    """A backbone's forward pass, as the module that its weights belong to."""

    def __init__(self, model: nn.Module, layers: Callable[[torch.Tensor], Layers]) -> None:
        super().__init__()
        self.model = model  # registered: an exporter must find the weights
        self._layers = layers

    def forward(self, image_B3HW: torch.Tensor) -> Layers:
        return self._layers(image_B3HW)


def fingerprint(config: BackboneConfig, image_size_px: int) -> dict[str, Any]:
    """What a backbone's output depends on, JSON-ready; the weights by content (sha256), not by path.

    No network is built: finished features are found without loading the model.  Raises WeightsError.
    """
    path = weights_file(config)
    weights = file_digest(path) if path else f"random, torch {torch.__version__}, timm {timm.__version__}"
    layers = list(config.layers)
    found = {"backbone": config.name, "layers": layers, "image_size_px": image_size_px, "weights": weights}
    return found if config.precision == "float32" else found | {"precision": config.precision}


def weights_file(config: BackboneConfig) -> Path | None:
    """The local file of the weights, fetched if they are on the hub; None if random was asked for."""
    if config.weights == "random":
        return None
    if config.weights == "hub":
        return _hub_file(config.name)
    path = Path(config.weights).expanduser()
    if not path.is_file():
        raise WeightsError(f"{SETTING} = {path}: no such file; {REMEDY}")
    return path


def _hub_file(name: str) -> Path:
    """The file timm publishes for `name`: from the local cache, else downloaded."""
    return hub_cache(name) or _download(name, _repository(name))


def hub_cache(name: str) -> Path | None:
    """The file timm publishes for `name` where it was downloaded before, else None; raises as `_repository` does."""
    cached = huggingface_hub.try_to_load_from_cache(_repository(name), _HUB_FILE)
    return Path(cached) if isinstance(cached, str) else None


def _repository(name: str) -> str:
    """Where on the hub the weights are; raises ConfigError for an unknown name, WeightsError where there are none."""
    _check_name(name)
    published = timm.models.get_pretrained_cfg(name)
    if published is None or not published.hf_hub_id:
        raise WeightsError(f"{SETTING} = hub: timm publishes no weights for {name}; {REMEDY}")
    repository: str = published.hf_hub_id
    return repository


def _download(name: str, repository: str) -> Path:
    try:
        # Asked once first: without a network the hub's client retries for 46 s before it gives up (version 2.4).
        address = huggingface_hub.hf_hub_url(repository, _HUB_FILE)
        request = urllib.request.Request(address, method="HEAD")
        urllib.request.urlopen(request, timeout=_PROBE_TIMEOUT_S).close()
        return Path(huggingface_hub.hf_hub_download(repository, _HUB_FILE))
    except (OSError, HTTPError) as error:
        raise WeightsError(
            f"{SETTING} = hub: the weights of {name} could not be fetched ({' '.join(str(error).split())}); {REMEDY}"
        ) from error


def is_known(name: str) -> bool:
    """Whether timm has a network of this name."""
    return name in _known()


def num_layers(name: str, image_size_px: int) -> int:
    """How many layers `detector.backbone.layers` can choose from; raises ConfigError for a size that is refused."""
    return len(_create(name, image_size_px).feature_info)


def _known() -> set[str]:
    return {*timm.list_models(), *timm.list_models(pretrained=True)}


def _check_name(name: str) -> None:
    if not is_known(name):
        nearest = difflib.get_close_matches(name, sorted(_known()), n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else "timm.list_models() names all"
        raise ConfigError(f"detector.backbone.name = {name}: timm {timm.__version__} has no such model; {hint}")


def _load(config: BackboneConfig, image_size_px: int) -> Network:
    """The network with its weights, on the CPU."""
    _check_name(config.name)
    path = weights_file(config)
    model = _create(config.name, image_size_px)
    _check_layers(config, model)
    _check_patches(config.name, image_size_px, model)
    return _with_weights(model, config.name, image_size_px, path) if path else model


def _create(name: str, image_size_px: int) -> Network:
    """The network with random weights, the same every time; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(0, "backbone", name))
        try:
            return timm.create_model(name, num_classes=0, img_size=_fixed_size(name, image_size_px))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise _size_refused(name, image_size_px, error) from error


def _fixed_size(name: str, image_size_px: int) -> int | None:
    """The size, for networks built for one (transformers); None for the others, which do not take the argument."""
    published = timm.models.get_pretrained_cfg(name)
    return image_size_px if published is not None and published.fixed_input_size else None


def _check_patches(name: str, image_size_px: int, model: Network) -> None:
    """Some transformers would silently never look at the right and lower edge of the image."""
    patch_px = getattr(getattr(model, "patch_embed", None), "patch_size", (1,))[0]
    if image_size_px % patch_px:
        raise _size_refused(name, image_size_px, f"it is not a multiple of the patch size, {patch_px}")


def _size_refused(name: str, image_size_px: int, reason: object) -> ConfigError:
    said = " ".join(str(reason).split())
    return ConfigError(f"detector.image_size_px = {image_size_px}: {name} does not take it ({said}); choose another")


def _check_layers(config: BackboneConfig, model: Network) -> None:
    if not hasattr(model, "forward_intermediates"):
        raise ConfigError(f"detector.backbone.name = {config.name}: timm gives no intermediate layers; choose another")
    layers, count = list(config.layers), len(model.feature_info)
    if not layers or layers != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= count:
        raise ConfigError(
            f"detector.backbone.layers = {layers}: {config.name} has layers 0 to {count - 1}; "
            "name at least one, each once, in ascending order"
        )


def _with_weights(model: Network, name: str, image_size_px: int, path: Path) -> Network:
    """`model`, or its like, with every parameter read from `path`."""
    state = without_head(read_weights(path), model.pretrained_cfg.get("classifier") or ())
    unlike = differences(model.state_dict(), state)
    if not unlike:
        model.load_state_dict(state, strict=True)
        return model
    try:
        return _converted(name, image_size_px, state)
    except RuntimeError as error:
        raise WeightsError(
            f"{SETTING} = {path}: these are not the weights of {name}: {', '.join(unlike)}; "
            "give the file of that model or change detector.backbone.name"
        ) from error


def _converted(name: str, image_size_px: int, state: State) -> Network:
    """The network with weights that timm renames or resizes first: original DINOv2 files, another image size."""
    # `num_classes` equal on both sides keeps timm's own load strict; it would skip missing keys otherwise.
    source = {"state_dict": state, "num_classes": 0, "label_offset": 0}
    size = _fixed_size(name, image_size_px)
    model: Network = timm.create_model(name, True, num_classes=0, img_size=size, pretrained_cfg_overlay=source)
    del model.pretrained_cfg["state_dict"]  # a second copy of every weight
    return model


def _normalisation(model: Network) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation, [3, 1, 1] each, that the network was trained with (for pixels in 0..1)."""
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    return mean, std
