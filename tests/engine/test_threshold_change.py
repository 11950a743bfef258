"""Another threshold without training: for one prediction, in Python, and for good in a finished run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import llb_ray
from llb_ray import RunConfig
from llb_ray.cli import main
from llb_ray.config import with_overrides
from llb_ray.data.tables import read_table
from llb_ray.errors import ArtifactError, AuditError, ConfigError, LlbError
from tests.support import final_files


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def _llb(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def _facts(run: Path) -> dict[str, float]:
    facts: dict[str, float] = json.loads((run / "threshold.json").read_text())
    return facts


def test_a_run_that_was_given_another_rate_is_the_run_that_was_asked_for_it(
    run: Path, tiny: RunConfig, photos: Path, tmp_path: Path
) -> None:
    result = _llb("threshold", run, "--false-alarm-rate", "0.2", "--no-report")
    assert (result.exit_code, "0.200" in result.output) == (0, True), result.output
    asked = with_overrides(tiny, ["threshold.false_alarm_rate=0.2"])
    llb_ray.run(asked, llb_ray.read_folder(photos, asked), out=tmp_path / "asked", executor="serial")
    files = final_files(run)
    assert {name: files[name] for name in final_files(tmp_path / "asked")} == final_files(tmp_path / "asked")
    llb_ray.audit(run)


def test_what_spoke_of_the_threshold_before_is_gone_or_made_again(run: Path) -> None:
    page = llb_ray.write_report(run)
    (run / "signature.json").write_text("{}")
    before = _facts(run)
    stale = page.read_bytes()
    facts = llb_ray.threshold(run, false_alarm_rate=0.2)
    assert facts["threshold"] < before["threshold"]
    assert (facts["threshold"], facts["false_alarm_rate"]) == (_facts(run)["threshold"], 0.2)
    assert not page.exists()
    assert not (run / "signature.json").exists()
    assert "threshold         " in _llb("status", run).output
    assert "0.200 (" in _llb("status", run).output
    page.write_bytes(stale)
    with pytest.raises(AuditError, match="no report of this run was written"):
        llb_ray.audit(run, rescore=None)
    assert _llb("threshold", run, "--false-alarm-rate", "0.3").exit_code == 0
    assert "30.00% false alarms" in page.read_text()
    llb_ray.audit(run)


def test_a_prediction_at_a_rate_is_that_of_a_run_with_it(run: Path, photos: Path, tmp_path: Path) -> None:
    once = llb_ray.predict(run, photos / "test", out=tmp_path / "once", overlays="none", false_alarm_rate=0.2)
    llb_ray.threshold(run, false_alarm_rate=0.2)
    always = llb_ray.predict(run, photos / "test", out=tmp_path / "always", overlays="none")
    assert once.threshold == always.threshold == _facts(run)["threshold"]
    assert (tmp_path / "once" / "scores.csv").read_bytes() == (tmp_path / "always" / "scores.csv").read_bytes()


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 1e9])
def test_a_threshold_that_is_given_decides(threshold: float, finished: Path, photos: Path, tmp_path: Path) -> None:
    paths = sorted((photos / "test").rglob("*.png"))
    verdicts = llb_ray.Detector.load(finished, threshold=threshold).predict(paths)
    assert verdicts.decisions == ["anomalous" if score > threshold else "normal" for score in verdicts.score_N]
    arguments = ("--data", photos / "test", "--out", tmp_path / "out", "--overlays", "none")
    result = _llb("predict", finished, *arguments, "--threshold", str(threshold))
    assert f"{verdicts.decisions.count('anomalous')} anomalous" in result.output


def test_a_lower_rate_means_a_higher_threshold_and_never_more_than_the_largest_score(finished: Path) -> None:
    known = llb_ray.Detector.load(finished).calibration
    moved = [known.moved(false_alarm_rate=rate).threshold for rate in (0.5, 0.2, 0.01, 1e-9)]
    assert moved == sorted(moved)
    assert moved[-1] <= known.held_out_N.max()
    assert known.moved() is known
    assert np.array_equal(known.moved(threshold=1.0).held_out_N, known.held_out_N)


WRONG = [
    ({"threshold": 1.0, "false_alarm_rate": 0.1}, "give one of the two"),
    ({"threshold": float("nan")}, "is no score; give a finite number"),
    ({"threshold": float("inf")}, "is no score; give a finite number"),
    ({"false_alarm_rate": 0.0}, "the threshold: false_alarm_rate"),
    ({"false_alarm_rate": 0.6}, "the threshold: false_alarm_rate"),
    ({"false_alarm_rate": float("nan")}, "the threshold: false_alarm_rate"),
]


@pytest.mark.parametrize(("asked", "sentence"), WRONG)
def test_what_is_no_threshold_is_refused(
    asked: dict[str, float], sentence: str, finished: Path, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=sentence) as refusal:
        llb_ray.predict(finished, photos, out=tmp_path / "out", **asked)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=sentence):
        llb_ray.Detector.load(finished, **asked)


@pytest.mark.parametrize("rate", [0.0, -1.0, 0.51, float("nan")])
def test_a_refused_rate_leaves_the_run_as_it_was(rate: float, run: Path) -> None:
    before = final_files(run)
    with pytest.raises(ConfigError, match="false_alarm_rate"):
        llb_ray.threshold(run, false_alarm_rate=rate)
    assert final_files(run) == before


def test_a_run_without_held_out_scores_says_so(run: Path, tiny: RunConfig, photos: Path, tmp_path: Path) -> None:
    config = with_overrides(tiny, ["threshold.method=none"])
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=run, executor="serial")
    with pytest.raises(ArtifactError, match="threshold.method=none, so no held-out scores are kept"):
        llb_ray.threshold(run, false_alarm_rate=0.1)
    with pytest.raises(LlbError, match="no finished run here"):
        llb_ray.threshold(tmp_path, false_alarm_rate=0.1)


def test_the_artifacts_of_both_rates_stay(run: Path) -> None:
    first, then = _facts(run), llb_ray.threshold(run, false_alarm_rate=0.2)
    llb_ray.threshold(run, false_alarm_rate=first["false_alarm_rate"])
    assert _facts(run) == first != then
    assert len(list((run / "artifacts" / "threshold").iterdir())) == 2


def test_a_run_in_a_shared_store_stays_there(tiny: RunConfig, photos: Path, tmp_path: Path) -> None:
    llb_ray.run(
        tiny, llb_ray.read_folder(photos, tiny), out=tmp_path / "run", executor="serial", store=tmp_path / "store"
    )
    llb_ray.threshold(tmp_path / "run", false_alarm_rate=0.2)
    assert not (tmp_path / "run" / "artifacts").exists()
    llb_ray.audit(tmp_path / "run")


def test_decisions_of_a_run_at_a_uri_move_too(bucket: str, finished: Path, photos: Path, tiny: RunConfig) -> None:
    llb_ray.run(tiny, llb_ray.read_folder(photos, tiny), out=bucket, executor="serial")
    facts = llb_ray.threshold(bucket, false_alarm_rate=0.2)
    assert llb_ray.Detector.load(bucket).calibration.threshold == facts["threshold"]
    llb_ray.audit(bucket)


def test_the_held_out_scores_are_the_runs(finished: Path) -> None:
    held_out = read_table(next((finished / "artifacts" / "threshold").glob("*/held_out.arrow")))
    known = llb_ray.Detector.load(finished).calibration
    assert known.held_out_N.tolist() == sorted(held_out["score"].to_pylist())
