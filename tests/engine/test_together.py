"""Several workers for the final detector, as a run sees it: what one gives, under the same key, and refused in time."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import with_overrides
from llb_ray.data.tables import read_table
from llb_ray.detectors import gradient_detector
from llb_ray.detectors.data_parallel import Turn
from llb_ray.engine.execution.executor import Executor
from llb_ray.engine.pipeline.pipeline import Result
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.errors import ResourceError
from tests.peers import ThreadExecutor

THREE = ["final.num_workers=3"]
WEIGHTED = ["importance.mode=moments"]


class Killed(BaseException):
    """Stands for a signal: nothing may catch it on the way out."""


def _run(config: RunConfig, photos: Path, out: Path, executor: Executor | str, said: list[str] | None = None) -> Result:
    tell = (said if said is not None else []).append
    return llb_ray.run(config, llb_ray.read_folder(photos, config), out=out, executor=executor, tell=tell)


def scores_of(run: Path) -> dict[str, float]:
    table = read_table(run / "image_scores.arrow")
    return dict(zip(table["image_id"].to_pylist(), table["score"].to_pylist(), strict=True))


@pytest.fixture
def without_final(finished: Path, tmp_path: Path) -> Path:
    """A run that has everything but its final detector."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(RunFolder.open(run).made().final.path)
    return run


def test_three_workers_give_what_one_gives(without_final: Path, finished: Path, photos: Path, tiny: RunConfig) -> None:
    result = _run(with_overrides(tiny, THREE), photos, without_final, ThreadExecutor())
    assert next(time.stage for time in result.times if not time.reused) == "final"
    assert scores_of(without_final) == pytest.approx(scores_of(finished), rel=1e-4)
    three, one = (RunFolder.open(run).made().final for run in (without_final, finished))
    assert (three.path.name, three.files.keys()) == (one.path.name, one.files.keys()), "the same key"
    assert llb_ray.audit(without_final)


def test_as_many_of_a_range_as_there_is_room_for(
    without_final: Path, finished: Path, photos: Path, tiny: RunConfig
) -> None:
    """One in the serial executor, which gives the same bytes."""
    _run(with_overrides(tiny, ["final.num_workers=[1, 4]"]), photos, without_final, "serial")
    assert scores_of(without_final) == scores_of(finished)


def test_what_three_workers_gave_is_found_by_one(without_final: Path, photos: Path, tiny: RunConfig) -> None:
    _run(with_overrides(tiny, THREE), photos, without_final, ThreadExecutor())
    again = _run(tiny, photos, without_final, "serial")
    assert all(time.reused for time in again.times)


def test_importance_weights_see_the_whole_batch(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    weighted = with_overrides(tiny, ["purify.filter=none", *WEIGHTED])
    for out, config in (("one", weighted), ("three", with_overrides(weighted, THREE))):
        _run(config, photos, tmp_path / out, ThreadExecutor())
    assert scores_of(tmp_path / "three") == pytest.approx(scores_of(tmp_path / "one"), rel=1e-4)
    one, three = (read_table(tmp_path / out / "importance.arrow") for out in ("one", "three"))
    assert one["image_id"] == three["image_id"]
    np.testing.assert_allclose(three["weight"].to_numpy(), one["weight"].to_numpy(), rtol=1e-3)


def test_what_three_workers_began_one_goes_on_with(
    without_final: Path, finished: Path, photos: Path, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    deadly = {12}
    step = gradient_detector.Descent.step

    def dies_once(self: gradient_detector.Descent, loss_B: torch.Tensor, turn: Turn, *given: float) -> None:  # type: ignore[type-arg]
        # The leading one: if another died first, the leader might not come to the checkpoint of the step before.
        if self.num_done in deadly and turn.peers.leads:
            raise Killed
        step(self, loss_B, turn, *given)
        done.append(self.num_done)

    monkeypatch.setattr(gradient_detector.Descent, "step", dies_once)
    often = with_overrides(tiny, ["resources.checkpoint_s=0"])
    with pytest.raises((Killed, threading.BrokenBarrierError)):
        _run(with_overrides(often, THREE), photos, without_final, ThreadExecutor())
    assert set(done) == set(range(1, 13))
    done.clear()
    deadly.clear()
    _run(often, photos, without_final, "serial")
    assert done == [*range(13, 21)]
    assert scores_of(without_final) == pytest.approx(scores_of(finished), rel=1e-4)


def test_no_room_for_all_is_refused_before_anything_is_done(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    for number, named in (("5", "final.num_workers=5"), ("[5, 6]", r"5 of final.num_workers=\[5, 6\]")):
        many = with_overrides(tiny, [f"final.num_workers={number}"])
        for executor, room in (("serial", 1), (ThreadExecutor(), 4)):
            with pytest.raises(ResourceError, match=f"^{named} must run at once.*room for {room}; lower"):
                _run(many, photos, tmp_path / "run", executor)
    assert not (tmp_path / "run").exists()


def test_a_memory_bank_takes_one_worker_and_says_so(
    finished_bank: Path, photos: Path, tiny_bank: RunConfig, tmp_path: Path
) -> None:
    run, said = Path(shutil.copytree(finished_bank, tmp_path / "run")), list[str]()
    shutil.rmtree(RunFolder.open(run).made().final.path)
    _run(with_overrides(tiny_bank, THREE), photos, run, "serial", said)
    assert "note: final.num_workers has no effect: detector memory_bank is fitted by one worker" in said
    assert scores_of(run) == scores_of(finished_bank)
