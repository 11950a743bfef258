"""Backbones: weights are what was asked for or an error, and an image's layers do not depend on its company."""

import argparse
import copy
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from llb_ray.config import BackboneConfig
from llb_ray.detectors.backbones import Backbone, fingerprint, timm_import
from llb_ray.detectors.backbones.folding import fold_batch_norms
from llb_ray.detectors.backbones.network import load_network
from llb_ray.detectors.backbones.timm_import import declare_missing_torchvision_ops
from llb_ray.errors import ConfigError, WeightsError

CPU = torch.device("cpu")
CNN, VIT = "mobilenetv2_035", "test_vit.r160_in1k"


def backbone(name: str = CNN, weights: str = "random", layers: tuple[int, ...] = (2, 3), size_px: int = 64) -> Backbone:
    return Backbone(BackboneConfig(name=name, weights=weights, layers=layers), size_px, CPU)


def images(count: int = 3, size_px: int = 64) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, 3, size_px, size_px), dtype=np.uint8))


def trained(name: str = CNN, **options: Any) -> dict[str, torch.Tensor]:
    """Weights unlike those of `random`."""
    torch.manual_seed(7)
    return timm_import.timm.create_model(name, **options).state_dict()


@pytest.fixture
def weights_path(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(trained(num_classes=0), path)
    return path


def test_the_remedy_may_be_applied_again_and_torchvision_imports() -> None:
    assert declare_missing_torchvision_ops() == declare_missing_torchvision_ops()
    import torchvision  # noqa: F401


def test_a_convolutional_network_gives_one_map_per_layer() -> None:
    model = backbone()
    shallow, deep = model.encode(images())
    assert shallow.shape == (3, model.layer_channels[0], 8, 8)
    assert deep.shape == (3, model.layer_channels[1], 4, 4)
    assert shallow.dtype == torch.float32
    assert model.cache_dtypes == (torch.float16, torch.float16)


def test_a_transformer_gives_maps_without_its_class_token() -> None:
    layers = backbone(VIT, layers=(1, 4)).encode(images())
    assert [tuple(layer.shape) for layer in layers] == [(3, 64, 4, 4)] * 2


@pytest.mark.parametrize("name", [CNN, VIT])
def test_an_image_has_the_same_layers_in_any_batch(name: str) -> None:
    model, image_B3HW = backbone(name), images()
    together, alone = model.encode(image_B3HW), model.encode(image_B3HW[1:2])
    for batch_BCHW, single_BCHW in zip(together, alone, strict=True):
        assert torch.allclose(batch_BCHW[1:2], single_BCHW, atol=1e-4)


def test_random_weights_are_the_same_each_time_and_leave_the_global_stream_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, again = backbone(), backbone()
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.encode(images())[0], again.encode(images())[0])
    assert first.fingerprint() == again.fingerprint()


def test_pixels_are_normalised_as_the_network_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    model = backbone(VIT)
    seen: list[torch.Tensor] = []

    def forward(image_B3HW: torch.Tensor, **_: Any) -> list[torch.Tensor]:
        seen.append(image_B3HW)
        return [image_B3HW, image_B3HW]

    monkeypatch.setattr(model._model, "forward_intermediates", forward)
    model.encode(torch.full((1, 3, 64, 64), 255, dtype=torch.uint8))
    assert torch.equal(seen[0], torch.ones(1, 3, 64, 64))  # mean 0.5, deviation 0.5


def _num_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "left"),
    [(CNN, 0), ("tf_efficientnet_lite0", 0), ("resnet18", 0), ("resnetv2_18d", 9), ("densenet121", 62), (VIT, 0)],
)
def test_batch_norms_are_folded_and_the_layers_stay(name: str, left: int) -> None:
    """Those that read no convolution alone are left; VIT has none."""
    plain = load_network(BackboneConfig(name=name, weights="random"), 64).eval().requires_grad_(False)
    _unlike_new(plain)
    before = copy.deepcopy(plain.state_dict())
    folded = fold_batch_norms(plain, 64)
    assert _num_norms(folded) == left
    assert all(torch.equal(plain.state_dict()[key], tensor) for key, tensor in before.items()), "left as it was"
    image_B3HW = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    layers = [one.forward_intermediates(image_B3HW, intermediates_only=True) for one in (plain, folded)]
    for one, other in zip(*layers, strict=True):
        assert (one - other).abs().max() < 1e-4 * one.abs().max()


def test_a_convolution_that_others_read_too_is_not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load_network(BackboneConfig(name="resnet18", weights="random"), 64).eval().requires_grad_(False)
    _unlike_new(plain)
    monkeypatch.setattr(type(plain), "forward_features", _twice_read)
    monkeypatch.setattr(type(plain), "forward_intermediates", lambda self, image, **_: [_twice_read(self, image)])
    assert fold_batch_norms(plain, 64) is plain


def _twice_read(model: Any, image_B3HW: torch.Tensor) -> torch.Tensor:
    stem_BCHW = model.conv1(image_B3HW)
    read: torch.Tensor = model.bn1(stem_BCHW) + stem_BCHW
    return read


def _unlike_new(model: nn.Module) -> None:
    """Give batch norms statistics, which new ones have not."""
    noise = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=noise))
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=noise) / 4)


def test_nothing_is_trainable() -> None:
    assert not any(parameter.requires_grad for parameter in backbone()._model.parameters())


@pytest.mark.parametrize(
    ("suffix", "wrapper"), [(".safetensors", None), (".pth", None), (".pth", "state_dict"), (".pt", "model")]
)
def test_weights_are_read_from_any_of_the_usual_files(tmp_path: Path, suffix: str, wrapper: str | None) -> None:
    path, state = tmp_path / f"weights{suffix}", trained(num_classes=0)
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({wrapper: state} if wrapper else state, path)
    loaded = load_network(BackboneConfig(name=CNN, weights=str(path)), 64).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def _prefixed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


WRAPPED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "module.": lambda state: _prefixed(state, "module."),
    "backbone. beside a head": lambda state: _prefixed(state, "backbone.") | {"head.weight": torch.zeros(2)},
    "model_state_dict": lambda state: {"model_state_dict": state, "epoch": 3, "loss": 0.5},
    "teacher": lambda state: {"teacher": _prefixed(state, "backbone."), "epoch": 3},
    "two prefixes": lambda state: {"state_dict": _prefixed(state, "module.backbone.")},
    "Lightning": lambda state: {"state_dict": _prefixed(state, "model."), "optimizer_states": [{"state": {0: {}}}]},
    "compiled": lambda state: _prefixed(state, "_orig_mod."),
    "an optimizer beside it": lambda state: {"net": state, "optimizer": {"state": {0: {"exp": torch.zeros(2)}}}},
    "below two names": lambda state: {"model": {"state_dict": state}},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_weights_are_taken_out_of_what_training_scripts_wrap_them_in(kind: str, tmp_path: Path) -> None:
    path, state = tmp_path / "weights.pth", trained(num_classes=0)
    torch.save(WRAPPED[kind](state), path)
    loaded = load_network(BackboneConfig(name=CNN, weights=str(path)), 64).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(("one", "other"), [("student", "teacher"), ("state_dict", "state_dict_ema")])
def test_of_several_sets_of_weights_that_fit_none_is_guessed(one: str, other: str, tmp_path: Path) -> None:
    state = trained(num_classes=0)
    torch.save({one: state, other: state}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=rf"several sets of weights that fit \({one}, {other}\); save the one"):
        backbone(weights=str(tmp_path / "weights.pth"))


def test_wrapped_weights_of_another_network_are_refused_by_their_own_names(tmp_path: Path) -> None:
    torch.save(_prefixed(trained(num_classes=0), "module."), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"keys unexpected \(first 'conv_stem.weight'\)"):
        backbone("resnet18", weights=str(tmp_path / "weights.pth"))


def test_a_published_file_with_its_classifier_is_accepted(tmp_path: Path) -> None:
    path, state = tmp_path / "weights.safetensors", trained(num_classes=10)
    safetensors.torch.save_file(state, path)
    loaded = load_network(BackboneConfig(name=CNN, weights=str(path)), 64).state_dict()
    assert torch.equal(loaded["conv_stem.weight"], state["conv_stem.weight"])


def test_a_transformer_file_of_another_image_size_is_resized(tmp_path: Path) -> None:
    path, state = tmp_path / "weights.safetensors", trained(VIT, num_classes=0)
    safetensors.torch.save_file(state, path)
    model = backbone(VIT, weights=str(path))._model
    assert torch.equal(model.blocks[0].mlp.fc1.weight, state["blocks.0.mlp.fc1.weight"])
    assert model.pos_embed.shape != state["pos_embed"].shape
    assert "state_dict" not in model.pretrained_cfg


def test_a_transformer_file_of_another_image_size_must_still_be_complete(tmp_path: Path) -> None:
    path, state = tmp_path / "weights.safetensors", trained(VIT, num_classes=0)
    del state["blocks.0.mlp.fc1.weight"]
    safetensors.torch.save_file(state, path)
    with pytest.raises(WeightsError, match=r"1 keys missing \(first 'blocks.0.mlp.fc1.weight'\)"):
        backbone(VIT, weights=str(path))


def test_weights_of_another_network_are_refused_with_the_number_of_keys(weights_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"not the weights of resnet18: \d+ keys missing \(first 'conv1.weight'\), "
    ) as e:
        backbone("resnet18", weights=str(weights_path))
    assert "unexpected" in str(e.value)


def test_weights_of_another_width_are_refused(weights_path: Path) -> None:
    with pytest.raises(WeightsError, match="of another shape"):
        backbone("mobilenetv2_050", weights=str(weights_path))


def test_a_missing_file_is_one_sentence() -> None:
    with pytest.raises(WeightsError, match=r"no such file; give a \.safetensors or \.pth file"):
        backbone(weights="/nowhere/weights.safetensors")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("content", [b"", b"these are not weights at all"])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read") as caught:
        backbone(weights=str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_file_with_objects_in_it_is_not_unpickled(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "args": argparse.Namespace(lr=1)}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="it holds argparse.Namespace besides tensors, and loading that could") as e:
        backbone(weights=str(tmp_path / "weights.pth"))
    assert "save model.state_dict() alone" in str(e.value)
    assert "\x1b" not in str(e.value), "no terminal codes, and no advice to trust the file"


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, [1, 2], {"epoch": 3}])
def test_a_file_without_tensors_is_one_sentence(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="holds no tensors by name"):
        backbone(weights=str(tmp_path / "weights.pth"))


def test_the_hub_out_of_reach_is_an_error_not_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> NoReturn:
        raise urllib.error.URLError("name or service not known")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    with pytest.raises(WeightsError, match=r"weights of mobilenetv2_100 could not be fetched .*weights=PATH"):
        backbone("mobilenetv2_100", weights="hub")


def test_a_network_that_is_not_published_says_so() -> None:
    with pytest.raises(WeightsError, match="publishes no weights for mobilenetv2_035"):
        backbone(weights="hub")


def test_the_hub_file_is_loaded_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(trained("test_resnet.r160_in1k"), path)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(path))
    model = backbone("test_resnet.r160_in1k", weights="hub")
    assert model.fingerprint() == backbone("test_resnet.r160_in1k", weights=str(path)).fingerprint()


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
        backbone("resnet_18")


@pytest.mark.parametrize("layers", [(), (2, 9), (3, 2), (2, 2), (-1,)])
def test_layers_that_cannot_be_are_refused_with_the_range(layers: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="mobilenetv2_035 has layers 0 to 4"):
        backbone(layers=layers)


@pytest.mark.parametrize("name", [VIT, "vit_tiny_patch16_224"])
def test_an_image_size_the_network_refuses_is_one_sentence(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"image_size_px = 50: {name} does not take it \(.*patch size"):
        backbone(name, size_px=50)


@pytest.mark.parametrize(("value", "said"), [(1e5, r"1e\+05"), (-1e5, r"1e\+05"), (torch.nan, "nan")])
def test_activations_beyond_float16_are_refused(monkeypatch: pytest.MonkeyPatch, value: float, said: str) -> None:
    model = backbone()
    layers = [torch.zeros(2, 4, 8, 8), torch.zeros(2, 8, 4, 4)]
    layers[1][1, 3, 2, 2] = value
    monkeypatch.setattr(model._model, "forward_intermediates", lambda *_, **__: layers)
    with pytest.raises(ConfigError, match=f"layer 3 of mobilenetv2_035 reaches {said}, beyond the float16 range"):
        model.encode(images(2))


def test_the_fingerprint_follows_the_weights_not_their_place(weights_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere.safetensors"
    shutil.copy(weights_path, copy)
    here, there = (fingerprint(BackboneConfig(name=CNN, weights=str(p)), 64) for p in (weights_path, copy))
    assert here == there == backbone(weights=str(copy)).fingerprint()
    assert str(tmp_path) not in str(here)
    state = safetensors.torch.load_file(weights_path)
    state["conv_stem.weight"][0, 0, 0, 0] += 1
    safetensors.torch.save_file(state, copy)
    assert fingerprint(BackboneConfig(name=CNN, weights=str(copy)), 64) != here


def test_the_fingerprint_follows_layers_and_size() -> None:
    keys = [
        fingerprint(BackboneConfig(name=CNN, weights="random", layers=layers), size)
        for layers, size in (((2, 3), 64), ((2,), 64), ((2, 3), 96))
    ]
    assert len({str(key) for key in keys}) == 3


def test_only_this_module_imports_timm() -> None:
    package = Path(timm_import.__file__).parents[2]
    users = [path.name for path in package.rglob("*.py") if "import timm" in path.read_text()]
    assert users == ["timm_import.py"]
