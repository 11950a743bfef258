"""Planted faults: each is found, and named for what it is.

Every fault is planted twice: as a plain edit of a file, and with all hashes sealed again, so that it is the
derivation from the raw scores that finds it and not a checksum.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

import llb_ray
from llb_ray import RunConfig
from llb_ray.artifacts import RECORD
from llb_ray.cli import main
from llb_ray.data.tables import read_table, write_table
from llb_ray.disk import file_digest
from llb_ray.errors import ArtifactError, AuditError


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def _edit(run: Path, published: str, change: Callable[[pa.Table], pa.Table], sealed: bool) -> None:
    """Change a published table; if sealed, its artifact too, with the completion record mended to match."""
    table = change(read_table(run / published))
    (run / published).unlink()  # the old bytes stay mapped
    write_table(run / published, table)
    if sealed:
        index = json.loads((run / "run.json").read_text())["artifacts"]
        role, file = {
            "scores.arrow": ("matrix", "scores.arrow"),
            "purified/part-0.arrow": ("purified", "purified.arrow"),
        }[published]
        artifact = run / "artifacts" / index[role]
        (artifact / file).unlink()
        write_table(artifact / file, table)
        record = json.loads((artifact / RECORD).read_text())
        record["files"][file] = file_digest(artifact / file)
        record["bytes"][file] = (artifact / file).stat().st_size
        (artifact / RECORD).write_text(json.dumps(record))


def _set(table: pa.Table, column: str, values: list[object]) -> pa.Table:
    index = table.column_names.index(column)
    return table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))


def _shuffle_rows(table: pa.Table) -> pa.Table:
    """The released code's fault: scores of one order under the ids of another."""
    scores = table["scores"].to_pylist()
    return _set(table, "scores", scores[1:] + scores[:1])


def _edit_score(table: pa.Table) -> pa.Table:
    scores = table["scores"].to_pylist()
    return _set(table, "scores", [[scores[0][0] + 0.125, *scores[0][1:]], *scores[1:]])


def _swap_ids(table: pa.Table) -> pa.Table:
    ids = table["image_id"].to_pylist()
    return _set(table, "image_id", [ids[1], ids[0], *ids[2:]])


def _drop_row(table: pa.Table) -> pa.Table:
    return table.slice(1)


def _move_fold(table: pa.Table) -> pa.Table:
    folds = table["in_fold"].to_pylist()
    return _set(table, "in_fold", [(folds[0] + 1) % 3, *folds[1:]])


def _drop_score(table: pa.Table) -> pa.Table:
    scores = table["scores"].to_pylist()
    return _set(table, "scores", [scores[0][1:], *scores[1:]])


def _swap_decision(table: pa.Table) -> pa.Table:
    decisions = table["decision"].to_pylist()
    kept, rejected = decisions.index("kept"), decisions.index("rejected")
    decisions[kept], decisions[rejected] = decisions[rejected], decisions[kept]
    return _set(table, "decision", decisions)


def _trust_all(table: pa.Table) -> pa.Table:
    return _set(table, "trust", [1.0] * len(table))


FAULTS = [
    ("scores.arrow", _shuffle_rows, "scores.arrow says image .* but the members wrote"),
    ("scores.arrow", _edit_score, "scores.arrow says image .* but the members wrote"),
    ("scores.arrow", _swap_ids, "scores.arrow says image .* but the members wrote"),
    ("scores.arrow", _drop_row, r"scores.arrow: image .* is missing"),
    ("scores.arrow", _drop_score, "has 2 scores, others have 3"),
    ("scores.arrow", _move_fold, "scores.arrow says image .* but the members wrote"),
    ("purified/part-0.arrow", _swap_decision, "has decision '.*', but the raw score matrix would give"),
    ("purified/part-0.arrow", _trust_all, "has trust 1.0, but the raw score matrix would give"),
    ("purified/part-0.arrow", _drop_row, "purified set: image .* is missing"),
]


@pytest.mark.parametrize("sealed", [False, True], ids=["edited", "sealed"])
@pytest.mark.parametrize(("published", "fault", "sentence"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_planted_fault_is_named(
    run: Path, published: str, fault: Callable[[pa.Table], pa.Table], sentence: str, sealed: bool
) -> None:
    _edit(run, published, fault, sealed)
    with pytest.raises(AuditError, match=sentence):
        llb_ray.audit(run)


def test_an_honest_run_passes_and_the_command_says_so(run: Path) -> None:
    result = CliRunner().invoke(main, ["audit", str(run)])
    assert result.exit_code == 0, result.output
    assert result.output.count("ok  ") >= 10
    assert "36 kept + 12 rejected + 0 quarantined = 48 input" in result.output


def test_the_command_exits_1_and_names_the_fault(run: Path) -> None:
    _edit(run, "scores.arrow", _edit_score, sealed=False)
    result = CliRunner().invoke(main, ["audit", str(run)])
    assert result.exit_code == 1
    assert "but the members wrote" in result.output


def test_a_changed_image_is_named(run: Path, photos: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(photos, tmp_path / "photos"))
    assert llb_ray.audit(run, data=moved)
    changed = sorted((moved / "train" / "good").glob("*.png"))[0]
    changed.write_bytes(sorted((moved / "test" / "good").glob("*.png"))[0].read_bytes())
    with pytest.raises(AuditError, match=f"{changed.name}: the image changed on disk"):
        llb_ray.audit(run, data=moved)
    changed.unlink()
    with pytest.raises(AuditError, match=f"{changed.name}: image .* is gone"):
        llb_ray.audit(run, data=moved)


@pytest.mark.parametrize("role", ["final", "member"])
def test_training_on_something_else_is_named(run: Path, role: str) -> None:
    """The fault that a log cannot show: the delivered list is right, the detector saw another."""
    made = json.loads((run / "run.json").read_text())["artifacts"]
    fitted = made["final"] if role == "final" else made["members"][1]
    path = run / "artifacts" / fitted / "trained_on.arrow"
    table = read_table(path)
    given = table["image_id"].to_pylist()
    everyone = read_table(run / "purified" / "part-0.arrow")["image_id"].to_pylist()
    stranger = next(image_id for image_id in everyone if image_id not in given)
    path.unlink()
    write_table(path, table.set_column(0, "image_id", pa.array([stranger, *given[1:]])))
    with pytest.raises(
        AuditError, match=f"{role}.*'s training images: image .* (is missing but is|is there but not) in"
    ):
        llb_ray.audit(run)


def test_another_trust_than_was_decided_is_named(run: Path) -> None:
    final = json.loads((run / "run.json").read_text())["artifacts"]["final"]
    path = run / "artifacts" / final / "trained_on.arrow"
    table = read_table(path)
    path.unlink()
    write_table(path, _set(table, "trust", [0.5, *table["trust"].to_pylist()[1:]]))
    with pytest.raises(AuditError, match=f"it trusts image {table['image_id'][0]} with 0.5, but 1 was decided"):
        llb_ray.audit(run)


def test_scores_filed_under_another_detector_are_named(run: Path) -> None:
    index = json.loads((run / "run.json").read_text())
    index["artifacts"]["member_scores"] = index["artifacts"]["final_scores"]
    (run / "run.json").write_text(json.dumps(index))
    with pytest.raises(AuditError, match="member-000: its scores .* were made by another detector"):
        llb_ray.audit(run)


@pytest.mark.parametrize("text", ["", "[]", '{"data_root": "/x", "artifacts": {}}', '{"artifacts": 3}'])
def test_a_damaged_index_is_one_sentence(run: Path, text: str) -> None:
    (run / "run.json").write_text(text)
    with pytest.raises(AuditError, match=r"run\.json"):
        llb_ray.audit(run, data=run)


@pytest.mark.parametrize("edit", ["seed: 0|seed: 1", "count: 3|count: 4", "member_steps: 12|member_steps: 13"])
def test_a_configuration_that_is_not_the_runs_is_named(run: Path, edit: str) -> None:
    old, new = edit.split("|")
    text = (run / "config.yaml").read_text()
    assert old in text
    (run / "config.yaml").write_text(text.replace(old, new))
    with pytest.raises(AuditError, match=r"config\.yaml is not what the run was made with"):
        llb_ray.audit(run)


def test_a_damaged_model_is_named(run: Path) -> None:
    index = json.loads((run / "run.json").read_text())["artifacts"]
    model = run / "artifacts" / index["final"] / "detector.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"\x00")
    with pytest.raises(AuditError, match=r"detector\.safetensors"):
        llb_ray.audit(run)


@pytest.mark.parametrize("name", ["scores.arrow", "purified/part-0.arrow", "quarantine.arrow"])
def test_a_truncated_table_is_one_sentence(run: Path, name: str) -> None:
    (run / name).write_bytes(b"ARROW1\x00\x00")
    with pytest.raises(AuditError):
        llb_ray.audit(run)


@pytest.mark.parametrize("text", ["", "[1]", "3"])
def test_a_damaged_threshold_is_one_sentence(run: Path, text: str) -> None:
    (run / "threshold.json").write_text(text)
    with pytest.raises(AuditError, match="threshold.json: damaged"):
        llb_ray.audit(run)


@pytest.mark.parametrize("name", ["threshold", "rate_if_all_are_normal"])
def test_another_threshold_is_named(run: Path, name: str) -> None:
    said = json.loads((run / "threshold.json").read_text())
    (run / "threshold.json").write_text(json.dumps(said | {name: 0.5}))
    with pytest.raises(AuditError, match=f"threshold.json: {name} is 0.5, but the held-out scores give"):
        llb_ray.audit(run)


def test_no_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no finished run here"):
        llb_ray.audit(tmp_path)


def test_a_run_without_members_passes(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    from llb_ray.config import with_overrides

    config = with_overrides(tiny, ["purify.filter=random"])
    llb_ray.run(config, llb_ray.read_folder(photos, tiny), out=tmp_path, executor="serial")
    assert llb_ray.audit(tmp_path)
