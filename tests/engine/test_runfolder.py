"""A run's folder: one run at a time, finished or not and nothing between, and damage is named and mended."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import with_overrides
from llb_ray.disk import write_atomic
from llb_ray.engine.execution.executor import SerialExecutor, Tell
from llb_ray.engine.execution.protocols import Spec, Worker
from llb_ray.engine.rundir import run_folder
from llb_ray.engine.rundir.run_artifacts import RunArtifacts
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.errors import ArtifactError, AuditError, LlbError, MemberError
from tests.support import final_files

BUSY = "another run is active here; wait for it or choose another --out$"
HOLDER = """
import sys, time
from pathlib import Path
from llb_ray.engine.rundir.run_lock import lock_run
with lock_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def _again(config: RunConfig, photos: Path, out: Path) -> None:
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=out, executor="serial")


def _refusal(config: RunConfig, photos: Path, out: Path) -> str:
    with pytest.raises(LlbError) as refusal:
        _again(config, photos, out)
    sentence = str(refusal.value)
    assert "\n" not in sentence
    return sentence


@dataclass
class Intruded(SerialExecutor):
    """While its first members are at work, somebody starts a second run in the same folder."""

    config: RunConfig
    photos: Path
    out: Path
    refusals: list[str] = field(default_factory=list)

    def run(self, worker: type[Worker], specs: Sequence[Spec], tell: Tell, may_fail: int = 0) -> dict[str, LlbError]:
        if not self.refusals:
            intruder = threading.Thread(target=self._intrude)
            intruder.start()
            intruder.join()
        return super().run(worker, specs, tell, may_fail)

    def _intrude(self) -> None:
        self.refusals.append(_refusal(self.config, self.photos, self.out))


def test_a_second_run_is_refused_and_the_first_is_unharmed(
    photos: Path, tiny: RunConfig, finished: Path, tmp_path: Path
) -> None:
    executor = Intruded(with_overrides(tiny, ["seed=1"]), photos, tmp_path)
    llb_ray.run(tiny, llb_ray.read_folder(photos, tiny), out=tmp_path, executor=executor)
    assert executor.refusals == [f"{tmp_path}: another run is active here; wait for it or choose another --out"]
    assert final_files(tmp_path) == final_files(finished)


def test_a_killed_process_frees_the_lock(photos: Path, tiny: RunConfig, finished: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ArtifactError, match=BUSY):
            _again(tiny, photos, tmp_path)
        os.kill(holder.pid, signal.SIGKILL)
    _again(tiny, photos, tmp_path)
    assert final_files(tmp_path) == final_files(finished)


def test_a_failed_run_frees_the_lock_while_its_error_is_still_at_hand(
    photos: Path, tiny: RunConfig, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise MemberError("had enough")

    with monkeypatch.context() as patched:
        patched.setattr("llb_ray.engine.workers.fitter.build_detector", fail)
        with pytest.raises(MemberError) as kept:
            _again(tiny, photos, tmp_path)
    assert not (tmp_path / "run.json").exists()
    assert '"event": "run failed"' in (tmp_path / "events.jsonl").read_text()
    _again(tiny, photos, tmp_path)
    assert kept.value.args == ("member-000 (its share: 16 images): had enough",)
    assert final_files(tmp_path) == final_files(finished)


@pytest.mark.parametrize("file", ["purified/part-0.arrow", "image_scores.arrow", "config.yaml"])
def test_a_run_that_died_while_publishing_is_not_finished_and_the_next_mends_it(
    file: str, run: Path, photos: Path, tiny: RunConfig, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, data: bytes, durable: bool = False) -> None:
        if path == run / file:
            raise OSError(28, "No space left on device")
        write_atomic(path, data, durable)

    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "write_atomic", broken)
        with pytest.raises(OSError, match="No space left"):
            _again(with_overrides(tiny, ["purify.keep_ratio=0.5"]), photos, run)
    assert not (run / "run.json").exists()
    with pytest.raises(ArtifactError, match="no finished run here"):
        llb_ray.audit(run)
    with pytest.raises(ArtifactError, match="no finished run here"):
        llb_ray.predict(run, photos / "test" / "good", out=tmp_path / "predicted")
    _again(tiny, photos, run)
    assert llb_ray.audit(run)
    assert _published(run) == _published(finished)


def _published(run: Path) -> dict[str, str]:
    return {name: digest for name, digest in final_files(run).items() if not name.startswith("artifacts/")}


def test_leftovers_of_killed_workers_are_cleared(run: Path, photos: Path, tiny: RunConfig, finished: Path) -> None:
    half = run / "artifacts" / ".building" / "fit-0123456789abcdef-dead"
    half.mkdir(parents=True)
    (half / "detector.safetensors").write_bytes(b"half")
    _again(tiny, photos, run)
    assert final_files(run) == final_files(finished)


def _fitted(run: Path, role: str) -> Path:
    made = RunFolder.open(run).made()
    return (made.final if role == "final" else made.members[1]).path


@pytest.mark.parametrize("role", ["final", "member"])
def test_an_artifact_cut_short_is_named_and_made_again(
    role: str, run: Path, photos: Path, tiny: RunConfig, finished: Path, tmp_path: Path
) -> None:
    fitted = _fitted(run, role)
    model = fitted / "detector.safetensors"
    os.truncate(model, model.stat().st_size // 2)
    expected = f"{model}: missing or cut short; run the command that made it once more, which makes it again"
    with pytest.raises(AuditError) as refused:
        llb_ray.audit(run)
    assert expected in str(refused.value)
    with pytest.raises(ArtifactError) as unpredicted:
        llb_ray.predict(run, photos / "test" / "good", out=tmp_path / "predicted")
    assert str(unpredicted.value) == expected
    _again(tiny, photos, run)
    assert final_files(run) == final_files(finished)


def test_an_unreadable_record_is_named_and_the_folder_made_again(
    run: Path, photos: Path, tiny: RunConfig, finished: Path
) -> None:
    record = _fitted(run, "member") / "record.json"
    record.write_text("{")
    with pytest.raises(ArtifactError, match="unreadable completion record"):
        RunFolder.open(run).made()
    _again(tiny, photos, run)
    assert final_files(run) == final_files(finished)


def test_an_index_names_the_very_artifacts_it_was_made_of(run: Path) -> None:
    folder = RunFolder.open(run)
    made = folder.made()
    assert len(made.members) == 3
    assert made.matrix is not None
    assert len(list(made.artifacts())) == 17
    assert RunArtifacts.of_index(made.index(folder.store), folder.store) == made
    assert made.index(folder.store) == folder.index().artifacts


def test_an_index_without_members_comes_back_too(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    _again(with_overrides(tiny, ["purify.filter=none"]), photos, tmp_path)
    folder = RunFolder.open(tmp_path)
    made = folder.made()
    assert (made.partition, made.matrix, made.members) == (None, None, [])
    assert RunArtifacts.of_index(made.index(folder.store), folder.store) == made


def test_a_finished_run_may_be_moved(run: Path, tmp_path: Path, photos: Path, tiny: RunConfig) -> None:
    moved = run.rename(tmp_path / "moved")
    assert llb_ray.audit(moved)
    result = llb_ray.run(tiny, llb_ray.read_folder(photos, tiny), out=moved, executor="serial")
    assert all(time.reused for time in result.times)


def test_an_out_that_cannot_be_a_folder_is_one_sentence(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert _refusal(tiny, photos, tmp_path / "file").endswith("choose another --out")
    assert _refusal(tiny, photos, tmp_path / "file" / "below").endswith("choose another --out")


@pytest.mark.parametrize("written", ["seed: 7\n", "no_such_section: {}\n", None])
@pytest.mark.parametrize("command", ["predict", "Detector", "report", "audit", "bench", "export"])
def test_a_run_of_another_version_says_so(
    command: str, written: str | None, run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llb_ray.artifacts.artifact.FORMAT_VERSION", "next")
    if written is not None:  # its settings are not those of this version either
        (run / "config.yaml").write_text(written)
    out = tmp_path / "out"
    commands: dict[str, Callable[[], object]] = {
        "predict": lambda: llb_ray.predict(run, photos, out=out),
        "Detector": lambda: llb_ray.Detector.load(run),
        "report": lambda: llb_ray.write_report(run),
        "audit": lambda: llb_ray.audit(run),
        "bench": lambda: llb_ray.bench(run),
        "export": lambda: llb_ray.export(run, "onnx", out=tmp_path / "model.onnx"),
    }
    with pytest.raises(LlbError, match=r"made with artifact format .*, this version reads next; repeat the run"):
        commands[command]()
