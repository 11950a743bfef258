"""Configuration: round trips, refusals that name the key, and notices."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llb_ray.config import RunConfig, known_keys, load, load_scan, parse
from llb_ray.errors import ConfigError
from llb_ray.search.space import read_space

SHIPPED = Path(__file__).parents[1] / "configs"
CONFIGS, SPACES = (sorted(folder.glob("*.yaml")) for folder in (SHIPPED, SHIPPED / "spaces"))


def load_text(text: str, path: Path) -> Any:
    path.write_text(text)
    return load(path)


@given(
    seed=st.integers(0, 2**31),
    count=st.integers(2, 64),
    keep=st.floats(0.01, 1),
    name=st.sampled_from(["autoencoder", "memory_bank", "reconstruction"]),
)
def test_a_resolved_configuration_survives_yaml(seed: int, count: int, keep: float, name: str) -> None:
    tree = {"seed": seed, "members": {"count": count}, "purify": {"keep_ratio": keep}, "detector": {"name": name}}
    config = parse(tree)
    assert parse(yaml.safe_load(config.to_yaml())) == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configurations_are_valid(path: Path) -> None:
    config = load_scan(path) if "\nscan:" in path.read_text() else load(path)
    assert isinstance(config, RunConfig)


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.name)
def test_shipped_spaces_are_valid_and_told_from_configurations(path: Path) -> None:
    assert read_space(path, load(SHIPPED / "demo.yaml")).domains
    with pytest.raises(ConfigError, match=r"in one piece; .* give the file to `llb-ray tune --space`"):
        load(path)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("purify.keep_rato=0.9", r"unknown key 'purify.keep_rato'; did you mean 'purify.keep_ratio'\?"),
        ("keep_ratio=0.9", r"unknown key 'keep_ratio'; did you mean 'purify.keep_ratio'\?"),
        (
            "detector.channels=8",
            "unknown key 'detector.channels'; 'detector.channels' is a setting of another detector",
        ),
        ("detector.weights=hub", r"did you mean 'detector.backbone.weights'\?"),
        ("detector={name: autoencoder, weights: hub}", "'detector.backbone.weights' is a setting of another detector"),
        ("detector={name: memory_bank, backbone: {wieghts: x}}", r"did you mean 'detector.backbone.weights'\?"),
        ("detector={name: memory_bank, backbone: {layers: [2, x]}}", r"detector.backbone.layers\[1\] = 'x'"),
        ("detector={name: reconstruction, groups: [[0], [2, y]]}", r"detector.groups\[1\]\[1\] = 'y'"),
        ("detector={name: memory_bank, backbone: x}", "detector.backbone = 'x': should be a section"),
        ("features.augment=hflip", "features.augment = 'hflip': should be a list"),
        ("features.augment=[hflipp]", r"features.augment\[0\] = 'hflipp': input should be 'hflip'"),
        (
            "detector.name=autoencodr",
            r"detector.name = 'autoencodr': there is no such detector; did you mean 'autoencoder'\?",
        ),
        ("purify.keep_ratio=0", "purify.keep_ratio = 0: input should be greater than 0"),
        ("purify.keep_ratio=1.01", "purify.keep_ratio = 1.01"),
        ("purify.keep_ratio=most", "purify.keep_ratio = 'most': input should be 'auto'"),
        ("members.count=1", "members.count = 1"),
        ("detector.name=magic", "no such detector; choose autoencoder, memory_bank, density, reconstruction"),
        ("purify.aggregate=average", "purify.aggregate = 'average'"),
        ("resources.num_gpus=0.3", "a fraction 1/n"),
        ("resources.num_gpus=1.5", "less than or equal to 1"),
        ("resources.device=cuda", "needs num_gpus above 0"),
        ("purify={aggregate: trimmed_mean, trim: 0.1}", "cuts none"),
        ("purify={aggregate: max_var, normalize: robust_z}", "not with robust_z"),
        ("final.num_workers=0", "final.num_workers = 0"),
        ("seed", "expected section.key=value"),
        ("seed.x.y=1", "seed"),
        ("seed=[", "not a YAML value"),
    ],
)
def test_a_bad_override_is_refused_in_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        load(None, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "seed: [1", "seed: 1\nnonsense: 2\n"])
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load(tmp_path / "none.yaml")


def test_the_file_comes_first_then_the_overrides(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("seed: 3\npurify: {keep_ratio: 0.5}\n")
    config = load(path, ["purify.keep_ratio=0.6", "detector.coreset_size=8"])
    assert (config.seed, config.purify.keep_ratio) == (3, 0.6)
    assert config.detector.name == "memory_bank"


def test_a_bad_override_does_not_blame_the_file(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text("seed: 3\n")
    with pytest.raises(ConfigError, match="^--set: unknown key 'sed'"):
        load(path, ["sed=4"])


def test_a_weights_file_is_named_so_that_every_worker_finds_it() -> None:
    config = load(None, ["detector.name=memory_bank", "detector.backbone.weights=w.safetensors"])
    assert config.detector.name == "memory_bank"
    assert Path(config.detector.backbone.weights).is_absolute()


def test_a_weights_path_is_relative_to_its_file_or_for_an_override_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    path = tmp_path / "configs" / "bank.yaml"
    path.write_text("detector: {name: memory_bank, backbone: {weights: ../weights/w.pth}}\n")
    scan = tmp_path / "configs" / "scan.yaml"
    scan.write_text(path.read_text() + "scan: {dataset: {kind: mvtec, root: data}}\n")
    monkeypatch.chdir(tmp_path / "configs")
    monkeypatch.setenv("HOME", str(tmp_path))
    wanted = tmp_path / "weights" / "w.pth"
    for config in (load(path), load(Path("bank.yaml")), load_scan(scan).of_job("llb", 0)):
        assert Path(config.detector.backbone.weights).resolve() == wanted
        assert Path(load_text(config.to_yaml(), tmp_path / "copy.yaml").detector.backbone.weights).resolve() == wanted
    typed = load(path, ["detector.backbone.weights=w.pth"])
    assert typed.detector.backbone.weights == str(tmp_path / "configs" / "w.pth")
    assert load(path, ["detector.backbone.weights=~/w.pth"]).detector.backbone.weights == str(tmp_path / "w.pth")


@pytest.mark.parametrize("word", ["bundled", "hub", "random"])
def test_weights_by_name_are_no_path(word: str, tmp_path: Path) -> None:
    config = load_text(f"detector: {{name: memory_bank, backbone: {{weights: {word}}}}}", tmp_path / "a.yaml")
    assert config.detector.backbone.weights == word


def test_settings_without_effect_are_said_aloud() -> None:
    assert parse({}).purify.notices() == []
    none = parse({"purify": {"filter": "none", "keep_ratio": 0.5, "normalize": "none"}}).purify
    assert len(none.notices()) == 2
    trim = parse({"purify": {"trim": 0.1}}).purify
    assert "purify.trim" in trim.notices()[0]


def test_more_workers_than_images_in_a_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match="share a batch; raise detector.batch_size to 17"):
        load(None, ["detector.name=autoencoder", "final.num_workers=17"])


@pytest.mark.parametrize("number", ["[4, 2]", "[0, 2]", "[2]", "[1, 2, 3]", "1.5", "true", "many"])
def test_a_number_of_workers_is_one_or_the_fewest_and_the_most(number: str) -> None:
    with pytest.raises(ConfigError, match=r"final.num_workers = .*: give a whole number from 1 to 1024, or the fewest"):
        load(None, [f"final.num_workers={number}"])
    with pytest.raises(
        ConfigError, match=r"final.num_workers=\[2, 17\] share a batch; raise detector.batch_size to 17"
    ):
        load(None, ["detector.name=autoencoder", "final.num_workers=[2, 17]"])
    assert parse(load(None, ["final.num_workers=[2, 4]"]).model_dump(mode="json")).final.num_workers == (2, 4)


def test_workers_that_train_together_cannot_share_a_gpu() -> None:
    with pytest.raises(ConfigError, match="need a GPU each; set resources.num_gpus to 1, or to 0"):
        load(None, ["detector.name=autoencoder", "final.num_workers=2", "resources.num_gpus=0.5"])


def test_a_memory_bank_is_fitted_by_one_worker_and_says_so() -> None:
    bank = parse({"final": {"num_workers": 32}})
    assert bank.final_workers == (1, 1)
    assert bank.notices() == ["final.num_workers has no effect: detector memory_bank is fitted by one worker"]
    assert parse({"final": {"num_workers": 3}, "detector": {"name": "autoencoder"}}).final_workers == (3, 3)


def test_what_a_threshold_that_is_not_set_would_have_been_is_said() -> None:
    config = load(None, ["detector.name=autoencoder", "threshold.method=none", "threshold.folds=3"])
    assert config.notices() == ["threshold.folds has no effect with threshold.method none: one round takes no folds"]
    settings = ["threshold.method=none", "threshold.folds=3", "purify.rounds=2"]
    assert load(None, settings).notices() == [], "the second round's folds"


def test_known_keys_can_be_those_of_one_detector() -> None:
    assert "detector.coreset" in set(known_keys(RunConfig))
    assert "detector.coreset" not in set(known_keys(RunConfig, "autoencoder"))


def test_screening_borrows_the_final_detectors_backbone() -> None:
    config = parse({"detector": {"name": "memory_bank", "image_size_px": 96}, "members": {"detector": "density"}})
    screening = config.detector_of("member")
    assert (screening.name, screening.image_size_px) == ("density", 96)
    assert parse({}).detector_of("member").name == "memory_bank"
    with pytest.raises(ConfigError, match="detector autoencoder has none; choose members.detector=same"):
        parse({"detector": {"name": "autoencoder"}, "members": {"detector": "density"}})


@pytest.mark.parametrize("filter_", ["llb", "none", "random", "oracle", "srr"])
def test_filters_share_one_final_detector(filter_: str) -> None:
    """What a filter is worth can be read off only where the detector behind it is the same."""
    config = parse({"purify": {"filter": filter_}})
    assert config.detector_of("final") == parse({}).detector_of("final")
    assert config.detector_of("member").memory == config.detector_of("final").memory == "placed"


def test_density_members_have_no_loss_to_weight_and_say_so() -> None:
    weighted = {"detector": {"name": "reconstruction"}, "importance": {"mode": "moments", "members": True}}
    config = parse({**weighted, "members": {"detector": "density"}})
    assert config.importance_of("member") is None
    assert config.importance_of("final") is config.importance
    assert any("density members have no loss" in notice for notice in config.notices())
    trained = parse(weighted)
    assert trained.importance_of("member") is trained.importance
    assert not any("importance" in notice for notice in trained.notices())
