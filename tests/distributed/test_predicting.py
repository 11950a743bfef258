"""Prediction on the workers of an executor: the same files as without one, and whatever is recorded stays."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

import llb_ray
from llb_ray import RunConfig
from llb_ray.cli import main
from llb_ray.config import with_overrides
from llb_ray.engine.execution.executor import SerialExecutor
from llb_ray.engine.inference import prediction_worker
from llb_ray.errors import ConfigError, DataError
from tests.support import final_files

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(photos: Path, tiny: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that judges four images at once."""
    config = with_overrides(tiny, ["resources.batch_size=4"])
    out = tmp_path_factory.mktemp("quarter") / "run"
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=out, executor="serial")
    return out


@pytest.fixture(scope="module")
def alone(run: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of what a prediction in this process writes."""
    out = tmp_path_factory.mktemp("alone") / "out"
    llb_ray.predict(run, photos / "test", out=out, maps=True, masks=True)
    return final_files(out)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_workers_of_a_cluster_write_what_one_process_does(
    run: Path, photos: Path, alone: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prediction_worker, "_MOST_BATCHES", 1)
    arguments = ["predict", os.path.relpath(run), str(photos / "test"), "--out", "out", "--maps", "--masks"]
    result = CliRunner().invoke(main, [*arguments, "--executor", "ray", "--ray-address", "local"])
    assert result.exit_code == 0, result.output
    assert final_files(tmp_path / "out") == alone


def test_what_workers_recorded_is_not_judged_again(
    run: Path, photos: Path, alone: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_worker, "_MOST_BATCHES", 1)
    judged = []

    class Counting(SerialExecutor):
        def run(self, worker, specs, tell, may_fail=0):  # type: ignore[no-untyped-def]
            judged.extend(number for spec in specs for number, _ in spec.batches)
            return super().run(worker, specs, tell, may_fail)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        llb_ray.predict(run, photos / "test", out=tmp_path, maps=True, masks=True, executor=Counting(), progress=stop)
    assert judged == [0, 1, 2, 3]
    llb_ray.predict(run, photos / "test", out=tmp_path, maps=True, masks=True, executor=Counting())
    assert judged == [0, 1, 2, 3, 4, 5]
    assert final_files(tmp_path) == alone


def test_what_changed_since_it_was_recorded_is_judged_again(run: Path, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    good = sorted((photos / "test" / "good").iterdir())
    for number, path in enumerate(good[:6]):
        (folder / f"{number}.png").write_bytes(path.read_bytes())

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        llb_ray.predict(run, folder, out=tmp_path / "out", executor=SerialExecutor(), progress=stop)
    (folder / "0.png").write_bytes(good[7].read_bytes())
    llb_ray.predict(run, folder, out=tmp_path / "out", executor=SerialExecutor())
    llb_ray.predict(run, folder, out=tmp_path / "expected")
    assert final_files(tmp_path / "out") == final_files(tmp_path / "expected")


def test_misuse_is_refused(run: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no effect with the serial executor"):
        llb_ray.predict(run, photos / "test", out=tmp_path / "a", ray_address="auto")
    (tmp_path / "none.png").write_bytes(b"")
    with pytest.raises(DataError, match="none of the 1 files found"):
        llb_ray.predict(run, tmp_path / "none.png", out=tmp_path / "b", executor=SerialExecutor())
