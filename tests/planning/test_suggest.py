"""init: what it writes loads and runs as it is, follows from what lies there, and overwrites nothing."""

import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from PIL import Image

import llb_ray
from llb_ray.cli import main
from llb_ray.config import load, parse
from llb_ray.detectors.factory import build_encoder
from llb_ray.errors import ConfigError, DataError, WeightsError
from llb_ray.planning import config_template
from llb_ray.planning.config_template import Surroundings, suggestion
from llb_ray.planning.filename_groups import by_number, by_view, num_groups


def _init(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["init", *map(str, arguments)])


def _images(folder: Path, names: list[str], side_px: int) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        Image.new("RGB", (side_px, side_px + 10), (number % 256, number // 256, 9)).save(folder / name)
    return folder


def test_what_it_writes_runs_as_it_is(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "photos.yaml"
    result = _init(photos, "--out", path)
    assert result.exit_code == 0, result.output
    assert f"llb-ray run --config {path} --data {photos}" in result.output
    config = load(path, ["detector.coreset_size=50"])
    assert (config.detector.name, config.detector.backbone.weights) == ("memory_bank", "bundled")
    assert config.data.group_pattern == r"([^/]+?)[_-]view[_-]?\d+(?=[_.-])"
    assert config.members.count == 2, "24 objects"
    made = llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path / "run", executor="serial")
    assert made.num_kept + made.num_rejected == 48


def test_it_overwrites_nothing(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine")
    result = _init(photos, "--out", tmp_path / "config.yaml")
    assert (result.exit_code, "already exists" in result.stderr) == (1, True)
    assert (tmp_path / "config.yaml").read_text() == "mine"


def test_weights_make_a_memory_bank_of_the_network_that_the_file_is_called(
    photos: Path, bank_weights: Path, tmp_path: Path
) -> None:
    shutil.copy(bank_weights, tmp_path / "test_resnet.safetensors")
    config = load(llb_ray.init(photos, out=tmp_path / "a.yaml", weights=tmp_path / "test_resnet.safetensors"))
    assert config.detector.name == "memory_bank"
    assert config.detector.backbone.name == "test_resnet"
    assert config.detector.image_size_px == 128, "the photographs have 48 px"
    named = llb_ray.init(photos, out=tmp_path / "b.yaml", weights=bank_weights, backbone="test_resnet.r160_in1k")
    assert load(named).detector.name == "memory_bank"


@pytest.mark.parametrize(
    ("backbone", "error", "sentence"),
    [
        (None, ConfigError, "no network called 'weights'; say which one it is of with --backbone"),
        ("test_vit.r160_in1k", WeightsError, "these are not the weights of"),
    ],
)
def test_weights_of_no_known_network_are_refused(
    backbone: str | None, error: type[Exception], sentence: str, photos: Path, bank_weights: Path
) -> None:
    with pytest.raises(error, match=sentence):
        suggestion(llb_ray.read_folder(photos), bank_weights, backbone)


@pytest.mark.parametrize(
    "name", ["mnist.npz", "resnet18.zip", "resnet18.npy", "resnet18.h5", "resnet18.txt", "gone.pth"]
)
def test_a_file_that_holds_no_weights_is_refused_for_what_it_is(name: str, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith(".npz"):
        np.savez(path, x=np.zeros(3))
    elif name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("weights.bin", b"x")
    elif not name.startswith("gone"):
        path.write_bytes(b"\x93NUMPY or any other bytes")
    what = "no such file" if name.startswith("gone") else "not a file of weights"
    with pytest.raises(WeightsError, match=f"--weights .*{name}: {what}.*; give a .safetensors or .pth file$"):
        suggestion(llb_ray.read_folder(photos), path, None)


def test_a_backbone_without_weights_and_a_single_image_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no package has weights of it, only of tf_efficientnet_lite0, .*--weights"):
        suggestion(llb_ray.read_folder(photos), None, "resnet18")
    one = _images(tmp_path / "one", ["a.png"], 20)
    with pytest.raises(DataError, match="shows 1 object"):
        suggestion(llb_ray.read_folder(one), None, None)


@pytest.mark.parametrize(
    ("facts", "key", "value"),
    [
        ({"num_gpus": 2, "num_cores": 32}, ("resources", "num_gpus"), 1),
        ({"num_gpus": 2, "num_cores": 32}, ("resources", "num_cpus"), 8),
        ({"num_cores": 8, "free_bytes": 64 * 2**30}, ("resources", "num_cpus"), 1),
        ({"num_cores": 8, "free_bytes": 2 * 2**30}, ("resources", "num_cpus"), 4),
        ({"num_objects": 5000}, ("members", "count"), 5),
        ({"num_objects": 65}, ("members", "count"), 3),
        ({"size": (48, 48)}, ("detector", "image_size_px"), 128),
        ({"size": (260, 230)}, ("detector", "image_size_px"), 224),
        ({"size": (900, 900)}, ("detector", "image_size_px"), 256),
        ({"size": (900, 1400)}, ("detector", "image_size_px"), [256, 384]),
        ({"size": (480, 240)}, ("detector", "image_size_px"), [512, 256]),
        ({"size": (256, 4096)}, ("detector", "image_size_px"), [256, 1024]),
    ],
)
def test_choices_follow_from_data_and_machine(
    facts: dict[str, Any], key: tuple[str, str], value: object, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = llb_ray.read_folder(photos)
    here = Surroundings(photos, 500, 500, (200, 200), None, None, 4, 0, 16 * 2**30)
    monkeypatch.setattr(config_template.Surroundings, "of", lambda manifest: replace(here, **facts))
    tree = yaml.safe_load(suggestion(manifest, None, None))
    assert tree[key[0]][key[1]] == value
    parse(tree)


def test_sizes_are_the_images_own(tmp_path: Path) -> None:
    folder = _images(tmp_path / "images", [f"{name}.png" for name in "abcdef"], 300)
    assert Surroundings.of(llb_ray.read_folder(folder)).size == (310, 300)


@pytest.mark.parametrize("size", [(900, 900), (2048, 2448), (3000, 4000)])
def test_large_photographs_are_offered_tiles_with_their_cost(
    size: tuple[int, int], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Surroundings(photos, 500, 500, size, None, None, 4, 0, 16 * 2**30)
    monkeypatch.setattr(config_template.Surroundings, "of", lambda manifest: here)
    text = suggestion(llb_ray.read_folder(photos), None, None)
    assert re.search(r"smaller defects may be lost.*\n.*In tiles .* times the time and disk \([\d.e+]+ s each\)", text)
    plain = [line for line in text.splitlines() if not line.startswith("  image_size_px")]
    tree = yaml.safe_load("\n".join(re.sub(r"^  # (image_size_px|tiles): ", r"  \1: ", line) for line in plain))
    config = parse(tree)
    assert all(abs(side - own) < 32 for side, own in zip(config.detector.size, size, strict=True))
    assert config.detector.num_tiles > 15
    build_encoder(config.detector.model_copy(update={"image_size_px": (256, 256)}), torch.device("cpu"))


def test_photographs_of_about_the_size_are_offered_none(photos: Path) -> None:
    assert "tiles" not in suggestion(llb_ray.read_folder(photos), None, None)


def test_names_that_count_views_are_grouped() -> None:
    paths = [f"train/good/obj{number:04d}_view{view}.png" for number in range(30) for view in range(3)]
    pattern = by_view(paths)
    assert pattern is not None
    assert num_groups(pattern, paths) == 30
    real_iad = [f"OK/S{n:04d}/zipper_{n:04d}_OK_C{view}_2023.jpg" for n in range(20) for view in range(1, 6)]
    assert num_groups(by_view(real_iad), real_iad) == 20


@pytest.mark.parametrize(
    "paths", [[f"{n:03d}.png" for n in range(60)], [f"IMG_{n:04d}.JPG" for n in range(60)], ["a.png"]]
)
def test_names_that_only_count_images_are_not(paths: list[str]) -> None:
    assert by_view(paths) is None
    assert by_number(paths) is None


def test_a_number_at_the_end_is_only_a_hint(tmp_path: Path) -> None:
    names = [f"lot{lot}x_{n}.png" for lot in range(6) for n in range(4)]
    text = suggestion(llb_ray.read_folder(_images(tmp_path / "images", names, 20)), None, None)
    assert "data" not in yaml.safe_load(text)
    assert "#   group_pattern: '" in text
