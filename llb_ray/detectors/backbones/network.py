"""Networks as timm makes them, with the weights of a file in them; what they refuse is one sentence."""

import functools
from pathlib import Path

import torch

from llb_ray.config import BackboneConfig, Size, dump_size, sides
from llb_ray.detectors.backbones.bundled import load_package, rename_to_timm, weights_package
from llb_ray.detectors.backbones.timm_import import Network, check_name, timm
from llb_ray.detectors.backbones.weight_sources import weights_file
from llb_ray.detectors.base import State
from llb_ray.detectors.weight_files import differences, read_weights, without_head
from llb_ray.detectors.weight_packages import SETTING
from llb_ray.errors import ConfigError, WeightsError
from llb_ray.seeding import seed_for

_CONTEXT_STRIDE = 32  # a cell sees most of an image of 224 px


def load_network(config: BackboneConfig, image_size_px: int | Size) -> Network:
    """The network with its weights, on the CPU."""
    check_name(config.name)
    path = weights_file(config)
    model = _create(config.name, image_size_px)
    _check_layers(config.name, layers_of(config, image_size_px), model)
    _check_patches(config.name, image_size_px, model)
    if path is None:
        return model
    if config.weights == "bundled":
        state = rename_to_timm(load_package(weights_package(config.name)), model)
    else:
        state = read_weights(path, model.state_dict())
    return _with_weights(model, config.name, image_size_px, path, state)


def layers_of(config: BackboneConfig, image_size_px: int | Size) -> tuple[int, ...]:
    """The configured layers, or those chosen by rule; raises ConfigError for an unknown name or a size refused."""
    return _usual_layers(config.name, image_size_px) if config.layers is None else config.layers


def context_layers(config: BackboneConfig, image_size_px: int | Size) -> tuple[int, ...]:
    """The last layer of stride 32 where it is deeper than the configured ones, else none (a ViT has no such layer)."""
    deep = [at for at, stride in enumerate(_strides(config.name, image_size_px)) if stride == _CONTEXT_STRIDE]
    return tuple(at for at in deep[-1:] if at > layers_of(config, image_size_px)[-1])


def _usual_layers(name: str, image_size_px: int | Size) -> tuple[int, ...]:
    """Layers of stride 8 and 16, else halfway and three quarters deep: the last ones know objects, no defects."""
    strides = _strides(name, image_size_px)
    if {8, 16} <= set(strides):
        return tuple(max(at for at, stride in enumerate(strides) if stride == wanted) for wanted in (8, 16))
    return len(strides) // 2, 3 * len(strides) // 4


@functools.cache  # the network is built for it
def _strides(name: str, image_size_px: int | Size) -> tuple[int, ...]:
    check_name(name)
    return tuple(info["reduction"] for info in getattr(_create(name, image_size_px), "feature_info", ()))


def size_refused(name: str, image_size_px: int | Size, reason: object) -> ConfigError:
    """Error to raise where a network takes no images of this size."""
    said = " ".join(str(reason).split())
    return ConfigError(
        f"detector.image_size_px = {dump_size(image_size_px)}: {name} does not take it ({said}); choose another"
    )


def _create(name: str, image_size_px: int | Size) -> Network:
    """The network with random weights, the same every time; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(0, "backbone", name))
        try:
            return timm.create_model(name, num_classes=0, img_size=_fixed_size(name, image_size_px))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise size_refused(name, image_size_px, error) from error


def _fixed_size(name: str, image_size_px: int | Size) -> int | Size | None:
    """The size, for networks built for one (transformers); None for the others, which do not take the argument."""
    published = timm.models.get_pretrained_cfg(name)
    return image_size_px if published is not None and published.fixed_input_size else None


def _check_patches(name: str, image_size_px: int | Size, model: Network) -> None:
    """Some transformers would silently never look at the right and lower edge of the image."""
    patch_px = getattr(getattr(model, "patch_embed", None), "patch_size", (1,))[0]
    if any(side % patch_px for side in sides(image_size_px)):
        raise size_refused(name, image_size_px, f"it is not a multiple of the patch size, {patch_px}")


def _check_layers(name: str, layers: tuple[int, ...], model: Network) -> None:
    if not hasattr(model, "forward_intermediates"):
        raise ConfigError(f"detector.backbone.name = {name}: timm gives no intermediate layers; choose another")
    count = len(model.feature_info)
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= count:
        raise ConfigError(
            f"detector.backbone.layers = {list(layers)}: {name} has layers 0 to {count - 1}; "
            "name at least one, each once, in ascending order"
        )


def _with_weights(model: Network, name: str, image_size_px: int | Size, path: Path, state: State) -> Network:
    """`model`, or its like, with every parameter taken from `state`, which is of the file `path`."""
    state = without_head(state, model.pretrained_cfg.get("classifier") or ())
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


def _converted(name: str, image_size_px: int | Size, state: State) -> Network:
    """The network with weights that timm renames or resizes first: original DINOv2 files, another image size."""
    # `num_classes` equal on both sides keeps timm's own load strict; it would skip missing keys otherwise.
    source = {"state_dict": state, "num_classes": 0, "label_offset": 0}
    size = _fixed_size(name, image_size_px)
    model: Network = timm.create_model(name, True, num_classes=0, img_size=size, pretrained_cfg_overlay=source)
    del model.pretrained_cfg["state_dict"]  # a second copy of every weight
    return model
