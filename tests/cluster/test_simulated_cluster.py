"""Kill an actor, a node, the driver, in training and in scoring: the same bytes, nothing finished done again, and the
run says what died.

Six members on four logical GPUs of two simulated nodes (`support.Nodes` says what is not simulated).
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import llb_ray
from llb_ray import RunConfig
from llb_ray.api import make_executor
from llb_ray.config import with_overrides
from llb_ray.errors import ResourceError
from tests.cluster import journal
from tests.cluster.support import Nodes, in_small_shards, when
from tests.support import final_files
from tests.workers import Counting, CountingSpec, Placed, place

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.timeout(300)]
STEPS = 30  # of a member; the final detector's are in `tiny`
# Between two reports, so that somebody is caught in the middle, and dies there: the workers of a killed node live on
# for a moment.
SLOW_S = {"fit": 0.1, "score": 0.3}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    simulated = Nodes()
    yield simulated
    simulated.cluster.shutdown()


@pytest.fixture
def whole_cluster(nodes: Nodes) -> Nodes:
    nodes.restore()
    return nodes


@pytest.fixture(scope="module")
def config(tiny: RunConfig) -> RunConfig:
    more = ["members.count=6", f"detector.member_steps={STEPS}", "resources.checkpoint_s=0", "resources.batch_size=4"]
    return with_overrides(tiny, [*more, "resources.num_gpus=1", "resources.device=cpu"])


@pytest.fixture(scope="module")
def undisturbed(config: RunConfig, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The serial run, with which all others are compared."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    with in_small_shards():
        llb_ray.run(config, llb_ray.read_folder(photos, config), out=out, executor="serial")
    return out


@pytest.fixture
def begun(step: str, undisturbed: Path, tmp_path: Path) -> Path:
    """A run that has come as far as `step`, so that a test spends its time on that."""
    out = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    (out / "run.json").unlink()
    for stage in ("score", "fit") if step == "fit" else ("score",):
        shutil.rmtree(out / "artifacts" / stage)
    return out


def _in_the_middle(step: str, line: journal.Line) -> bool:
    """Neither begun just now nor about to end, so that there is something to lose and something to go on from."""
    return line.step == step and line.name != "final" and 0.3 * line.total <= line.done <= 0.8 * line.total


def _done_once_but_for(deaths: int, folder: Path) -> None:
    """No artifact was built twice, and of a fit no step was done twice but the one between two checkpoints."""
    assert max(Counter(journal.built(folder)).values()) == 1
    for name in {line.name for line in journal.read(folder) if line.step == "fit"}:
        steps = [line.done for line in journal.read(folder) if line.name == name]
        assert sorted(set(steps)) == list(range(1, steps[-1] + 1)), name
        assert len(steps) - len(set(steps)) <= deaths, f"{name} repeated more than its last step: {steps}"


@pytest.mark.parametrize("what", ["actor", "node"])
@pytest.mark.parametrize("step", ["fit", "score"])
def test_the_death_of_an_actor_or_a_node_changes_nothing_and_is_told(
    what: str,
    step: str,
    whole_cluster: Nodes,
    begun: Path,
    undisturbed: Path,
    config: RunConfig,
    photos: Path,
    tmp_path: Path,
) -> None:
    struck: list[journal.Line] = []
    said: list[str] = []

    def strike(line: journal.Line) -> None:
        os.kill(line.pid, signal.SIGKILL) if what == "actor" else whole_cluster.kill_node_of(line.pid)
        struck.append(line)

    with whole_cluster.driving(tmp_path / "journal", SLOW_S[step]), in_small_shards():
        killer = when(tmp_path / "journal", lambda line: _in_the_middle(step, line), strike)
        llb_ray.run(config, llb_ray.read_folder(photos, config), out=begun, executor="ray", tell=said.append)
        killer.join()
    assert struck, "nobody was caught at work: the test tested nothing"
    assert final_files(begun) == final_files(undisturbed)
    assert llb_ray.audit(begun)
    _done_once_but_for(1, tmp_path / "journal")
    died = [line for line in said if "its process died and was restarted (1x), resuming at" in line]
    assert died, said
    if what == "actor":
        assert [line.partition(":")[0] for line in died] == [struck[0].name]
    else:
        assert any(line.startswith("node ") and "is gone; what ran there starts again" in line for line in said), said
    if step == "fit":
        # Of those that died with a node, others may only have begun.
        (own,) = (line for line in died if line.startswith(f"{struck[0].name}:"))
        first, _, total = own.split()[-1].partition("/")
        assert own.endswith(f"resuming at step {first}/{total}")
        assert (int(first) > 1, int(total)) == (True, STEPS)


def test_a_fit_on_a_node_that_is_drained_is_saved_before_it_goes(
    whole_cluster: Nodes, undisturbed: Path, config: RunConfig, photos: Path, tmp_path: Path
) -> None:
    """By itself, it would be saved once an hour."""
    seldom, said, saved = with_overrides(config, ["resources.checkpoint_s=3600"]), list[str](), list[bool]()
    out = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    _without_member(out, 3)

    def strike(line: journal.Line) -> None:
        whole_cluster.drain_node_of(line.pid)
        saved.append(_within(30, lambda: any((out / "checkpoints").glob("*.checkpoint"))))
        whole_cluster.kill_node_of(line.pid)

    with whole_cluster.driving(tmp_path / "journal", 0.2), in_small_shards():
        killer = when(tmp_path / "journal", lambda line: line.done >= 5, strike)
        llb_ray.run(seldom, llb_ray.read_folder(photos, seldom), out=out, executor="ray", tell=said.append)
        killer.join()
    assert saved == [True]
    (resumed,) = (line for line in said if line.startswith("member-003: its process died and was restarted (1x)"))
    assert int(resumed.split()[-1].partition("/")[0]) > 5
    made, reference = (final_files(run) | {"config.yaml": ""} for run in (out, undisturbed))
    assert made == reference, "how often a fit is saved is no part of it"


@pytest.mark.parametrize("step", ["fit", "score"])
def test_after_the_death_of_the_driver_the_same_command_goes_on(
    step: str, whole_cluster: Nodes, begun: Path, undisturbed: Path, config: RunConfig, photos: Path, tmp_path: Path
) -> None:
    written, folder = tmp_path / "config.yaml", tmp_path / "journal"
    written.write_text(config.to_yaml())
    folder.mkdir()
    given = [whole_cluster.address, str(folder), str(SLOW_S[step]), str(written), str(photos), str(begun)]
    command = [sys.executable, "-m", "tests.cluster.driver", *given]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as driver:
        killer = when(folder, lambda line: _in_the_middle(step, line), lambda line: os.kill(driver.pid, signal.SIGKILL))
        driver.wait()
        killer.join()
    assert driver.returncode == -signal.SIGKILL
    assert not (begun / "run.json").exists(), "run.json means finished"
    _until_gone({line.pid for line in journal.read(folder)})
    again = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=200)
    assert final_files(begun) == final_files(undisturbed)
    assert llb_ray.audit(begun)
    _done_once_but_for(1, folder)
    said = again.stdout.splitlines()
    assert any(line.startswith("previous run crashed in stage ") for line in said), said
    if step == "fit":
        assert any("resumed from checkpoint at step" in line for line in said), said


def _until_gone(pids: set[int]) -> None:
    """Ray ends the workers of a driver that died, a moment later."""
    _within(60, lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def _within(limit_s: float, holds: Callable[[], bool]) -> bool:
    """True as soon as it holds, False where it does not in that time."""
    give_up_s = time.monotonic() + limit_s
    while not (held := holds()) and time.monotonic() < give_up_s:
        time.sleep(0.05)
    return held


def test_a_partial_ensemble_where_a_members_process_keeps_dying(
    whole_cluster: Nodes, undisturbed: Path, config: RunConfig, photos: Path, tmp_path: Path
) -> None:
    """As the machine's memory would end it: no word, no restart left."""
    few = with_overrides(config, ["members.min_members=5", "resources.max_restarts=0"])
    out, said = tmp_path / "run", list[str]()
    shutil.copytree(undisturbed, out)
    lost = _without_member(out, 3)
    with whole_cluster.driving(tmp_path / "journal", SLOW_S["fit"]), in_small_shards():
        killer = when(
            tmp_path / "journal", lambda line: line.name == "member-003", lambda line: os.kill(line.pid, signal.SIGKILL)
        )
        result = llb_ray.run(few, llb_ray.read_folder(photos, few), out=out, executor="ray", tell=said.append)
        killer.join()
    assert not lost.exists()
    assert result.missing["member-003"].startswith("member-003 (its share: 8 images): its process died and 0 restarts")
    assert any(line.startswith("note: going on with 5 of 6 members; missing is member-003") for line in said), said
    assert any("missing: member-003" in passed for passed in llb_ray.audit(out))


def _without_member(run: Path, number: int) -> Path:
    """The place of the member's artifact, which is gone."""
    fitted = run / "artifacts" / json.loads((run / "run.json").read_text())["artifacts"]["members"][number]
    shutil.rmtree(fitted)
    return fitted


def test_more_than_any_node_has_is_refused_at_once_with_what_there_is(whole_cluster: Nodes, tmp_path: Path) -> None:
    spec = CountingSpec("greedy", place(tmp_path, num_cpus=3, num_gpus=1, device="cpu"), tmp_path)
    with (
        whole_cluster.driving(tmp_path / "journal", 0),
        make_executor("ray") as executor,
        pytest.raises(ResourceError, match="3 CPUs and 1 GPUs on one node, and the largest of 3 has 2 CPUs and 2 GPUs"),
    ):
        executor.run(Counting, [spec], print)


@pytest.mark.parametrize("wanted", ["{0}", "in({0}, node-0)", "!{1}", "!in({1}, node-0)"])
def test_workers_stay_on_the_nodes_that_have_the_label(wanted: str, whole_cluster: Nodes, tmp_path: Path) -> None:
    """More of them than one node has room for, so that Ray would take the other one too."""
    node = next(iter(whole_cluster.workers.values()))
    # The head, too, is without the other node's label, and has no room.
    asked = {"num_gpus": 1, "device": "cpu", "label_selector": {"name": wanted.format(*whole_cluster.workers)}}
    specs = [CountingSpec(f"w{number}", place(tmp_path, **asked), tmp_path) for number in range(6)]
    with whole_cluster.driving(tmp_path / "journal", 0), make_executor("ray") as executor:
        assert executor.slots(specs[0].context.resources) == 2
        executor.run(Placed, specs, print)
    assert [(tmp_path / f"{spec.name}.node").read_text() for spec in specs] == [node.node_id] * 6


def test_storage_that_a_node_does_not_see_is_refused_before_anything_starts(
    whole_cluster: Nodes, tmp_path: Path
) -> None:
    # One machine has one file system; but of /proc/self, every process sees its own.
    private, shared = Path(f"/proc/self/task/{os.getpid()}"), tmp_path / "file"
    shared.touch()
    assert private.exists()
    with whole_cluster.driving(tmp_path / "journal", 0), make_executor("ray") as executor:
        executor.refuse_unshared({tmp_path: shared})
        with pytest.raises(ResourceError, match=r"^node [\d.]+ \(\w{6}\): /images is not the same folder there"):
            executor.refuse_unshared({tmp_path: shared, Path("/images"): private})
