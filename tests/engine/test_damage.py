"""Damage on a disk: never used, always told of, and made again by the command that made the run."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from llb_ray import RunConfig, api
from llb_ray.artifacts import RECORD
from llb_ray.cli import main
from llb_ray.engine.execution.checkpoint import FileCheckpoints
from llb_ray.errors import ArtifactError, LlbError
from tests.support import final_files

ROLES = {
    "images": "images.arrow",
    "labels": "labels.arrow",
    "partition": "partition.arrow",
    "features": "layers.arrow",
    "members": "detector.safetensors",
    "member_scores": "scores.arrow",
    "matrix": "scores.arrow",
    "rounds": "purified.arrow",
    "final": "detector.safetensors",
    "final_scores": "scores.arrow",
    "threshold": "held_out.arrow",
    "evaluated": "image_scores.arrow",
}


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def _artifact(run: Path, role: str) -> Path:
    from tests.support import artifact_of

    return artifact_of(run, role)


def _again(config: RunConfig, photos: Path, out: Path) -> list[str]:
    lines: list[str] = []
    api.run(config, api.read_folder(photos, config), out=out, executor="serial", tell=lines.append)
    return lines


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _zero(path: Path) -> None:
    """What a power cut leaves: the name and the length, and no content."""
    path.write_bytes(bytes(path.stat().st_size))


def _swap_record(path: Path) -> None:
    record = json.loads(path.with_name(RECORD).read_text())
    record["settings"]["seed"] = 7
    path.with_name(RECORD).write_text(json.dumps(record))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a bit": _flip,
    "cut": _cut,
    "noughts": _zero,
    "gone": Path.unlink,
    "record of noughts": lambda path: _zero(path.with_name(RECORD)),
    "record cut": lambda path: _cut(path.with_name(RECORD)),
    "record of something else": _swap_record,
    "format of the record": lambda path: path.with_name(RECORD).write_text(
        path.with_name(RECORD).read_text().replace('"format_version": ', '"format_version": 1')
    ),
}


@pytest.mark.parametrize("role", ROLES)
def test_a_flipped_bit_is_told_of_and_made_again(
    role: str, run: Path, photos: Path, tiny: RunConfig, finished: Path
) -> None:
    path = _artifact(run, role) / ROLES[role]
    _flip(path)
    lines = _again(tiny, photos, run)
    assert [line for line in lines if str(path) in line and "removed and made again" in line]
    assert final_files(run) == final_files(finished)
    assert not [line for line in _again(tiny, photos, run) if "made again" in line]


@pytest.mark.parametrize("role", ["final", "features", "matrix"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_whatever_was_damaged_is_made_again(
    damage: Callable[[Path], None], role: str, run: Path, photos: Path, tiny: RunConfig, finished: Path
) -> None:
    damage(_artifact(run, role) / ROLES[role])
    assert [line for line in _again(tiny, photos, run) if "removed and made again" in line]
    assert final_files(run) == final_files(finished)


@pytest.mark.parametrize("role", ["images", "labels", "matrix", "rounds", "final_scores"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_no_report_and_no_set_is_made_of_damaged_artifacts(
    damage: Callable[[Path], None], role: str, run: Path, tmp_path: Path
) -> None:
    damage(_artifact(run, role) / ROLES[role])
    with pytest.raises(ArtifactError, match="which makes it again"):
        api.report(run)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(("role", "name"), [("final", "detector.safetensors"), ("threshold", "held_out.arrow")])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_nothing_is_predicted_with_a_damaged_detector(
    damage: Callable[[Path], None], role: str, name: str, run: Path, photos: Path, tmp_path: Path
) -> None:
    damage(_artifact(run, role) / name)
    with pytest.raises(ArtifactError, match="which makes it again"):
        api.predict(run, photos / "test", out=tmp_path / "predicted")


@pytest.mark.parametrize("name", ["purified/part-0.arrow", "scores.arrow", "image_scores.arrow", "config.yaml"])
@pytest.mark.parametrize("damage", [_flip, _cut, _zero, Path.unlink], ids=["a bit", "cut", "noughts", "gone"])
def test_no_report_is_made_of_damaged_files_and_they_come_back(
    damage: Callable[[Path], None], name: str, run: Path, photos: Path, tiny: RunConfig, finished: Path
) -> None:
    damage(run / name)
    with pytest.raises(LlbError, match="damaged"):
        api.report(run)
    _again(tiny, photos, run)
    assert final_files(run) == final_files(finished)


@pytest.mark.parametrize("damage", [_flip, _cut, _zero], ids=["a bit", "cut", "noughts"])
def test_a_damaged_checkpoint_is_removed_and_the_fit_starts_again(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    checkpoints = FileCheckpoints(tmp_path / "fit-0.checkpoint", 0)
    checkpoints.save({"step": torch.arange(100)})
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded["step"].sum() == 4950
    damage(checkpoints.path)
    assert checkpoints.load() is None
    assert "fit-0.checkpoint: damaged; it is removed" in caplog.text
    assert not checkpoints.path.exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"{", b"[]"])
def test_a_damaged_index_comes_back(content: bytes, run: Path, photos: Path, tiny: RunConfig, finished: Path) -> None:
    (run / "run.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"run\.json: damaged"):
        api.report(run)
    _again(tiny, photos, run)
    assert final_files(run) == final_files(finished)


def test_the_comparison_can_be_left_out(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLB_NO_VERIFY", "")
    _flip(_artifact(run, "threshold") / "held_out.arrow")
    command = ["predict", str(run), "--data", str(photos / "test"), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(main, command).exit_code == 1
    assert CliRunner().invoke(main, [*command, "--no-verify"]).exit_code == 0
