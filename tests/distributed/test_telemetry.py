"""What the metrics say of a run; `tests/cluster` finds them at a real endpoint."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from llb_ray.distributed import repeating, telemetry
from llb_ray.distributed.telemetry import Telemetry
from tests.support import write_beat, write_events
from tests.workers import place

Values = dict[str, float]


class _Recorder:
    """Stands in for Ray's gauges and counters: values by name and tags, spelt as Prometheus does."""

    values: ClassVar[Values] = defaultdict(float)

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self._name, self._keys = name, tag_keys

    def _key(self, tags: dict[str, str]) -> str:
        assert set(tags) == set(self._keys), "Ray refuses a tag that is missing or unknown"
        own = [tags[key] for key in self._keys if key not in ("run", "category")]
        assert (tags["run"], tags["category"]) == ("night", "gear")
        return f"{self._name}{{{','.join(own)}}}"

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values[self._key(tags)] = value

    def inc(self, value: float, tags: dict[str, str]) -> None:
        self.values[self._key(tags)] += value


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_Recorder, "values", defaultdict(float))
    monkeypatch.setattr(telemetry, "Gauge", _Recorder)
    monkeypatch.setattr(telemetry, "Counter", _Recorder)
    monkeypatch.setattr(repeating, "LOOK_S", 0.001)
    folder = tmp_path / "night"
    folder.mkdir()
    write_events(folder, {"event": "run started", "config": {"members": {"count": 3}}})
    return folder


def _watched(run: Path) -> Values:
    """The metrics when the context has ended, which looks a last time."""
    with Telemetry() as watching:
        watching.watch(replace(place(run), category="gear"))
    return dict(_Recorder.values)


def test_workers_are_counted_by_state_and_followed(run: Path) -> None:
    write_beat(run, "member-000", state="done", done=10)
    write_beat(run, "member-001", figures={"loss": 0.25, "effective_sample_size": 7.5})
    write_beat(run, "member-002", state="waiting")
    values = _watched(run)
    assert {key: value for key, value in values.items() if key.startswith("llb_workers")} == {
        "llb_workers{member,waiting}": 1,
        "llb_workers{member,working}": 1,
        "llb_workers{member,done}": 1,
    }
    assert values["llb_progress_ratio{member-000,score}"] == 1
    assert values["llb_progress_ratio{member-001,score}"] == 0.3
    assert values["llb_images_per_second{member-000,score}"] == 0
    assert values["llb_images_per_second{member-001,score}"] == pytest.approx(1.5)
    assert (values["llb_loss{member-001}"], values["llb_effective_sample_size{member-001}"]) == (0.25, 7.5)
    assert "llb_loss{member-000}" not in values
    assert 0 <= values["llb_heartbeat_age_seconds{member-001}"] < 5
    assert "llb_progress_ratio{member-002,score}" not in values


def test_images_are_counted_once_and_again_when_a_worker_starts_again(run: Path) -> None:
    look, watched = Telemetry(), telemetry._Watched("gear")
    look._meters = telemetry.Meters()
    for done in (3, 3, 7, 2):
        write_beat(run, "member-000", done=done)
        write_beat(run, "member-001", done=done, step="fit", unit="step")
        look._publish(telemetry.read_status(run), watched)
    assert _Recorder.values["llb_images{score}"] == 7 + 2
    assert "llb_images{fit}" not in _Recorder.values
    assert _Recorder.values["llb_training_steps_per_second{member-001,fit}"] == pytest.approx(1)


def test_stages_found_finished_are_told_apart(run: Path) -> None:
    facts = {"event": "stage finished", "seconds": 2.0}
    write_events(run, facts | {"stage": "features", "reused": True}, facts | {"stage": "members", "reused": False})
    values = _watched(run)
    assert values["llb_stages{features,true}"] == values["llb_stages{members,false}"] == 1
    assert values["llb_stage_seconds{members}"] == 2


def test_the_kept_share_is_told_when_the_run_has_ended(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    monkeypatch.setattr(telemetry.Gauge, "set", lambda gauge, value, tags: shares.append(value))
    look = Telemetry()
    look._meters = telemetry.Meters()
    look._publish(telemetry.read_status(finished), telemetry._Watched(""))
    assert shares[-1] == 0.75


def test_a_folder_that_is_gone_ends_nothing(run: Path, tmp_path: Path) -> None:
    with Telemetry() as watching:
        watching.watch(replace(place(tmp_path / "gone"), category="gear"))
    assert _Recorder.values == {}
