"""A run at a URI: the files that a local run leaves, gone on with from any machine, audited and used from there."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import llb_ray
from llb_ray import RunConfig
from llb_ray.artifacts import Store
from llb_ray.cli import main
from llb_ray.config import with_overrides
from llb_ray.detectors import gradient_detector
from llb_ray.engine.execution.executor import Executor, SerialExecutor, Tell
from llb_ray.engine.execution.protocols import Spec, Worker
from llb_ray.engine.pipeline.pipeline import Result
from llb_ray.engine.workers import fitter
from llb_ray.engine.workers.scorer import ScorerSpec
from llb_ray.errors import ArtifactError, AuditError, ConfigError, LlbError, MemberError
from llb_ray.remote import Remote
from tests.support import final_files, overwrite, synced


class Killed(BaseException):
    """Stands for a signal: nothing may catch it on the way out."""


@dataclass
class Scattered(SerialExecutor):
    """Every worker on a machine of its own, with an empty disk."""

    disks: Path
    used: list[Path] = field(default_factory=list)

    def run(self, worker: type[Worker], specs: Sequence[Spec], tell: Tell, may_fail: int = 0) -> dict[str, LlbError]:
        return super().run(worker, [self._moved(spec) for spec in specs], tell, may_fail)

    def _moved(self, spec: Any) -> Spec:
        disk = self.disks / f"{len(self.used)}-{spec.name}"
        self.used.append(disk)
        remote = replace(spec.context.store.remote, copy=disk)
        place = replace(spec.context, store=Store(disk / "artifacts", remote), progress=disk / "progress")
        moved: Spec = replace(spec, context=place)
        if isinstance(moved, ScorerSpec):
            fitted = {
                name: replace(made, path=disk / made.path.relative_to(made.remote.copy), remote=remote)
                for name, made in spec.fitted.items()
            }
            return replace(moved, fitted=fitted)
        return moved


def _run(config: RunConfig, photos: Path, out: str | Path, executor: Executor | str = "serial") -> Result:
    return llb_ray.run(config, llb_ray.read_folder(photos, config), out=out, executor=executor)


def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """From now on this is another machine: its cache is empty."""
    cache = tmp_path / "another"
    monkeypatch.setenv("LLB_CACHE", str(cache))
    return cache


def _same(synced_run: Path, local: Path) -> None:
    plain, expected = final_files(synced_run), final_files(local)
    expected.pop(".lock", None)
    assert plain == expected


@pytest.fixture
def filled(bucket: str, finished: Path) -> str:
    """The URI of a finished run, which is what a local run leaves; this machine has no working copy of it."""
    for path in (path for path in finished.rglob("*") if path.is_file()):
        name = path.relative_to(finished).as_posix()
        if name != ".lock" and not name.startswith("progress/"):
            overwrite(bucket, name, path.read_bytes())
    return bucket


def test_what_lies_there_is_what_a_local_run_leaves(
    bucket: str, photos: Path, tiny: RunConfig, finished: Path, tmp_path: Path
) -> None:
    result = _run(tiny, photos, bucket)
    assert result.where == bucket.partition("?")[0]
    plain = synced(bucket, tmp_path / "plain")
    _same(plain, finished)
    assert '"event": "run finished"' in (plain / "events.jsonl").read_text()
    assert llb_ray.audit(plain) == llb_ray.audit(bucket)


def test_workers_need_no_common_disk(
    bucket: str, photos: Path, tiny: RunConfig, finished: Path, tmp_path: Path
) -> None:
    scattered = Scattered(tmp_path / "disks")
    result = _run(tiny, photos, bucket, scattered)
    used = "a featurizer, three members, their scorer, the final detector, its scorer, three for held-out maps"
    assert len(scattered.used) == 10, used
    _same(synced(bucket, tmp_path / "plain"), finished)
    assert not list(result.path.rglob("layers.arrow")), "the driver reads no features"
    assert not list(result.path.rglob("detector.safetensors")), "nor detectors"


def test_a_rerun_from_another_machine_makes_nothing(
    filled: str, photos: Path, tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = _elsewhere(monkeypatch, tmp_path)
    again = _run(tiny, photos, filled)
    assert again.times
    assert all(time.reused for time in again.times)
    assert not list(cache.rglob("layers.arrow"))
    events = synced(filled, tmp_path / "plain") / "events.jsonl"
    assert [json.loads(line)["event"] for line in events.open()].count("run finished") == 2


def test_an_interrupted_run_goes_on_on_another_machine(
    bucket: str, photos: Path, tiny: RunConfig, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_overrides(tiny, ["resources.checkpoint_s=0"])
    steps: list[int] = []
    step = gradient_detector.Descent.step

    def dies_at_last(self: gradient_detector.Descent, *given: object) -> None:  # type: ignore[type-arg]
        if len(steps) == 3 * 12 + 5:
            raise Killed
        steps.append(self.num_done)
        step(self, *given)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(gradient_detector.Descent, "step", dies_at_last)
        with pytest.raises(Killed):
            _run(config, photos, bucket)
    with pytest.raises(ArtifactError, match=r"^s3://bucket-[^?]*: no finished run here"):
        llb_ray.audit(bucket)
    assert llb_ray.status(bucket).stage == "final"
    _elsewhere(monkeypatch, tmp_path)
    monkeypatch.setattr(gradient_detector.Descent, "step", dies_at_last)
    steps[:] = []
    said: list[str] = []
    manifest = llb_ray.read_folder(photos, config)
    result = llb_ray.run(config, manifest, out=bucket, executor="serial", tell=said.append)
    assert [time.stage for time in result.times if not time.reused] == [
        "final",
        "final-scores",
        "held-out-maps",
        "threshold",
        "evaluate",
    ]
    assert steps == list(range(5, 20)), "from the checkpoint on"
    assert "previous run crashed in stage final; resuming" in said
    plain = synced(bucket, tmp_path / "plain")
    assert not (plain / "checkpoints").exists()
    overwrite(bucket, "config.yaml", (finished / "config.yaml").read_bytes())  # checkpoint_s is another
    _same(synced(bucket, plain), finished)


def test_a_failed_run_says_so_there(
    bucket: str, photos: Path, tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MemberError) as error:
        _run(with_overrides(tiny, ["detector.learning_rate=1e30"]), photos, bucket)
    _elsewhere(monkeypatch, tmp_path)
    status = llb_ray.status(bucket)
    assert (status.state, status.error) == ("failed", str(error.value))


def _llb(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def test_the_command_line_takes_a_uri_for_a_run(
    bucket: str, photos: Path, tiny: RunConfig, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(tiny.to_yaml())
    shown = bucket.partition("?")[0]
    secret = bucket.replace("s3://", "s3://AKIAKEYKEY:S3cr3tS3cr3t@")
    code, output = _llb("run", "--config", config, "--data", photos, "--out", secret, "--executor", "serial")
    assert (code, f"purified dataset  {shown}/purified\nall files         {shown}\n" in output) == (0, True), output
    _elsewhere(monkeypatch, tmp_path)
    code, status = _llb("status", secret)
    assert (code, status.splitlines()[-1]) == (0, f"all files         {shown}"), status
    code, audited = _llb("audit", secret)
    assert (code, audited.count("ok  ")) == (0, 27), audited
    good, out = photos / "test" / "good", tmp_path / "predicted"
    code, predicted = _llb("predict", secret, "--data", good, "--out", out)
    assert code == 0, predicted
    llb_ray.predict(finished, good, out=tmp_path / "expected")
    assert (out / "scores.csv").read_bytes() == (tmp_path / "expected" / "scores.csv").read_bytes()
    assert list((out / "overlays").iterdir())
    assert "S3cr3t" not in output + status + audited + predicted
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert b"S3cr3t" not in path.read_bytes(), path


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("what", ["member", "published"])
def test_the_audit_reads_what_lies_there(
    what: str,
    elsewhere: bool,
    request: pytest.FixtureRequest,
    photos: Path,
    tiny: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri: str = request.getfixturevalue("filled" if elsewhere else "bucket")
    result = _run(tiny, photos, uri)
    fitted = min(path for path in (result.path / "artifacts" / "fit").iterdir())
    name = f"artifacts/fit/{fitted.name}/detector.safetensors" if what == "member" else "metrics.json"
    overwrite(uri, name, b"{}")
    if elsewhere:
        _elsewhere(monkeypatch, tmp_path)
    with pytest.raises(AuditError, match=f"s3://bucket-[^?]*/{name}: "):
        llb_ray.audit(uri)


def test_a_bucket_emptied_behind_our_back_is_filled_again(
    bucket: str, photos: Path, tiny: RunConfig, finished: Path, tmp_path: Path
) -> None:
    result = _run(tiny, photos, bucket)
    Remote.of(bucket).delete_folder(result.path)
    again = _run(tiny, photos, bucket)
    assert not any(time.reused for time in again.times)
    _same(synced(bucket, tmp_path / "plain"), finished)


def test_a_working_copy_may_be_thrown_away(filled: str, photos: Path, tiny: RunConfig) -> None:
    shutil.rmtree(_run(tiny, photos, filled).path)
    assert llb_ray.audit(filled)


def test_files_of_another_kind_are_refused(bucket: str, photos: Path, tiny: RunConfig) -> None:
    overwrite(bucket, "holiday.jpg", b"sun")
    with pytest.raises(ArtifactError, match=r"^s3://[^?]*: holds files of another kind \(holiday\.jpg\)"):
        _run(tiny, photos, bucket)


def test_a_second_driver_of_this_machine_is_refused(
    bucket: str, photos: Path, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = []
    fit = fitter.Member._fitted

    def intruded(self: fitter.Member, *given: Any, **more: Any) -> Any:
        with pytest.raises(ArtifactError) as refused:
            _run(tiny, photos, bucket)
        refusals.append(str(refused.value))
        return fit(self, *given, **more)

    monkeypatch.setattr(fitter.Member, "_fitted", intruded)
    _run(tiny, photos, bucket)
    shown = bucket.partition("?")[0]
    assert set(refusals) == {f"{shown}: another run is active here; wait for it or choose another --out"}


@pytest.mark.parametrize("wrong", ["bucket", "endpoint"])
def test_what_cannot_be_reached_is_one_sentence(
    wrong: str, bucket: str, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    server = bucket.rpartition("=")[2] if wrong == "bucket" else "127.0.0.1:1"
    uri = f"s3://AKIAKEYKEY:S3cr3tS3cr3t@nobody/runs/photos?scheme=http&endpoint_override={server}"
    config = tmp_path / "config.yaml"
    config.write_text(tiny.to_yaml())
    reading = [["audit", uri], ["status", uri], ["predict", uri, "--data", photos, "--out", tmp_path / "out"]]
    running = ["run", "--config", config, "--data", photos, "--out", uri, "--executor", "serial"]
    for command in [running, *(reading if wrong == "bucket" else [])]:  # a dead endpoint takes six seconds a time
        code, output = _llb(*command)
        refusal = output.splitlines()[-1]
        assert code == 1, output
        assert refusal.startswith("llb-ray: s3://nobody/runs/photos"), output
        assert "Traceback" not in output
        assert "S3cr3t" not in output
        assert "AKIA" not in output


def test_only_a_run_may_lie_at_a_uri(bucket: str, photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    manifest = llb_ray.read_folder(photos, tiny)
    space = tmp_path / "space.yaml"
    space.write_text("purify.keep_ratio: [0.7, 0.8]\n")
    code, output = _llb("tune", "--data", photos, "--space", space, "--out", bucket)
    assert (code, output.count("\n")) == (1, 1), output
    assert output.startswith("llb-ray: --out s3://bucket-")
    code, output = _llb("predict", tmp_path, "--data", photos, "--out", bucket)
    assert (code, "has to be on a disk of this machine" in output) == (1, True), output
    with pytest.raises(ConfigError, match="^store s3://bucket-.*has to be on a disk of this machine"):
        llb_ray.run(tiny, manifest, out=tmp_path / "run", executor="serial", store=bucket)
    with pytest.raises(ConfigError, match="a run at a URI keeps its artifacts there"):
        llb_ray.run(tiny, manifest, out=bucket, executor="serial", store=tmp_path / "store")


@pytest.mark.ray
def test_ray_gives_the_same(
    ray_local: None, bucket: str, photos: Path, tiny: RunConfig, finished: Path, tmp_path: Path
) -> None:
    _run(tiny, photos, bucket, "ray")
    _same(synced(bucket, tmp_path / "plain"), finished)
