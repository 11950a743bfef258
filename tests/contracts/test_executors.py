"""One suite over every executor: the same artifacts, whoever runs the members, even if a process is killed."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray

import llb_ray
from llb_ray import RunConfig
from llb_ray.api import make_executor
from llb_ray.config import with_overrides
from llb_ray.engine.execution.executor import Executor
from llb_ray.engine.execution.heartbeat import read_beats
from llb_ray.errors import MemberError, ResourceError
from tests.support import final_files
from tests.workers import Counting, CountingSpec, place

pytestmark = pytest.mark.ray


@pytest.fixture(params=["serial", "ray"])
def executor(request: pytest.FixtureRequest, ray_local: None) -> Iterator[Executor]:
    with make_executor(request.param) as entered:
        yield entered


def test_every_step_of_every_worker_runs_once_and_all_of_them_say_how_far_they_are(
    executor: Executor, tmp_path: Path
) -> None:
    """That they wait, before their turn comes, and at the end that they are done; more than there is room for."""
    specs = [CountingSpec(f"w{number}", place(tmp_path), tmp_path) for number in range(5)]
    lines: list[str] = []
    seen: list[Counter[str]] = []

    def tell(line: str) -> None:
        lines.append(line)
        seen.append(Counter(beat.state for beat in read_beats(tmp_path / "progress")))

    executor.run(Counting, specs, tell)
    assert sorted(path.name for path in tmp_path.glob("*.txt")) == sorted(
        f"w{number}-{step}.txt" for number in range(5) for step in Counting.STEPS
    )
    assert sorted(lines) == [f"w{number} done" for number in range(5)]
    assert [states.total() for states in seen] == [5] * 5
    assert [states["done"] for states in seen] == [1, 2, 3, 4, 5]


def test_our_own_error_arrives_as_it_was_raised(executor: Executor, tmp_path: Path) -> None:
    specs = [
        CountingSpec("good", place(tmp_path), tmp_path),
        CountingSpec("bad", place(tmp_path), tmp_path, fails="llb"),
    ]
    with pytest.raises(MemberError, match="^bad has a poison image$"):
        executor.run(Counting, specs, print)


def test_a_full_disk_arrives_with_its_path_and_in_one_line(executor: Executor, tmp_path: Path) -> None:
    spec = CountingSpec("unlucky", place(tmp_path), tmp_path, fails="disk")
    with pytest.raises(OSError, match="No space left") as error:
        executor.run(Counting, [spec], print, may_fail=1)
    assert str(error.value) == f"[Errno 28] No space left on device: '{tmp_path}'"


def test_as_many_as_may_fail_do_and_the_others_are_finished(executor: Executor, tmp_path: Path) -> None:
    fails = {"w1": "llb", "w2": "llb"}
    specs = [CountingSpec(name, place(tmp_path), tmp_path, fails.get(name, "")) for name in ("w0", "w1", "w2", "w3")]
    lines: list[str] = []
    failures = executor.run(Counting, specs, lines.append, may_fail=2)
    assert {name: str(error) for name, error in failures.items()} == {
        "w1": "w1 has a poison image",
        "w2": "w2 has a poison image",
    }
    assert sorted(lines) == ["w0 done", "w3 done"]
    with pytest.raises(MemberError, match="has a poison image"):
        executor.run(Counting, specs[1:3], print, may_fail=1)


def test_a_programming_error_keeps_its_type(executor: Executor, tmp_path: Path) -> None:
    spec = CountingSpec("bad", place(tmp_path), tmp_path, fails="bug")
    with pytest.raises(ZeroDivisionError):
        executor.run(Counting, [spec], print)


def test_more_than_any_node_has_is_refused_at_once(ray_local: None, tmp_path: Path) -> None:
    spec = CountingSpec("greedy", place(tmp_path, num_cpus=8, num_gpus=1, device="cpu"), tmp_path)
    with (
        make_executor("ray") as executor,
        pytest.raises(ResourceError, match="8 CPUs and 1 GPUs .* has 2 CPUs and 2 GPUs"),
    ):
        executor.run(Counting, [spec], print)


def test_a_missing_gpu_is_refused_not_replaced(tiny: RunConfig, photos: Path, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so asking for one is fine")
    config = with_overrides(tiny, ["resources.num_gpus=1"])
    with pytest.raises(ResourceError, match="torch finds none"):
        llb_ray.run(config, llb_ray.read_folder(photos, tiny), out=tmp_path, executor="serial")


def test_ray_gives_what_serial_gives_with_more_members_than_gpus(
    ray_local: None, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    config = with_overrides(tiny, ["resources.device=cpu", "members.count=3"])
    manifest = llb_ray.read_folder(photos, tiny)
    llb_ray.run(config, manifest, out=tmp_path / "serial", executor="serial")
    llb_ray.run(with_overrides(config, ["resources.num_gpus=1"]), manifest, out=tmp_path / "ray", executor="ray")
    serial, parallel = final_files(tmp_path / "serial"), final_files(tmp_path / "ray")
    serial.pop("config.yaml"), parallel.pop("config.yaml")
    assert serial == parallel
    assert llb_ray.audit(tmp_path / "ray")


def test_killing_actors_changes_nothing(ray_local: None, photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    """One in the middle of a fit, and later one that scores."""
    slow = ["detector.image_size_px=128", "detector.channels=16", "resources.batch_size=1"]
    config = with_overrides(tiny, [*slow, "detector.member_steps=40"])
    manifest = llb_ray.read_folder(photos, tiny)
    killed: list[str] = []
    killer = threading.Thread(target=_kill_one_in_each, args=(tmp_path / "hurt" / "progress", killed))
    killer.start()
    llb_ray.run(config, manifest, out=tmp_path / "hurt", executor="ray")
    killer.join()
    assert killed == ["fit", "score"], "no actor was caught at work: the test tested nothing"
    llb_ray.run(config, manifest, out=tmp_path / "whole", executor="serial")
    assert final_files(tmp_path / "hurt") == final_files(tmp_path / "whole")


def _kill_one_in_each(progress: Path, killed: list[str]) -> None:
    """SIGKILL the first member seen in the middle of its fit, then the first scorer seen in the middle of its work."""
    deadline = time.monotonic() + 120
    for step in ("fit", "score"):
        while step not in killed and time.monotonic() < deadline:
            for beat in read_beats(progress):
                if beat.step == step and beat.name != "final" and beat.done < beat.total:
                    os.kill(beat.pid, signal.SIGKILL)
                    killed.append(step)
                    break
            time.sleep(0.002)


def test_an_actor_of_many_images_is_started_again(ray_local: None, tmp_path: Path) -> None:
    """Ray keeps a large argument in its object store, where nobody but the driver holds on to it."""
    ballast = os.urandom(3_000_000)
    spec = CountingSpec("unlucky", place(tmp_path, max_restarts=1), tmp_path, fails="die once", ballast=ballast)
    with make_executor("ray") as executor:
        executor.run(Counting, [spec], print)
    assert (tmp_path / "died").exists()
    assert (tmp_path / "unlucky-score.txt").exists()


def test_an_actor_that_keeps_dying_is_named(ray_local: None, tmp_path: Path) -> None:
    spec = CountingSpec("doomed", place(tmp_path, max_restarts=1), tmp_path, fails="die")
    with make_executor("ray") as executor, pytest.raises(MemberError, match="doomed: its process died and 1 restarts"):
        executor.run(Counting, [spec], print)


def test_a_worker_that_keeps_dying_may_be_done_without(ray_local: None, tmp_path: Path) -> None:
    once = place(tmp_path, max_restarts=0)
    specs = [CountingSpec("good", once, tmp_path), CountingSpec("doomed", once, tmp_path, fails="die")]
    with make_executor("ray") as executor:
        failures = executor.run(Counting, specs, print, may_fail=1)
    assert "its process died and 0 restarts did not help" in str(failures["doomed"])


def test_actors_have_telling_names_which_two_runs_at_once_may_share(ray_local: None, tmp_path: Path) -> None:
    named = replace(place(tmp_path), category="gear")
    specs = [CountingSpec(f"member-{number:03d}", named, tmp_path) for number in range(2)]
    found: list[dict[str, str]] = []
    with make_executor("ray") as executor:
        with make_executor("ray") as another:

            def tell(_: str) -> None:
                nested = not found
                found.extend(ray.util.list_named_actors(all_namespaces=True))
                if nested:
                    another.run(Counting, specs[:1], tell)

            executor.run(Counting, specs[:1], tell)
        executor.run(Counting, specs, tell)
    assert {actor["name"] for actor in found} == {"llb-gear-worker-00", "llb-gear-worker-01"}
    namespaces = {actor["namespace"] for actor in found}
    assert len(namespaces) == 2
    assert all(namespace.startswith(f"llb-{tmp_path.name}-") for namespace in namespaces)


def test_members_share_processes_and_the_next_stage_finds_them_at_work(ray_local: None, tmp_path: Path) -> None:
    specs = [CountingSpec(f"w{number}", place(tmp_path), tmp_path) for number in range(12)]
    with make_executor("ray") as executor:
        executor.run(Counting, specs[:6], print)
        executor.run(Counting, specs[6:], print)
    pids = [(tmp_path / f"w{number}-score.txt").read_text() for number in range(12)]
    assert len(set(pids)) <= 2, "there is room for two"
    assert set(pids[:6]) & set(pids[6:])


def test_idle_actors_give_their_place_to_workers_that_ask_for_something_else(ray_local: None, tmp_path: Path) -> None:
    with make_executor("ray") as executor:
        for name, num_cpus in (("small", 1), ("large", 2), ("small again", 1)):
            executor.run(Counting, [CountingSpec(name, place(tmp_path, num_cpus=num_cpus), tmp_path)], print)


def test_finished_actors_give_their_place_back(ray_local: None, tmp_path: Path) -> None:
    specs = [CountingSpec(f"w{number}", place(tmp_path, num_cpus=2), tmp_path) for number in range(3)]
    with make_executor("ray") as executor:
        executor.run(Counting, specs, print)
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources().get("CPU") == 2
