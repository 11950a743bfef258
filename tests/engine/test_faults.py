"""Disks, mounts and members that fail: one sentence that names what, and a run that can be resumed."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import llb_ray
from llb_ray import RunConfig
from llb_ray.cli import main
from llb_ray.config import parse, with_overrides
from llb_ray.data.tables import read_table
from llb_ray.detectors import gradient_detector
from llb_ray.detectors.gradient_detector import GradientDetector
from llb_ray.disk import naming
from llb_ray.engine.execution.executor import resumption
from llb_ray.engine.execution.heartbeat import Beat, Heartbeat, read_beat
from llb_ray.errors import ConfigError, MemberError, ResourceError
from tests.support import final_files
from tests.workers import place

DISK = [errno.ENOSPC, errno.EROFS, errno.ESTALE]


def _command(config: Path, photos: Path, out: Path) -> list[str]:
    return ["run", "--config", str(config), "--data", str(photos), "--out", str(out), "--executor", "serial"]


@pytest.fixture
def written(tiny: RunConfig, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(with_overrides(tiny, ["resources.checkpoint_s=0"]).to_yaml())
    return path


def _sentence(written: Path, photos: Path, out: Path) -> str:
    """What the command says when it refuses."""
    result = CliRunner().invoke(main, _command(written, photos, out))
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return result.output.splitlines()[-1]


def _fails(where: str, number: int, after: int = 0) -> Callable[..., int]:
    """`Path.write_bytes`, failing with `number` where the path has `where` in it, from the second such call on say."""
    write, calls = Path.write_bytes, [after]

    def failing(self: Path, data: bytes) -> int:
        if where in str(self):
            calls[0] -= 1
            if calls[0] < 0:
                raise OSError(number, os.strerror(number))  # as a write does: without a name
        return write(self, data)

    return failing


@pytest.mark.parametrize("number", DISK, ids=[errno.errorcode[number] for number in DISK])
@pytest.mark.parametrize(("where", "after"), [("detector.safetensors", 1), ("/checkpoints/", 17), ("metrics.json", 0)])
def test_a_disk_or_mount_that_fails_is_one_sentence_and_the_run_is_resumed(
    where: str,
    after: int,
    number: int,
    written: Path,
    photos: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", _fails(where, number, after))
        sentence = _sentence(written, photos, out)
    assert sentence.startswith(f"llb-ray: [Errno {number}] {os.strerror(number)}: '{out}/")
    assert sentence.endswith(". Fix this and rerun the same command to resume")
    assert llb_ray.status(out).state == "failed"
    assert CliRunner().invoke(main, _command(written, photos, out)).exit_code == 0
    hurt, whole = final_files(out), final_files(finished)
    assert hurt.pop("config.yaml") != whole.pop("config.yaml")  # checkpoint_s
    assert hurt == whole


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 160 KiB, which holds the features of a tiny run and not what comes after."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "none", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_disk_that_is_really_full_and_then_is_not(
    small_disk: Path, written: Path, photos: Path, finished: Path
) -> None:
    out = small_disk / "run"
    sentence = _sentence(written, photos, out)
    assert sentence.startswith(f"llb-ray: [Errno 28] No space left on device: '{out}/")
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert CliRunner().invoke(main, _command(written, photos, out)).exit_code == 0
    hurt, whole = final_files(out), final_files(finished)
    hurt.pop("config.yaml"), whole.pop("config.yaml")
    assert hurt == whole
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert "cannot be written (Read-only file system); choose another --out" in _sentence(written, photos, out)


def test_a_failed_write_is_given_the_name_that_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device: '/full/disk'"), naming(Path("/full/disk")):
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")
    with pytest.raises(PermissionError, match="'/secret'"), naming(Path("/full/disk")):
        raise PermissionError(errno.EACCES, "Permission denied", "/secret")


def _diverges_in(number: int) -> Callable[..., Any]:
    """A fit that ends like a loss that is not finite, if it is of the `number`th seed asked for."""
    fit, seeds = GradientDetector.fit, list[int]()

    def failing(self: Any, source: Any, seed: int, *given: Any) -> Any:
        seeds.extend([] if seed in seeds else [seed])
        if seeds.index(seed) == number:
            raise MemberError("the loss at step 4 is nan; lower detector.learning_rate")
        return fit(self, source, seed, *given)

    return failing


@pytest.fixture
def second_diverges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_detector.GradientDetector, "fit", _diverges_in(1))


def test_a_failing_member_ends_the_run_and_is_named_with_its_share(
    second_diverges: None, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    with pytest.raises(MemberError, match=r"^member-001 \(its share: 16 images\): the loss at step 4 is nan; lower"):
        llb_ray.run(tiny, llb_ray.read_folder(photos, tiny), out=tmp_path, executor="serial")


def test_a_partial_ensemble_is_asked_for_told_audited_and_completed_by_the_next_run(
    photos: Path, tiny: RunConfig, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out, said = with_overrides(tiny, ["members.min_members=2"]), tmp_path / "run", list[str]()
    manifest = llb_ray.read_folder(photos, tiny)
    with monkeypatch.context() as patched:
        patched.setattr(gradient_detector.GradientDetector, "fit", _diverges_in(1))
        result = llb_ray.run(config, manifest, out=out, executor="serial", tell=said.append)
    reason = "member-001 (its share: 16 images): the loss at step 4 is nan; lower detector.learning_rate"
    assert f"note: going on with 2 of 3 members; missing is {reason}" in said
    assert result.missing == {"member-001": reason}
    outcome = llb_ray.status(out).outcome
    assert outcome is not None
    assert outcome.missing == result.missing
    for row in read_table(out / "purified" / "part-0.arrow")["member_scores"].to_pylist():
        assert [score is None for score in row] == [False, True, False]
    assert "2 members trained on their shares and nothing else; missing: member-001" in llb_ray.audit(out)
    whole = llb_ray.run(config, manifest, out=out, executor="serial")
    assert whole.missing == {}
    assert (out / "purified" / "part-0.arrow").read_bytes() == (finished / "purified" / "part-0.arrow").read_bytes()


def test_more_members_than_may_fail_end_the_run(
    photos: Path, tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_overrides(tiny, ["members.min_members=2", "detector.learning_rate=1e30"])
    with pytest.raises(MemberError, match=r"^member-001 \(its share"):
        llb_ray.run(config, llb_ray.read_folder(photos, tiny), out=tmp_path, executor="serial")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"members": {"count": 3, "min_members": 4}}, "min_members=4 is more than count=3"),
        ({"members": {"min_members": 2}, "purify": {"aggregate": "max_var"}}, "max_var needs two scores"),
    ],
)
def test_a_least_number_that_cannot_be_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse(settings)


def test_out_of_memory_is_a_sentence_with_the_member(
    photos: Path, tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*given: Any) -> None:
        raise MemoryError("cannot allocate 8 GiB\nsecond line")

    monkeypatch.setattr(gradient_detector.GradientDetector, "fit", fit)
    with pytest.raises(ResourceError, match=r"^member-000 \(.*\): out of memory \(cannot allocate 8 GiB\); lower"):
        llb_ray.run(tiny, llb_ray.read_folder(photos, tiny), out=tmp_path, executor="serial")


def test_a_death_is_seen_from_a_step_that_is_begun_once_more(tmp_path: Path) -> None:
    where = place(tmp_path)

    def said() -> list[str]:
        return resumption(read_beat(where, "member-003"))

    assert said() == []
    Heartbeat(where, "member-003").wait()
    Heartbeat(where, "member-003").report("fit")(1, 30, "step")
    assert said() == []
    report = Heartbeat(where, "member-003").report("fit")  # of another process
    report(12, 30, "step")
    report(30, 30, "step")
    assert said() == ["member-003: its process died and was restarted (1x), resuming at step 12/30"]
    Heartbeat(where, "member-003").report("fit")
    assert said() == ["member-003: its process died and was restarted (2x), nothing was left"]


def test_a_fit_that_another_run_began_is_told_too(tmp_path: Path) -> None:
    beat = Beat("member-003", "fit", 30, 30, "step", 1, 0.0, first=13)
    assert resumption(beat) == ["member-003: resumed from checkpoint at step 13/30"]
