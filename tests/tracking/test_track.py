"""Finished runs, scans and searches in trackers, read back by the trackers' own means."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from click.testing import CliRunner

import llb_ray
from llb_ray import RunConfig
from llb_ray.cli import main
from llb_ray.errors import ConfigError, ResourceError
from llb_ray.scans.job_results import ROWS
from llb_ray.search.trials import Trial, trials_table, write_trials
from llb_ray.tracking import track

pytestmark = pytest.mark.filterwarnings("ignore")
TABLES = {"metrics.json", "threshold.json", "image_scores.arrow", "scores.arrow"}


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(finished, tmp_path / "photos"))
    llb_ray.write_report(copy)
    return copy


@pytest.fixture
def mlflow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return tmp_path / "mlruns"


_SERVER = """
from mlflow.server import app
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, app, threaded=True)
print(server.port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def mlflow_server(mlflow_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MLflow's own server on loopback, in a process of its own: it keeps the store in global variables."""
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", mlflow_store.as_uri())
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", (mlflow_store.parent / "artifacts").as_uri())
    command = [sys.executable, "-c", _SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{int(server.stdout.readline())}")
        yield
        server.terminate()


@pytest.fixture
def wandb_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    return tmp_path / "wandb"


def _trials(folder: Path) -> Path:
    """A search with two trials that were judged and one that failed."""
    folder.mkdir()
    values = [{"purify.keep_ratio": ratio} for ratio in (0.7, 0.8, 0.9)]
    judged = [Trial(number, value, 1.0, objective=0.5 + number / 10) for number, value in enumerate(values[:2])]
    write_trials(folder / "trials.parquet", trials_table([*judged, Trial(2, values[2], 1.0, reason="no weights")]))
    (folder / "best.yaml").write_text("seed: 0\n")
    return folder


def _scan(folder: Path) -> Path:
    """A scan with two jobs that ended well and one that failed."""
    folder.mkdir()
    row = {"category": "weave", "alpha": 0.1, "seed": 0, "setting": "x", "key": "k", "i_auroc": 0.9, "seconds": 2.0}
    rows = [{**row, "filter": name, "status": status} for name, status in _JOBS]
    parquet.write_table(pa.Table.from_pylist(rows, ROWS), folder / "results.parquet")
    return folder


_JOBS = [("none", "done"), ("llb", "done"), ("oracle", "failed")]


@pytest.mark.parametrize("where", ["mlflow_store", "mlflow_server"])
def test_mlflow_has_settings_metrics_losses_and_files(where: str, run: Path, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(where)
    from mlflow import MlflowClient

    (sentence,) = llb_ray.track(run, trackers=["mlflow"])
    client = MlflowClient()
    found = client.get_run(sentence.split()[-1])
    assert (found.info.run_name, found.info.status) == ("photos", "FINISHED")
    assert found.data.params["detector.name"] == "autoencoder"
    metrics = json.loads((run / "metrics.json").read_text())
    assert found.data.metrics["i_auroc"] == metrics["i_auroc"]
    assert found.data.metrics["kept"] == 36
    assert [point.step for point in client.get_metric_history(found.info.run_id, "loss")] == list(range(20))
    assert {item.path for item in client.list_artifacts(found.info.run_id)} == TABLES | {
        *("report.html", "card.md", "config.yaml", "purified", "model")
    }
    (model,) = client.list_artifacts(found.info.run_id, "model")
    assert model.path == "model/detector.safetensors"


def test_sent_again_it_is_the_same_run_without_a_figure_twice(run: Path, mlflow_store: Path) -> None:
    from mlflow import MlflowClient

    first = llb_ray.track(run, trackers=["mlflow"])
    assert llb_ray.track(run, trackers=["mlflow"]) == first
    client = MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'llb_ray'")
    (only,) = client.search_runs([experiment.experiment_id])
    assert len(client.get_metric_history(only.info.run_id, "i_auroc")) == 1


@pytest.mark.parametrize("change", ["another store", "deleted"])
def test_a_run_that_its_store_does_not_have_is_sent_as_a_new_one(
    change: str, run: Path, mlflow_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    (first,) = llb_ray.track(run, trackers=["mlflow"])
    if change == "deleted":
        MlflowClient().delete_run(first.split()[-1])
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store.with_name("others").as_uri())
    (second,) = llb_ray.track(run, trackers=["mlflow"])
    assert second != first
    assert MlflowClient().get_run(second.split()[-1]).data.metrics["kept"] == 36
    assert llb_ray.track(run, trackers=["mlflow"]) == [second]


@pytest.mark.parametrize(("make", "names"), [(_trials, {"trial-0", "trial-1"}), (_scan, 2)])
def test_trials_and_jobs_are_runs_below_it(
    make: Callable[[Path], Path], names: set[str] | int, tmp_path: Path, mlflow_store: Path
) -> None:
    from mlflow import MlflowClient

    (sentence,) = llb_ray.track(make(tmp_path / "many"), trackers=["mlflow"])
    parent, client = sentence.split()[-1], MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'llb_ray'")
    runs = client.search_runs([experiment.experiment_id])
    children = [one for one in runs if one.data.tags.get("mlflow.parentRunId") == parent]
    assert len(children) == len(runs) - 1 == 2
    assert isinstance(names, int) or {child.info.run_name for child in children} == names
    assert all({"objective", "i_auroc"} & child.data.metrics.keys() for child in children)


def test_wandb_keeps_a_run_offline(run: Path, wandb_folder: Path) -> None:
    (sentence,) = llb_ray.track(run, trackers=["wandb"])
    import wandb

    wandb.teardown()  # as the end of the process does: what it holds back is written
    (record,) = wandb_folder.glob("offline-run-*/run-*.wandb")
    assert record.stem == f"run-{sentence.split()[-1]}"
    content = record.read_bytes()
    for text in (b"detector.name", b"i_auroc", b"loss", b"photos", b"report.html", b"model/detector.safetensors"):
        assert text in content


def test_tensorboard_files_are_read_back(run: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    llb_ray.track(run, trackers=["tensorboard"])
    llb_ray.track(run, trackers=["tensorboard"])  # in place of the first
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(20))
    (auroc,) = events.Scalars("result/i_auroc")
    assert auroc.value == pytest.approx(json.loads((run / "metrics.json").read_text())["i_auroc"])
    assert "settings/text_summary" in events.Tags()["tensors"]
    assert any("no other" in sentence for sentence in llb_ray.audit(run, rescore=None))


def test_trials_have_a_folder_each_in_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    folder = _trials(tmp_path / "search")
    llb_ray.track(folder, trackers=["tensorboard"])
    assert {path.name for path in (folder / "tensorboard").iterdir()} == {"trial-0", "trial-1", "all"}


def test_the_setting_sends_a_run_when_it_ends(
    tiny: RunConfig, photos: Path, run: Path, mlflow_store: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    config = tmp_path / "config.yaml"
    config.write_text(tiny.to_yaml())
    words = ["run", "--config", config, "--data", photos, "--out", run, "--executor", "serial", "--set"]
    result = CliRunner().invoke(main, [*map(str, words), "tracking=[mlflow]"])
    assert result.exit_code == 0, result.output
    assert "up to date" in result.output, "with another tracker it is the same run"
    said = re.search(r"mlflow: photos is run (\w+)", result.output)
    assert said is not None
    found = MlflowClient().get_run(said[1])
    assert found.data.params["detector.name"] == "autoencoder"


def test_an_unreachable_server_loses_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ResourceError, match=r"^mlflow: .*nothing is lost, `llb-ray track .* sends it again$"):
        llb_ray.track(run, trackers=["mlflow"])


@pytest.mark.parametrize("name", ["mlflow", "wandb", "tensorboard"])
def test_a_missing_client_is_refused_before_the_run(
    name: str, tiny: RunConfig, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track, "find_spec", lambda package: None)
    config = tiny.model_copy(update={"tracking": (name,)})
    with pytest.raises(ConfigError, match=rf"its client is not installed; pip install 'llb-ray\[{name}\]'"):
        llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path / "run", executor="serial")
    assert not (tmp_path / "run").exists()


def test_a_folder_without_anything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished run, scan or search to send"):
        llb_ray.track(tmp_path, trackers=["tensorboard"])


def test_a_run_at_a_uri_is_refused(tiny: RunConfig, photos: Path) -> None:
    config = tiny.model_copy(update={"tracking": ("tensorboard",)})
    with pytest.raises(ConfigError, match="tracking: --out"):
        llb_ray.run(config, llb_ray.read_folder(photos, config), out="s3://bucket/run", executor="serial")
