"""The weighted loss in a whole run: what it retrains, what it publishes, what it refuses and what it says."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import load, parse, with_overrides
from llb_ray.data.tables import read_table
from llb_ray.engine.pipeline.pipeline import Result
from llb_ray.engine.pipeline.stages import fit_settings
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.errors import AuditError, ConfigError
from tests.support import final_files

MOMENTS = ["importance.mode=moments"]
BOTH = [*MOMENTS, "importance.members=true"]
FAR = ["importance.mode=fixed", "importance.mu=1000", "importance.sigma=0.001"]


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def _again(config: RunConfig, photos: Path, out: Path, said: list[str] | None = None) -> Result:
    tell = (said if said is not None else []).append
    return llb_ray.run(config, llb_ray.read_folder(photos, config), out=out, executor="serial", tell=tell)


def _rerun(result: Result) -> list[str]:
    return [time.stage for time in result.times if not time.reused]


def test_off_is_in_no_key_and_leaves_no_file(finished: Path, tiny: RunConfig) -> None:
    assert set(fit_settings(tiny, "final")) == {"role", "seed", "detector"}
    idle = with_overrides(tiny, ["importance.cap=5", "importance.members=true"])
    assert fit_settings(idle, "final") == fit_settings(tiny, "final")
    assert fit_settings(idle, "member", 0) == fit_settings(tiny, "member", 0)
    assert not list(finished.rglob("importance.arrow"))


def test_a_key_holds_the_settings_that_have_an_effect_and_no_other(tiny: RunConfig) -> None:
    def key(*settings: str) -> object:
        return fit_settings(with_overrides(tiny, settings), "final")["importance"]

    assert key(*MOMENTS) == key(*BOTH) != key(*MOMENTS, "importance.sigma_scale=2")
    assert key(*FAR) == key(*FAR, "importance.sigma_scale=2") != key(*FAR, "importance.mu=3")
    assert fit_settings(with_overrides(tiny, MOMENTS), "member", 0) == fit_settings(tiny, "member", 0)
    assert "importance" in fit_settings(with_overrides(tiny, BOTH), "member", 0)


def test_another_target_retrains_the_final_detector_alone(run: Path, photos: Path, tiny: RunConfig) -> None:
    for settings in (MOMENTS, [*MOMENTS, "importance.sigma_scale=2"], ["importance.mode=robust"]):
        assert _rerun(_again(with_overrides(tiny, settings), photos, run)) == [
            "final",
            "final-scores",
            "threshold",
            "evaluate",
        ]
        assert llb_ray.audit(run)
    decided = ["members", "member-scores", "scores", "purify"]
    everything = [*decided, "final", "final-scores", "held-out-maps", "threshold", "evaluate"]
    kept = _ids(run)
    stages = _rerun(_again(with_overrides(tiny, BOTH), photos, run))
    assert stages == [name for name in everything if not name.startswith("final") or _ids(run) != kept]


def _ids(run: Path) -> list[str]:
    purified = read_table(run / "purified" / "part-0.arrow")
    kept: list[str] = purified.filter(pc.equal(purified["decision"], "kept"))["image_id"].to_pylist()
    return kept


def test_the_weights_of_the_kept_images_are_published(run: Path, photos: Path, tiny: RunConfig) -> None:
    _again(with_overrides(tiny, MOMENTS), photos, run)
    table = read_table(run / "importance.arrow")
    assert table.column_names == ["image_id", "score", "weight"]
    assert sorted(table["image_id"].to_pylist()) == sorted(_ids(run))
    assert np.mean(table["weight"].to_numpy()) == pytest.approx(1)
    log = read_table(run / "training_log.arrow")
    assert log.column_names == ["step", "loss", "ess", "max_weight", "fell_back"]
    assert log.num_rows == 20
    _again(tiny, photos, run)
    assert read_table(run / "training_log.arrow").column_names == ["step", "loss"]
    assert not (run / "importance.arrow").exists(), "left by an earlier run with other settings"


def test_a_run_weighted_throughout_passes_the_audit_and_is_repeated_to_the_byte(
    photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    config = with_overrides(tiny, BOTH)
    for out in (tmp_path / "first", tmp_path / "second"):
        _again(config, photos, out)
        assert llb_ray.audit(out)
    assert final_files(tmp_path / "first") == final_files(tmp_path / "second")
    made = RunFolder.open(tmp_path / "second").made()
    for lost in (made.members[1], made.final):
        shutil.rmtree(lost.path)
    assert _rerun(_again(config, photos, tmp_path / "second")) == ["members", "final"]
    assert final_files(tmp_path / "first") == final_files(tmp_path / "second")


def test_the_audit_notices_an_edited_setting_and_an_edited_weight(run: Path, photos: Path, tiny: RunConfig) -> None:
    _again(with_overrides(tiny, MOMENTS), photos, run)
    (run / "config.yaml").write_text(with_overrides(tiny, [*MOMENTS, "importance.cap=9"]).to_yaml())
    with pytest.raises(AuditError, match="'final fit' had other settings"):
        llb_ray.audit(run)
    (run / "config.yaml").write_text(with_overrides(tiny, MOMENTS).to_yaml())
    assert llb_ray.audit(run)
    weights = run / "importance.arrow"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(AuditError, match="importance.arrow"):
        llb_ray.audit(run)


def test_falling_back_is_said_once_with_its_count(run: Path, photos: Path, tiny: RunConfig) -> None:
    said: list[str] = []
    _again(with_overrides(tiny, FAR), photos, run, said)
    notes = [line for line in said if line.startswith("note: ")]
    assert len(notes) == 1
    assert notes[0].startswith("note: final: 18 of 20 steps were not weighted")
    said.clear()
    _again(with_overrides(tiny, MOMENTS), photos, run, said)
    assert not [line for line in said if line.startswith("note: ")]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["importance.mode=fixed"], "mode fixed needs mu and sigma"),
        (["importance.mode=fixed", "importance.mu=1"], "mode fixed needs mu and sigma"),
        (["importance.mu=1"], "mode off takes no mu and sigma"),
        ([*MOMENTS, "importance.sigma=1"], "mode moments takes no mu and sigma"),
        ([*MOMENTS, "detector.name=memory_bank"], "detector memory_bank has none; choose importance.mode=off or"),
        ([*MOMENTS, "detector.name=autoencoder", "importance.buffer=8"], "importance.buffer=8 is less than one batch"),
        ([*MOMENTS, "importance.cap=1"], "importance.cap = 1: input should be greater than 1"),
        ([*MOMENTS, "importance.warmup=1"], "importance.warmup = 1: input should be less than 1"),
        (["importance.target=moments"], "unknown key 'importance.target'"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_in_one_sentence(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as refused:
        load(None, overrides)
    assert "\n" not in str(refused.value)


def test_off_may_be_typed_as_yaml_reads_it() -> None:
    assert load(None, ["importance.mode=off"]).importance.mode == "off"
    assert load(None, ["importance={mode: off}"]) == RunConfig()


AUTOENCODER = {"detector": {"name": "autoencoder"}}


@pytest.mark.parametrize(
    ("tree", "idle"),
    [
        ({"importance": {"mode": "moments", "sigma_scale": 2, "members": True}}, []),
        ({"importance": {"cap": 5, "members": True}}, ["importance.cap", "importance.members"]),
        ({"importance": {"mode": "fixed", "mu": 1, "sigma": 1, "mu_scale": 2}}, ["importance.mu_scale"]),
        ({"importance": {"mode": "robust", "members": True}, "purify": {"filter": "none"}}, ["importance.members"]),
    ],
)
def test_a_setting_without_effect_is_said_aloud(tree: dict[str, object], idle: list[str]) -> None:
    assert [notice.split()[0] for notice in parse(AUTOENCODER | tree).notices()] == idle
