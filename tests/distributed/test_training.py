"""The final detector by two workers through Ray Train: what one gives, after a death too, and errors as they were.

Starting Ray Train's workers takes most of each test: all but one are left to `make test-cluster`.
"""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

import llb_ray
from llb_ray import RunConfig
from llb_ray.api import make_executor
from llb_ray.config import WorkerRange, load, with_overrides
from llb_ray.engine.execution.heartbeat import read_beats
from llb_ray.errors import MemberError, ResourceError
from tests.engine.test_together import scores_of
from tests.support import final_files, synced
from tests.workers import CountingSpec, Team, place

pytestmark = pytest.mark.ray
TWO, PAIR = ["final.num_workers=2"], WorkerRange(2, 2)
# Of a score's size; 20 steps amplify the float noise of another order of sums to a few millionths.
TOLERANCE = 1e-4


@pytest.fixture
def redrawing(bank_weights: Path) -> RunConfig:
    """As `tiny` with the reconstruction detector, with dropout and hard mining."""
    backbone = f"{{name: test_resnet.r160_in1k, weights: {bank_weights}, layers: [1, 2]}}"
    sizes = "image_size_px: 32, channels: 16, final_steps: 20, hard_percentile: 0.5, hard_ramp_steps: 0"
    detector = f"detector={{name: reconstruction, backbone: {backbone}, {sizes}}}"
    more = ["members.count=3", "purify.keep_ratio=0.75", r"data.group_pattern=(obj\d+)"]
    return load(None, [detector, *more])


def _by_two(config: RunConfig, photos: Path, out: Path | str) -> None:
    """A run whose final detector two workers fit, and no other: what comes before is there, made by one process, and
    as many images are rejected as the threshold needs to do without further fits."""
    manifest = llb_ray.read_folder(photos, config)
    llb_ray.run(with_overrides(config, ["detector.final_steps=1"]), manifest, out=out, executor="serial")
    llb_ray.run(with_overrides(config, TWO), manifest, out=out, executor="ray")


def _two_against_one(config: RunConfig, photos: Path, tmp_path: Path) -> None:
    manifest = llb_ray.read_folder(photos, config)
    llb_ray.run(config, manifest, out=tmp_path / "one", executor="serial")
    _by_two(config, photos, tmp_path / "two")
    assert scores_of(tmp_path / "two") == pytest.approx(scores_of(tmp_path / "one"), rel=TOLERANCE)
    assert llb_ray.audit(tmp_path / "two")
    assert not (tmp_path / "two" / "checkpoints").exists(), "nothing of Ray Train's is left"


@pytest.mark.cluster  # Ray Train's start-up takes half a minute, and minutes on a busy machine
def test_two_workers_give_what_one_gives(ray_local: None, photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    _two_against_one(with_overrides(tiny, ["importance.mode=moments"]), photos, tmp_path)


@pytest.mark.cluster
def test_two_workers_give_what_one_gives_unweighted(
    ray_local: None, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    _two_against_one(tiny, photos, tmp_path)


@pytest.mark.cluster
def test_two_workers_meet_at_a_uri(ray_local: None, bucket: str, photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    _by_two(with_overrides(tiny, ["resources.checkpoint_s=0"]), photos, bucket)
    plain = synced(bucket, tmp_path / "plain")
    assert llb_ray.audit(plain)
    assert not (plain / "checkpoints").exists(), "nothing of Ray Train's is left"


@pytest.mark.cluster
def test_two_workers_redraw_as_one_does(ray_local: None, photos: Path, redrawing: RunConfig, tmp_path: Path) -> None:
    _two_against_one(redrawing, photos, tmp_path)


@pytest.mark.cluster
def test_a_worker_killed_in_the_middle_changes_nothing(
    ray_local: None, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    slow = ["detector.image_size_px=128", "detector.channels=16", "detector.final_steps=60"]
    config = with_overrides(tiny, [*slow, "resources.checkpoint_s=0"])
    seen: list[int] = []
    killer = threading.Thread(target=_kill_and_watch, args=(tmp_path / "hurt" / "progress", seen))
    killer.start()
    _by_two(config, photos, tmp_path / "hurt")
    killer.join()
    assert len(seen) == 2, "no worker was caught at work: the test tested nothing"
    assert seen[1] >= seen[0], "it went on from its checkpoint"
    _by_two(config, photos, tmp_path / "whole")
    assert final_files(tmp_path / "hurt") == final_files(tmp_path / "whole")


def _kill_and_watch(progress: Path, seen: list[int]) -> None:
    """SIGKILL the leading worker after its tenth step; how far it was, and how far its successor was when it began."""
    deadline, killed = time.monotonic() + 120, 0
    while time.monotonic() < deadline and len(seen) < 2:
        for beat in read_beats(progress):
            if beat.name != "final" or beat.done < 10 or beat.pid in (killed, os.getpid()):
                continue
            seen.append(beat.done)
            if not killed:
                killed = beat.pid
                os.kill(killed, signal.SIGKILL)
        time.sleep(0.002)


@pytest.mark.cluster
def test_a_loss_that_is_not_finite_arrives_as_its_sentence(
    ray_local: None, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    config = with_overrides(tiny, [*TWO, "purify.filter=none", "threshold.method=none", "detector.learning_rate=1e12"])
    with pytest.raises(MemberError, match=r"^final \(.*\): the loss at step \d+ is (nan|inf); lower"):
        llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path, executor="ray")


@pytest.mark.cluster
def test_an_error_of_one_worker_ends_them_all_at_once(ray_local: None, tmp_path: Path) -> None:
    with pytest.raises(MemberError, match="^team has a poison image$"):
        _meet(tmp_path, "llb")
    assert not list(tmp_path.glob("*.txt"))


@pytest.mark.cluster
def test_a_programming_error_keeps_its_type(ray_local: None, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="workers.py"):  # Ray adds whence it came
        _meet(tmp_path, "bug", max_restarts=0)


@pytest.mark.cluster
def test_a_worker_that_keeps_dying_is_told_with_how_it_ended(ray_local: None, tmp_path: Path) -> None:
    with pytest.raises(MemberError, match=r"^team: a worker died for good \(.+\); rerun") as caught:
        _meet(tmp_path, "die", max_restarts=1)
    assert "\n" not in str(caught.value)


@pytest.mark.cluster
def test_peers_hear_their_leader_and_have_the_rows_between_them(ray_local: None, tmp_path: Path) -> None:
    """As many of one to three as there is room for: two."""
    lines = _meet(tmp_path, count=WorkerRange(1, 3))
    written = {path.name: path.read_text() for path in tmp_path.glob("*.txt")}
    assert written == {"team-0-1.txt": "the leader says so", "team-1-3.txt": "the leader says so"}
    assert lines == ["team done"]


def _meet(folder: Path, fails: str = "", count: WorkerRange = PAIR, **resources: int) -> list[str]:
    """What is told of peers that meet."""
    spec, lines = CountingSpec("team", place(folder, **resources), folder, fails), list[str]()
    with make_executor("ray") as executor:
        executor.run_together(Team, spec, count, lines.append)
    return lines


def test_more_workers_than_the_cluster_holds_are_refused_at_once(
    ray_local: None, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    config = with_overrides(tiny, ["final.num_workers=3"])
    with pytest.raises(ResourceError, match="final.num_workers=3 must run at once, .* room for 2; lower it"):
        llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path / "run", executor="ray")
    assert not (tmp_path / "run").exists()
