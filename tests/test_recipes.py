"""Recipes of contaminated training sets: how they are read and typed, and that the ones we ship do what they say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llb_ray
from llb_ray.config import ContaminateConfig, TailConfig, parse_as, read_yaml
from llb_ray.data.listing import Listing
from llb_ray.errors import ConfigError
from tests.support import photo, shared

RECIPES = Path(__file__).parents[1] / "configs" / "contaminate"


def recipe(name: str, **changed: Any) -> ContaminateConfig:
    path = RECIPES / f"{name}.yaml"
    return parse_as(ContaminateConfig, {**read_yaml(path), **changed}, str(path))


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        ("pattern=112:20:4", {"column": "pattern", "counts": (112, 20, 4)}),
        ("lot=1:0.5", {"column": "lot", "shares": (1, 0.5)}),
        ("0=1,1=0.2,2=0.05", {"shares": {"0": 1, "1": 0.2, "2": 0.05}}),
        ("red=112,blue=4", {"counts": {"red": 112, "blue": 4}}),
    ],
)
def test_tails_as_people_type_them(text: str, tail: dict[str, Any]) -> None:
    assert TailConfig.typed(text) == TailConfig(**tail)


@pytest.mark.parametrize("text", ["", "pattern", "pattern=a:b", "a=1.5:3", "a=0,b=1", "a=1=2", "a=-1:3", "a=nan:1"])
def test_what_is_no_tail_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a long tail; write COLUMN=112:20:4"):
        TailConfig.typed(text)


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"alpha": [0.1]}, "unknown key 'alpha'; did you mean"),
        ({"alphas": [1]}, r"alphas\[0\] = 1: input should be less than 1"),
        ({"alphas": []}, "alphas = .*at least 1 item"),
        ({"alphas": [0.5], "max_alpha": 0.4}, "max_alpha=0.4 is less than alpha 0.5"),
        ({"tail": {"counts": [1], "shares": [1]}}, "tail = .*: needs either counts or shares"),
        ({"tail": {"counts": [1]}, "num_objects": 3}, "num_objects has no effect with a tail"),
        ({"given": True, "num_objects": 3}, "the official lists .given. are as they are"),
        ({"dataset": {"kind": "mvtec", "root": "x", "viws": "single"}}, "unknown key 'dataset.viws'"),
    ],
)
def test_recipes_that_cannot_be_are_refused(tree: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"r.yaml: {sentence}"):
        parse_as(ContaminateConfig, tree, "r.yaml")


def test_names_of_digits_may_be_numbers() -> None:
    tail = parse_as(ContaminateConfig, {"tail": {"counts": {3: 10, 8: 1}}}, "r.yaml").tail
    assert tail is not None
    assert tail.names() == ("3", "8")


def sizes(paths: list[Path]) -> dict[str, dict[str, int]]:
    made = {path.stem: Listing.load(path) for path in paths}
    return {name: found.about["training"][found.categories[0]] for name, found in made.items()}


def tiles(root: Path, normal: int, defective: int) -> Path:
    for number in range(normal):
        photo(root / f"magnetic_tile/train/good/{number}.png", number)
    for number in range(defective):
        photo(root / f"magnetic_tile/test/crack/{number}.png", normal + number)
    return root


def test_magnetic_tile_fabricated(tmp_path: Path) -> None:
    root = tiles(tmp_path, 20, 10)
    made = llb_ray.contaminate(recipe("magnetic_tile", num_objects=20), out=tmp_path / "sets", root=root)
    found = sizes(made)
    assert len(found) == 12
    assert found["alpha0.4-seed2"] == {"normal": 12, "anomalous": 8}
    manifest = llb_ray.read_manifest(made[0])
    assert (len(manifest.image_ids("train")), len(manifest.image_ids("test"))) == (20, 2)


def test_juice_bottle_fabricated(tmp_path: Path) -> None:
    root = tmp_path / "mvtec_loco_juice_bottle"
    lines = ["path,pattern"]
    for number in range(12):
        photo(root / f"train/good/{number}.jpg", number)
        photo(root / f"test/logical_anomalies/{number}.jpg", 100 + number)
        lines += [f"{kind}/{number}.png,filling{number % 3}" for kind in ("train/good", "test/logical_anomalies")]
    (root / "pattern_labels.csv").write_text("\n".join(lines))
    config = recipe("juice_bottle", tail={"column": "pattern", "counts": [4, 2, 1]}, alphas=[0, 0.3])
    found = sizes(llb_ray.contaminate(config, out=tmp_path / "sets", root=tmp_path))
    dealt = {"pattern filling1": 4, "pattern filling2": 2, "pattern filling0": 1}
    assert found["alpha0.3-seed1"] == {"normal": 7, "anomalous": 3, **dealt}


def test_mnist_fabricated(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    digit_N = np.arange(60) % 10
    image_NHW = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)
    arrays = {"x_train": image_NHW, "y_train": digit_N, "x_test": 255 - image_NHW, "y_test": digit_N}
    np.savez(tmp_path / "mnist" / "mnist.npz", **arrays)
    config = recipe("mnist", tail={"counts": [6, 2, 1], "rest": "anomalous"}, alphas=[0.1], seeds=[9])
    (path,) = llb_ray.contaminate(config, out=tmp_path / "sets", root=tmp_path)
    listing = Listing.load(path)
    dealt = {"pattern 9": 6, "pattern 0": 2, "pattern 1": 1}
    assert listing.about["training"]["mnist"] == {"normal": 9, "anomalous": 1, **dealt}
    assert listing.root == tmp_path / "sets" / "images"
    assert len(llb_ray.read_manifest(path).image_ids("train")) == 10


def test_official_lists_are_taken_where_they_are(tmp_path: Path) -> None:
    from tests.data.adapters.test_real_iad import views, write

    lists = tmp_path / "Real-IAD" / "realiad_jsons"
    write(lists / "realiad_jsons" / "mint.json", views("OK/S0001"), views("NG/HS/S0004", "HS", masked=(1,)))
    write(lists / "realiad_jsons_fuiad_0.4" / "mint.json", views("NG/HS/S0004", "HS", masked=(1,)), views("OK/S0002"))
    dataset = {"kind": "real_iad", "root": "Real-IAD", "check_files": False}
    config = parse_as(ContaminateConfig, {"dataset": dataset, "alphas": [0.4], "given": True}, "r.yaml")
    (path,) = llb_ray.contaminate(config, out=tmp_path, root=tmp_path)
    assert path.name == "alpha0.4-given.arrow"
    assert sum(Listing.load(path).table["label"].to_pylist()) == 1
    options = llb_ray.DatasetOptions(check_files=False)
    clean = llb_ray.manifest("real_iad", tmp_path / "Real-IAD", options=options)
    drawn = ContaminateConfig(alphas=(0.4,), given=True)
    (again,) = llb_ray.contaminate(drawn, out=tmp_path / "again", listing=clean)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "needs", "sets", "normal"),
    [
        ("magnetic_tile", "magnetic_tile", 12, 360),
        ("juice_bottle", "mvtec_loco_juice_bottle/pattern_labels.csv", 6, 135),
    ],
)
def test_recipes_on_the_real_data(name: str, needs: str, sets: int, normal: int, tmp_path: Path) -> None:
    found = sizes(llb_ray.contaminate(recipe(name), out=tmp_path / "sets", root=shared(needs)))
    assert len(found) == sets
    assert min(size["normal"] for size in found.values()) == normal


@pytest.mark.shared_data
def test_the_recipe_of_mnist_on_a_hundredth_of_it(tmp_path: Path) -> None:
    """Writing all 70,000 pictures would take longer than the other tests together."""
    (tmp_path / "mnist").mkdir()
    with np.load(shared("mnist/mnist.npz") / "mnist/mnist.npz") as file:
        np.savez(tmp_path / "mnist/mnist.npz", **{name: file[name][::100] for name in file})
    config = recipe("mnist", tail={"counts": [10, 4, 1], "rest": "anomalous"}, seeds=[0])
    found = sizes(llb_ray.contaminate(config, out=tmp_path / "sets", root=tmp_path))
    assert found["alpha0.1-seed0"]["anomalous"] == 2


def test_recipes_name_no_place_of_one_machine() -> None:
    paths = list(RECIPES.glob("*.yaml"))
    assert len(paths) == 3
    for path in paths:
        dataset = recipe(path.stem).dataset
        assert dataset is not None
        assert not dataset.root.is_absolute()
