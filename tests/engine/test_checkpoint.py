"""A fit that is killed goes on from its last checkpoint, gives the same bytes, and leaves no checkpoint behind."""

import time
from pathlib import Path

import pytest

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import with_overrides
from llb_ray.detectors import gradient_detector
from llb_ray.engine.execution import checkpoint
from llb_ray.engine.execution.checkpoint import FileCheckpoints
from llb_ray.engine.execution.eviction import EvictionNotice
from tests.support import final_files


class Killed(BaseException):
    """Stands for a signal: nothing may catch it on the way out."""


def _die_at(monkeypatch: pytest.MonkeyPatch, last: int) -> list[int]:
    """From the next fit on, die before step `last`; the steps that were done."""
    done: list[int] = []
    step = gradient_detector.Descent.step

    def counted(self: gradient_detector.Descent, *given: object) -> None:  # type: ignore[type-arg]
        if len(done) == last:
            raise Killed
        done.append(self.num_done)
        step(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(gradient_detector.Descent, "step", counted)
    return done


@pytest.mark.parametrize("settings", [[], ["importance.mode=moments", "importance.members=true"]])
def test_no_step_is_done_twice_and_nothing_is_different(
    settings: list[str], photos: Path, tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_overrides(tiny, [*settings, "resources.checkpoint_s=0"])
    manifest = llb_ray.read_folder(photos, config)
    llb_ray.run(config, manifest, out=tmp_path / "whole", executor="serial")
    done = _die_at(monkeypatch, 17)
    with pytest.raises(Killed):
        llb_ray.run(config, manifest, out=tmp_path / "hurt", executor="serial")
    monkeypatch.undo()
    assert len(list((tmp_path / "hurt" / "checkpoints").iterdir())) == 1
    again = _die_at(monkeypatch, -1)
    llb_ray.run(config, manifest, out=tmp_path / "hurt", executor="serial")
    assert done + again == [*range(12), *range(12), *range(12), *range(20)]
    assert final_files(tmp_path / "hurt") == final_files(tmp_path / "whole")
    assert not (tmp_path / "hurt" / "checkpoints").exists()


def test_a_checkpoint_is_due_when_its_time_has_passed(tmp_path: Path) -> None:
    assert FileCheckpoints(tmp_path / "one", interval_s=0).due(1)
    assert not FileCheckpoints(tmp_path / "one", interval_s=3600).due(1000)


def test_a_notice_of_eviction_makes_a_checkpoint_due_at_once_and_then_every_few_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    monkeypatch.setattr(checkpoint, "NOTICE", notice := EvictionNotice())
    often, seldom = (FileCheckpoints(tmp_path / f"{s}", interval_s=s, _saved_s=now_s) for s in (2, 3600))
    now_s += 1
    notice.update(True)
    assert often.due(1)
    assert seldom.due(1)
    for checkpoints in (often, seldom):
        checkpoints.save({})
    now_s += 3
    notice.update(True)
    assert (often.due(2), seldom.due(2)) == (True, False)
    now_s += 3
    assert seldom.due(3)
    notice.update(False)
    assert not seldom.due(3)


def test_a_finished_fit_removes_what_a_kill_within_a_save_left(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "fit-1.checkpoint"
    checkpoints = FileCheckpoints(path, 0)
    checkpoints.save({})
    others = path.with_name(".fit-2.checkpoint.abc.tmp")
    for left in (path.with_name(".fit-1.checkpoint.abc.tmp"), others):
        left.write_bytes(b"half")
    checkpoints.drop()
    assert [*path.parent.iterdir()] == [others], "another fit may be in the middle of its save"
