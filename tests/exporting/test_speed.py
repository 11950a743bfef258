"""`bench`: every runtime that is installed is measured on the run's images, and says what torch says."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import llb_ray
from llb_ray.cli import main
from llb_ray.errors import ConfigError, MemberError
from llb_ray.exporting import speed
from llb_ray.exporting.runtimes import TORCH, why_unavailable
from llb_ray.exporting.speed_worker import SpeedSpec, measure

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def measured(finished_bank: Path) -> speed.Speed:
    return llb_ray.bench(finished_bank, images=10, batch=4)


def test_every_installed_runtime_has_its_figures(measured: speed.Speed) -> None:
    names = [one.runtime for one in measured.runtimes]
    assert {TORCH, "onnxruntime"} <= set(names)
    assert ("openvino" in names) == (find_spec("openvino") is not None)
    assert set(names) | set(measured.unavailable) == {TORCH, "onnxruntime", "openvino"}
    for one in measured.runtimes:
        assert one.images_per_s > 0
        assert 0 < one.p50_s <= one.p95_s
        assert one.peak_bytes > 10 * 2**20
        assert one.model_bytes > 1000


def test_the_runtimes_agree(measured: speed.Speed) -> None:
    for one in measured.runtimes:
        assert max(one.score_difference, one.map_difference) < 1e-3 * measured.scale
        assert one.num_other_decisions == 0


def test_an_onnx_runtime_needs_no_torch(measured: speed.Speed) -> None:
    memory = {one.runtime: one.peak_bytes for one in measured.runtimes}
    assert memory["onnxruntime"] < memory[TORCH]


def test_the_command_prints_a_table_and_json(finished: Path) -> None:
    words = ["bench", str(finished), "--images", "3", "--batch", "8", "--threads", "1"]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 0, shown.output
    for text in ("torch", "onnxruntime", "images/s", "latency, p95", "3 images", "CPU threads: 1"):
        assert text in shown.output
    said = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert (said["num_images"], said["threads"], said["batch"]) == (3, 1, 8)


def test_images_that_have_moved_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not where they were; give their folder as --data"):
        llb_ray.bench(finished, data=tmp_path)


def test_a_runtime_that_fails_is_named(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "export_onnx", lambda run, path: path.write_bytes(b"no model"))
    with pytest.raises(MemberError, match=r"onnxruntime: failed on the detector \(.*\); please report"):
        llb_ray.bench(finished, images=2)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_missing_runtime_says_how_to_install_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llb_ray.exporting.runtimes.find_spec", lambda package: None)
    assert "pip install 'llb-ray[onnx]'" in why_unavailable(name)


@pytest.mark.parametrize(("count", "batch", "batches"), [(5, 2, 2), (2, 8, 1), (4, 1, 4)])
def test_only_full_batches_are_timed(finished: Path, count: int, batch: int, batches: int, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((count, 32, 32, 3), np.uint8))
    files = [str(tmp_path / name) for name in ("images.npy", "answers.npz", "times.json")]
    times = measure(SpeedSpec(TORCH, str(finished), 1, batch, *files))
    assert (len(times.single_s), len(times.batch_s)) == (count, batches)
