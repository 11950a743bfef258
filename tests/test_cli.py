"""The command line: refusals are one sentence and exit 1, misuse exits 2, and the whole road works."""

import csv
import re
import shutil
from pathlib import Path

import pyarrow.dataset as dataset
import pyarrow.parquet as parquet
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from llb_ray import RunConfig
from llb_ray.cli import main


def _llb(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def config(tiny: RunConfig, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(tiny.to_yaml())
    return path


def _run(config: Path, data: Path, out: Path, *more: str) -> Result:
    return _llb("run", "--config", config, "--data", data, "--out", out, "--executor", "serial", *more)


def test_run_prints_what_it_did_and_where(config: Path, photos: Path, tmp_path: Path) -> None:
    result = _run(config, photos, tmp_path / "run")
    assert result.exit_code == 0, result.output
    for text in ("kept", "rejected", "quarantined", "I-AUROC", "AUPRO", "stage members", "purified dataset"):
        assert text in result.output
    assert "\x1b" not in result.output, "a log must hold plain lines"
    table = dataset.dataset(tmp_path / "run" / "purified", format="arrow").to_table()
    assert table.column_names == [
        *("image_id", "path", "category", "group", "split"),
        *("aggregate", "rank", "decision", "reason", "trust", "member_scores"),
    ]
    assert all(len(scores) == 3 for scores in table["member_scores"].to_pylist())


def test_an_unlabelled_folder_runs_and_says_that_metrics_were_skipped(
    config: Path, photos: Path, tmp_path: Path
) -> None:
    result = _run(config, photos / "train" / "good", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "skipped: no labels" in result.output


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["purify.keep_rato=1"], "unknown key 'purify.keep_rato'; did you mean 'purify.keep_ratio'?"),
        (["members.count=40"], "cannot be divided among 40 members"),
        (
            ["detector={name: memory_bank, image_size_px: 64, backbone: {weights: no/such.safetensors}}"],
            "no/such.safetensors",
        ),
        (["data.group_pattern=("], "data.group_pattern"),
    ],
)
def test_a_refusal_is_one_sentence_and_exit_1(
    settings: list[str], sentence: str, config: Path, photos: Path, tmp_path: Path
) -> None:
    more = [word for setting in settings for word in ("--set", setting)]
    result = _run(config, photos, tmp_path / "run", *more)
    assert result.exit_code == 1
    refusal = result.stderr.strip()
    assert refusal.startswith("llb-ray: ")
    assert sentence in refusal
    assert "\n" not in refusal


def test_an_empty_folder_is_refused(config: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = _run(config, tmp_path / "empty", tmp_path / "run")
    assert (result.exit_code, "holds no files" in result.stderr) == (1, True)


def test_a_folder_that_cannot_be_written_is_refused(config: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = _run(config, photos, tmp_path / "file" / "run")
    assert (result.exit_code, "cannot be written" in result.stderr) == (1, True)


def test_a_folder_that_is_not_a_runs_is_left_alone(config: Path, photos: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "progress").mkdir(parents=True)
    (mine / "progress" / "thesis.txt").write_text("years of work")
    result = _run(config, photos, mine)
    assert (result.exit_code, "holds files of another kind" in result.stderr) == (1, True)
    assert (mine / "progress" / "thesis.txt").read_text() == "years of work"


def test_results_are_never_put_among_the_photographs(
    config: Path, photos: Path, finished: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(photos / "train" / "good", tmp_path / "photos"))
    assert "inside the images' folder" in _run(config, data, data / "run").stderr
    assert "inside the images' folder" in _llb("predict", finished, "--data", data, "--out", data / "out").stderr
    assert not (data / "run").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
@pytest.mark.parametrize("by", ["option", "environment"])
def test_an_unreachable_cluster_is_refused(
    address: str, by: str, config: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # a process that is connected asks for no address
    more = ["--executor", "ray"] + (["--ray-address", address] if by == "option" else [])
    if by == "environment":
        monkeypatch.setenv("RAY_ADDRESS", address)
    result = _run(config, photos, tmp_path / "run", *more)
    assert (result.exit_code, "no cluster answers there" in result.stderr) == (1, True)


def test_an_address_for_nobody_is_refused(config: Path, photos: Path, tmp_path: Path) -> None:
    result = _run(config, photos, tmp_path / "run", "--ray-address", "auto")
    assert "no effect with the serial executor" in result.stderr


def test_a_full_disk_is_one_sentence(
    config: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("llb_ray.engine.features.featurizer.batch_writer", full)
    result = _run(config, photos, tmp_path / "run")
    assert (result.exit_code, "No space left on device" in result.stderr) == (1, True)
    monkeypatch.undo()
    assert _run(config, photos, tmp_path / "run").exit_code == 0


def test_a_group_pattern_that_matches_nothing_is_refused(config: Path, photos: Path, tmp_path: Path) -> None:
    result = _run(config, photos, tmp_path / "run", "--set", "data.group_pattern=(lot-[0-9]+)")
    assert "matches no file in" in result.stderr


@pytest.mark.parametrize("words", [["run"], ["run", "--data", "x"], ["nonsense"], ["run", "--executor", "dask"]])
def test_misuse_exits_2(words: list[str]) -> None:
    assert _llb(*words).exit_code == 2


@pytest.mark.parametrize("name", sorted(main.commands))
def test_the_help_of_every_command_shows_an_example(name: str) -> None:
    assert f"\n  llb-ray {name} " in _llb(name, "--help").output


def test_an_ineffective_setting_is_said_aloud(config: Path, photos: Path, tmp_path: Path) -> None:
    result = _run(config, photos, tmp_path / "run", "--set", "purify.filter=none")
    assert "note: purify.keep_ratio has no effect with filter none" in result.output


def test_quarantined_files_are_counted_and_named(config: Path, photos: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(photos, tmp_path / "photos"))
    (data / "train" / "good" / "notes.txt").write_text("not an image")
    copied = sorted((data / "train" / "good").glob("*.png"))[0]
    shutil.copy(copied, data / "train" / "good" / "zz copy.png")
    result = _run(config, data, tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert re.search(r"training images +50 *\n +kept +36 *\n +rejected +12 *\n +quarantined +2 *\n", result.output)
    assert "quarantined train/good/notes.txt: " in result.output
    quarantine = dataset.dataset(tmp_path / "run" / "quarantine.arrow", format="arrow").to_table()
    reasons = dict(zip(quarantine["path"].to_pylist(), quarantine["reason"].to_pylist(), strict=True))
    assert set(reasons) == {"train/good/notes.txt", "train/good/zz copy.png"}
    assert reasons["train/good/zz copy.png"].startswith("same content as train/good/")


def test_predict_gives_every_file_a_row_and_the_runs_own_scores(finished: Path, photos: Path, tmp_path: Path) -> None:
    result = _llb("predict", finished, "--data", photos, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    with (tmp_path / "scores.csv").open() as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert parquet.read_table(tmp_path / "scores.parquet").num_rows == len(rows) == 72
    of_run = dataset.dataset(finished / "image_scores.arrow", format="arrow").to_table().to_pylist()
    for row in of_run:
        assert float(rows[row["path"]]["score"]) == pytest.approx(row["score"], rel=1e-4)
        assert (tmp_path / "overlays" / f"{row['path']}.png").is_file()
    assert (tmp_path / "colour_scale.png").is_file()


def test_predict_puts_bad_files_aside_and_scores_copies(finished: Path, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    original = sorted((photos / "test" / "good").glob("*.png"))[0]
    shutil.copy(original, folder / "a.png")
    shutil.copy(original, folder / "same again.png")
    (folder / "broken.png").write_bytes(original.read_bytes()[:100])
    result = _llb("predict", finished, "--data", folder, "--out", tmp_path / "out")
    assert "2 images scored, 1 files quarantined" in result.output
    assert "broken.png" in (tmp_path / "out" / "quarantine.csv").read_text()


def test_predict_copes_with_names_that_cannot_both_be_overlays(finished: Path, photos: Path, tmp_path: Path) -> None:
    pictures = sorted((photos / "test" / "good").glob("*.png"))
    folder = tmp_path / "new"
    (folder / "x.png").mkdir(parents=True)
    shutil.copy(pictures[0], folder / "x")
    shutil.copy(pictures[1], folder / "x.png" / "y.png")
    shutil.copy(pictures[2], folder / ("long" * 62 + ".png"))
    shutil.copy(pictures[3], folder / "<img onerror=alert(1)>.png")
    result = _llb("predict", finished, "--data", folder, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert len([path for path in (tmp_path / "out" / "overlays").rglob("*.png") if path.is_file()]) == 4


def test_predict_refuses_other_weights_than_the_runs(photos: Path, tmp_path: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    import llb_ray
    from llb_ray.config import parse

    weights = tmp_path / "w.safetensors"
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = timm.create_model("test_resnet.r160_in1k", num_classes=0)
        save_file(model.state_dict(), tmp_path / f"{seed}.safetensors")
    shutil.copy(tmp_path / "0.safetensors", weights)
    backbone = {"name": "test_resnet.r160_in1k", "weights": str(weights), "layers": [1, 2]}
    detector = {"name": "memory_bank", "image_size_px": 64, "backbone": backbone, "coreset_size": 50}
    settings = parse({"detector": detector, "members": {"count": 2}, "purify": {"filter": "none"}})
    llb_ray.run(settings, llb_ray.read_folder(photos, settings), out=tmp_path / "run", executor="serial")
    assert _llb("predict", tmp_path / "run", "--data", photos / "test", "--out", tmp_path / "a").exit_code == 0
    shutil.copy(tmp_path / "1.safetensors", weights)
    refused = _llb("predict", tmp_path / "run", "--data", photos / "test", "--out", tmp_path / "b")
    assert (refused.exit_code, "no longer those of the run" in refused.stderr) == (1, True)


def test_predict_refuses_what_is_no_run_and_what_holds_no_image(finished: Path, tmp_path: Path) -> None:
    assert "no finished run here" in _llb("predict", tmp_path, "--data", tmp_path, "--out", tmp_path / "o").stderr
    (tmp_path / "empty").mkdir()
    refused = _llb("predict", finished, "--data", tmp_path / "empty", "--out", tmp_path / "o")
    assert (refused.exit_code, "readable image" in refused.stderr) == (1, True)


def test_status_of_a_finished_run_is_what_the_run_said_itself(config: Path, photos: Path, tmp_path: Path) -> None:
    said = _run(config, photos, tmp_path / "run").output
    result = _llb("status", tmp_path / "run")
    assert result.exit_code == 0, result.output
    headline, _, table = result.output.partition("\n")
    assert re.fullmatch(r"finished after [\d.]+ s", headline)
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert {"kept 36", "rejected 12", f"all files {tmp_path / 'run'}"} < set(lines)
    assert set(lines) <= {" ".join(line.split()) for line in said.splitlines()}


def test_status_of_what_is_no_run_is_refused(tmp_path: Path) -> None:
    result = _llb("status", tmp_path)
    assert (result.exit_code, "no run was started here" in result.stderr) == (1, True)


def test_config_prints_something_that_config_reads(tmp_path: Path) -> None:
    printed = _llb("config", "--set", "detector.name=memory_bank").output
    path = tmp_path / "c.yaml"
    path.write_text(printed)
    assert _llb("config", "--config", path).output == printed


def test_synth_writes_trees_and_refuses_a_full_folder(tmp_path: Path) -> None:
    first = _llb("synth", tmp_path / "s", "--category", "weave", "--alpha", "0.1", "--size", "40")
    assert (first.exit_code, first.output.strip()) == (0, str(tmp_path / "s" / "weave"))
    assert Image.open(next((tmp_path / "s" / "weave" / "test" / "good").iterdir())).size == (40, 40)
    assert _llb("synth", tmp_path / "s").exit_code == 1
    assert (
        "FOLDER s3://bucket/s: has to be on a disk of this machine" in _llb("synth", "s3://key:secret@bucket/s").stderr
    )


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (["run", "--data", "URI", "--out", "run"], "--data"),
        (["report", "run", "--data", "URI"], "--data"),
        (["init", "URI"], "FOLDER"),
        (["drift", "run", "URI"], "PATH"),
        (["repurify", "run", "--overrides", "URI", "--out", "new"], "--overrides"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_a_uri_is_not_taken_for_a_folder(command: list[str], what: str) -> None:
    result = _llb(*(word.replace("URI", "s3://key:secret@bucket/photos") for word in command))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"llb-ray: {what} s3://bucket/photos: has to be on a disk of this machine; ")
    assert len(result.stderr.splitlines()) == 1
