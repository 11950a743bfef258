"""How far a run is, from its files: the stage at work, all its workers as one, and a speed that is that of late."""

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import llb_ray
from llb_ray.config import parse
from llb_ray.disk import write_json
from llb_ray.engine.execution import heartbeat
from llb_ray.engine.execution.heartbeat import Beat, State
from llb_ray.engine.inspection.run_progress import Pace, Progress, read_progress


def _log(run: Path, *events: tuple[str, float, dict[str, Any]]) -> None:
    lines = [json.dumps({"event": event, "time_s": time_s, **facts}) for event, time_s, facts in events]
    (run / "events.jsonl").write_text("\n".join(lines) + "\n")


def _beat(
    run: Path, name: str, done: int, total: int, time_s: float, state: State = "working", unit: str = "images"
) -> None:
    (run / "progress").mkdir(exist_ok=True)
    write_json(run / "progress" / f"{name}.json", asdict(Beat(name, "s", done, total, unit, 1, time_s, 100.0, state)))


BEGUN = {"config": {"members": {"count": 3}}}
STARTED = ("run started", 100.0, BEGUN)
FEATURES = ("stage started", 101.0, {"stage": "features", "reused": False})
ENDED = ("stage finished", 110.0, {"stage": "features", "reused": False, "seconds": 9.0})


def test_all_workers_of_the_stage_are_one(tmp_path: Path) -> None:
    _log(tmp_path, STARTED, FEATURES)
    _beat(tmp_path, "featurizer-000", 30, 100, 105.0)
    _beat(tmp_path, "featurizer-001", 100, 100, 104.0, "done")
    _beat(tmp_path, "featurizer-002", 0, 0, 100.9995, "waiting")  # the log's times are rounded
    _beat(tmp_path, "scorer-000", 7, 7, 90.0, "done")  # of a run before
    found = read_progress(tmp_path / "progress", 99.0)
    assert found is not None
    assert found.at_work == Progress("features", 101.0, 130, 300, "images")
    assert found.times == []


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], None),
        ([STARTED], None),
        ([STARTED, FEATURES], "features"),
        ([STARTED, FEATURES, ENDED], ""),
        ([STARTED, FEATURES, ("run failed", 102.0, {}), ("run started", 200.0, BEGUN)], None),
    ],
)
def test_the_stage_at_work_is_the_last_that_began(
    events: list[tuple[str, float, dict[str, Any]]], expected: str | None, tmp_path: Path
) -> None:
    (tmp_path / "progress").mkdir()
    _log(tmp_path, *events)
    found = read_progress(tmp_path / "progress", 99.0)
    assert (None if found is None else found.at_work.name if found.at_work else "") == expected


def test_a_run_of_before_and_a_folder_that_vanishes_are_no_progress(tmp_path: Path) -> None:
    _log(tmp_path, STARTED, FEATURES)
    assert read_progress(tmp_path / "progress", 200.0) is None
    shutil.rmtree(tmp_path)
    assert read_progress(tmp_path / "progress", 0.0) is None


def test_the_speed_is_that_of_late_and_starts_anew_with_each_stage() -> None:
    pace = Pace()
    assert pace.per_second(Progress("features", 0.0, 0, 900, "images"), 5.0) is None
    assert pace.per_second(Progress("features", 0.0, 30, 900, "images"), 10.0) == 3.0
    assert pace.per_second(Progress("features", 0.0, 80, 900, "images"), 11.0) == 50.0
    for second in range(12, 60):
        slower = pace.per_second(Progress("features", 0.0, 80 + second, 900, "images"), float(second))
    assert slower == pytest.approx(1.0)
    assert pace.per_second(Progress("members", 60.0, 0, 9, "steps"), 61.0) is None


def test_features_are_told_by_batch_and_their_number_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path
) -> None:
    monkeypatch.setattr(heartbeat, "_BEAT_INTERVAL_S", 0.0)
    told: list[tuple[str, int, int]] = []
    write = heartbeat.Heartbeat._write

    def noting(self: heartbeat.Heartbeat, beat: Beat) -> None:
        told.append((beat.step, beat.done, beat.total))
        write(self, beat)

    monkeypatch.setattr(heartbeat.Heartbeat, "_write", noting)
    config = parse(
        {
            "detector": {"name": "autoencoder", "image_size_px": 32, "member_steps": 2, "final_steps": 2},
            "members": {"count": 2},
            "purify": {"keep_ratio": 0.75},
            "resources": {"batch_size": 10},
        }
    )
    before = time.time()
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path / "run", executor="serial")
    encoded = [(done, total) for step, done, total in told if step == "encode" and total]
    assert encoded[:3] == [(0, 72), (10, 72), (20, 72)]
    assert encoded[-1] == (72, 72)
    assert ("score", 0, 48) in told
    found = read_progress(tmp_path / "run" / "progress", before)
    assert found is not None
    assert "features" in {time.stage for time in found.times}
