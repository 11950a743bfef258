"""What is left of a run: what was expected of the stages to come, corrected by what the others took."""

from pathlib import Path

import pytest

import llb_ray
from llb_ray import RunConfig
from llb_ray.engine.execution.executor import SerialExecutor
from llb_ray.engine.rundir.stage_timer import StageTime
from llb_ray.planning import outlook as module
from llb_ray.planning.outlook import Expected, Outlook, outlook

EXPECTED = Outlook([Expected("features", 40.0, 400), Expected("folds", 20.0), Expected("final", 20.0)])


def test_before_anything_is_known_the_forecast_is_all_there_is() -> None:
    assert EXPECTED.left_s([], "", 0.0, 0.0, None) == 80.0
    assert EXPECTED.left_s([], "features", 10.0, 0.0, None) == 70.0
    assert Outlook().left_s([], "features", 10.0, 0.5, 10.0) is None


@pytest.mark.parametrize(("took_s", "about_s"), [(40.0, 40.0), (80.0, 80.0), (10.0, 10.0)])
def test_stages_that_took_longer_make_the_others_longer(took_s: float, about_s: float) -> None:
    left_s = EXPECTED.left_s([StageTime("features", took_s, reused=False)], "", 0.0, 0.0, None)
    assert left_s == pytest.approx(about_s, rel=0.2)


def test_a_stage_at_work_is_left_as_its_own_speed_says() -> None:
    left_s = EXPECTED.left_s([], "features", 40.0, 0.5, 40.0)  # twice as slow as expected
    assert left_s == pytest.approx(40 + 2 * 40, rel=0.1)


def test_what_was_found_finished_is_not_ahead_and_says_nothing_about_speed() -> None:
    assert EXPECTED.left_s([StageTime("features", 0.0, reused=True)], "", 0.0, 0.0, None) == 40.0


def test_a_stage_that_nobody_expected_takes_nothing_away() -> None:
    times = [StageTime("purify", 100.0, reused=False)]
    assert EXPECTED.left_s(times, "", 0.0, 0.0, None) == 80.0


@pytest.mark.parametrize("name", ["tiny", "tiny_bank"])
def test_every_configuration_has_an_outlook_and_a_plan_makes_it_better(
    name: str, photos: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLB_CACHE", str(tmp_path / "cache"))
    config: RunConfig = request.getfixturevalue(name)
    manifest = llb_ray.read_folder(photos, config)
    usual = outlook(config, manifest, SerialExecutor(), tmp_path)
    named = {one.stage: one for one in usual.stages}
    assert {"features", "members", "member-scores", "final", "final-scores", "evaluate", "report"} <= set(named)
    assert (named["features"].num_images, named["member-scores"].num_images) == (72, 48)
    assert all(one.seconds > 0 for one in usual.stages)
    measured = module._usual(config, module.Size.of(config, manifest))
    slower = {**measured.__dict__, "evaluate": module.Linear(77.0, 0.0)}
    module.remember(config, module.CostModel(**slower))
    told = outlook(config, manifest, SerialExecutor(), tmp_path).of("evaluate")
    assert told is not None
    assert told.seconds == 77.0
    next((tmp_path / "cache" / "calibrations").iterdir()).write_text("{}")  # of another version
    assert outlook(config, manifest, SerialExecutor(), tmp_path) == usual
