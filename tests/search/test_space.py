"""A search space: what may be asked for, what is refused before anything is trained, and what a trial then runs."""

from pathlib import Path

import numpy as np
import pytest

from llb_ray.config import RunConfig, parse
from llb_ray.errors import ConfigError
from llb_ray.search.space import Choice, Integer, LogUniform, Space, Uniform, read_space, trial_config

AUTOENCODER = parse({"detector": {"name": "autoencoder"}})


@pytest.fixture
def space_of(tmp_path: Path):  # type: ignore[no-untyped-def]
    def read(text: str, base: RunConfig | None = None) -> Space:
        path = tmp_path / "space.yaml"
        path.write_text(text)
        return read_space(path, base or AUTOENCODER)

    return read


def test_every_kind_of_domain_is_read(space_of) -> None:  # type: ignore[no-untyped-def]
    space = space_of(
        "members.count: [2, 3]\npurify.keep_ratio: {uniform: [0.6, 0.9]}\n"
        "detector.learning_rate: {loguniform: [1.0e-4, 1.0e-2]}\ndetector.final_steps: {int: [5, 9]}\n"
    )
    assert space.domains == {
        "members.count": Choice((2, 3)),
        "purify.keep_ratio": Uniform(0.6, 0.9),
        "detector.learning_rate": LogUniform(1e-4, 1e-2),
        "detector.final_steps": Integer(5, 9),
    }


def test_a_grid_is_every_combination_and_has_no_room_for_real_numbers(space_of) -> None:  # type: ignore[no-untyped-def]
    grid = space_of("members.count: {int: [2, 4]}\npurify.aggregate: [mean, max]\n").grid()
    assert len(grid) == 6
    assert grid[0] == {"members.count": 2, "purify.aggregate": "mean"}
    with pytest.raises(ConfigError, match="purify.keep_ratio has no end of values.*at random"):
        space_of("purify.keep_ratio: {uniform: [0.6, 0.9]}").grid()


def test_samples_are_seeded_lie_inside_and_make_a_config(space_of) -> None:  # type: ignore[no-untyped-def]
    space = space_of(
        "members.count: {int: [2, 4]}\ndetector.learning_rate: {loguniform: [1.0e-4, 1.0e-2]}\n"
        "purify.keep_ratio: {uniform: [0.6, 0.9]}\nimportance.mode: [off, moments]\n"
    )
    drawn = [space.sample(np.random.default_rng(seed)) for seed in range(40)]
    assert drawn[0] == space.sample(np.random.default_rng(0))
    assert {values["members.count"] for values in drawn} == {2, 3, 4}
    for values in drawn:
        config = trial_config(AUTOENCODER, values)
        assert config.purify.keep_ratio == values["purify.keep_ratio"]
        assert 0.6 <= config.purify.keep_ratio <= 0.9
        assert config.importance.mode == values["importance.mode"]


def test_a_bare_off_is_the_word(space_of) -> None:  # type: ignore[no-untyped-def]
    assert space_of("importance.mode: [off, moments]").domains["importance.mode"] == Choice(("off", "moments"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("member.count: [2]", "unknown key 'member'.*"),
        ("members.cuont: [2]", "unknown key 'members.cuont'; did you mean 'members.count'"),
        ("count: [2]", "did you mean 'members.count'"),
        ("members.count: []", "members.count has no values"),
        ("members.count: 3", "members.count = 3: expected a list of choices"),
        ("members.count: {gauss: [1, 2]}", "expected a list of choices"),
        ("members.count: [3, 1]", "members.count = 1: "),
        ("purify.keep_ratio: {uniform: [0.9, 0.6]}", "is no range; it takes low < high"),
        ("purify.keep_ratio: {uniform: [0.5, 1.5]}", "purify.keep_ratio = 1.5"),
        ("purify.keep_ratio: {uniform: [0.5, high]}", "two numbers"),
        ("detector.learning_rate: {loguniform: [0, 1]}", "0 < low < high"),
        ("members.count: {int: [2.5, 4]}", "two whole numbers"),
        ("members.count: {uniform: [2, 8]}", "members.count = .*integer"),
        ("detector.name: [nonsense]", "detector"),
        ("purify.filter: [llb, oracle]", "reads labels"),
        ("data.max_pixels: [1000]", "data.max_pixels changes nothing that a trial is judged by"),
        ("resources.num_cpus: [1, 2]", "changes nothing that a trial is judged by"),
        ("threshold.false_alarm_rate: {uniform: [0.01, 0.1]}", "changes nothing that a trial is judged by"),
        ("threshold.method: [members, folds]", "changes nothing that a trial is judged by"),
        ("importance.buffer: [128, 256]", "importance.buffer has no effect with mode off"),
        ("importance.mode: [off, fixed]\nimportance.mu_scale: [1, 2]", "importance.mu_scale has no effect with mode"),
        ("- 1", "names no setting"),
        ("a: [", "not valid YAML"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_file_and_key(text: str, says: str, space_of) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=f"space.yaml: .*{says}"):
        space_of(text)


def test_a_setting_with_an_effect_in_some_trials_is_searched(space_of) -> None:  # type: ignore[no-untyped-def]
    space = space_of("importance.mode: [off, moments]\nimportance.buffer: [128, 512]\n")
    assert len(space.grid()) == 4


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere.yaml: the search space cannot be read"):
        read_space(tmp_path / "nowhere.yaml")


def test_values_that_need_others_beside_them_are_left_to_the_trials(space_of) -> None:  # type: ignore[no-untyped-def]
    text = "importance.mode: [off, fixed]\nimportance.mu: [1.0]\nimportance.sigma: [0.5]\n"
    off, fixed = space_of(text).grid()
    assert trial_config(AUTOENCODER, fixed).importance.mu == 1.0
    with pytest.raises(ConfigError, match="mode off takes no mu"):
        trial_config(AUTOENCODER, off)


def test_the_base_says_whose_detectors_keys_are_known(space_of) -> None:  # type: ignore[no-untyped-def]
    text = "detector.coreset_size: [100, 200]"
    with pytest.raises(ConfigError, match="unknown key 'detector.coreset_size'"):
        space_of(text)
    assert len(space_of(text, parse({"detector": {"name": "memory_bank"}})).grid()) == 2
