"""The loop back: a run with decisions by hand reuses all that they leave alone, and says who decided what."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

import llb_ray
from llb_ray import RunConfig
from llb_ray.artifacts import RECORD
from llb_ray.cli import main
from llb_ray.config import with_overrides
from llb_ray.data.tables import read_table, write_table
from llb_ray.disk import file_digest
from llb_ray.engine.execution.executor import SerialExecutor, Tell
from llb_ray.engine.execution.protocols import Spec, Worker
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.pipeline.pipeline import Result
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.errors import ArtifactError, AuditError, DataError, LlbError, MemberError, ResourceError
from tests.support import final_files

REUSED = {"manifest", "labels", "partition", "features", "members", "member-scores", "scores"}


def _rows(run: Path) -> dict[str, dict[str, object]]:
    return {row["image_id"]: row for row in read_table(run / "purified" / "part-0.arrow").to_pylist()}


def _csv(path: Path, words: Mapping[str, str]) -> Path:
    path.write_text("image_id,decision\n" + "".join(f"{image_id},{word}\n" for image_id, word in words.items()))
    return path


def _some(run: Path, decision: str, count: int = 1) -> list[str]:
    return [image_id for image_id, row in _rows(run).items() if row["decision"] == decision][:count]


def _again(run: Path, words: Mapping[str, str], out: Path, by: str = "Ada") -> Result:
    overrides = _csv(out.parent / f"{out.name}.csv", words)
    return llb_ray.repurify(run, overrides, out=out, by=by, executor="serial")


def _fresh(result: Result) -> set[str]:
    return {time.stage for time in result.times if not time.reused}


def test_only_what_depends_on_the_decisions_is_made(finished: Path, tmp_path: Path) -> None:
    (kept,), (rejected,) = _some(finished, "kept"), _some(finished, "rejected")
    result = _again(finished, {kept: "reject", rejected: "keep"}, tmp_path / "new")
    assert _fresh(result) == {"overrides", "by-hand", "final", "final-scores", "held-out-maps", "threshold", "evaluate"}
    before, after = _rows(finished), _rows(tmp_path / "new")
    assert {image_id for image_id in before if before[image_id] != after[image_id]} == {kept, rejected}
    assert str(after[rejected]["reason"]).startswith("kept by hand (Ada): the filter had rejected it (held_out mean")
    assert (tmp_path / "new" / "scores.arrow").read_bytes() == (finished / "scores.arrow").read_bytes()
    assert read_table(tmp_path / "new" / "overrides.arrow")["by"].to_pylist() == ["Ada", "Ada"]


def test_the_new_run_is_whole_without_the_old_one(finished: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(finished, tmp_path / "old"))
    before = final_files(old)
    _again(old, dict.fromkeys(_some(old, "rejected"), "keep"), tmp_path / "new")
    assert final_files(old) == before
    shutil.rmtree(old)
    assert any("1 of them, and no others" in passed for passed in llb_ray.audit(tmp_path / "new"))


def test_unsure_changes_nothing_and_is_recorded(finished: Path, tmp_path: Path) -> None:
    unsure = _some(finished, "kept") + _some(finished, "rejected")
    result = _again(finished, dict.fromkeys(unsure, "unsure"), tmp_path / "new")
    assert "final" not in _fresh(result)
    assert _rows(tmp_path / "new") == _rows(finished)
    assert read_table(tmp_path / "new" / "overrides.arrow")["decision"].to_pylist() == ["unsure", "unsure"]
    assert llb_ray.audit(tmp_path / "new")


def test_a_run_without_decisions_has_no_trace_of_them(finished: Path) -> None:
    assert not (finished / "overrides.arrow").exists()
    index = json.loads((finished / "run.json").read_text())["artifacts"]
    record = json.loads((finished / "artifacts" / index["purified"] / RECORD).read_text())
    assert set(record["inputs"]) == {"images", "scores"}
    assert "nothing was decided by hand" in llb_ray.audit(finished)


def test_decisions_are_laid_over_those_of_the_run_before(finished: Path, tmp_path: Path) -> None:
    first, second = _some(finished, "rejected", 2)
    _again(finished, {first: "keep", second: "keep"}, tmp_path / "one")
    _again(tmp_path / "one", {second: "unsure"}, tmp_path / "two", by="Ben")
    after = _rows(tmp_path / "two")
    assert (after[first]["decision"], after[second]["decision"]) == ("kept", "rejected")
    assert "(Ada)" in str(after[first]["reason"])
    who = {row["image_id"]: row["by"] for row in read_table(tmp_path / "two" / "overrides.arrow").to_pylist()}
    assert who == {first: "Ada", second: "Ben"}
    assert llb_ray.audit(tmp_path / "two")


def test_an_interrupted_one_is_resumed(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = dict.fromkeys(_some(finished, "rejected"), "keep")
    _again(finished, words, tmp_path / "undisturbed")

    def lost(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("llb_ray.engine.pipeline.stages.Stages.final_scores", lost)
        with pytest.raises(OSError, match="Input/output"):
            _again(finished, words, tmp_path / "new")
    fresh = _fresh(_again(finished, words, tmp_path / "new"))
    assert fresh == {"final-scores", "held-out-maps", "threshold", "evaluate"}
    assert final_files(tmp_path / "new") == final_files(tmp_path / "undisturbed")


class OneFails(SerialExecutor):
    """The second member fails, if it is tried."""

    tried = False

    def run(self, worker: type[Worker], specs: object, tell: Tell, may_fail: int = 0) -> dict[str, LlbError]:
        chosen: list[Spec] = [spec for spec in specs if spec.name != "member-001"]  # type: ignore[attr-defined]
        failed = {}
        if len(chosen) < len(specs):  # type: ignore[arg-type]
            OneFails.tried = True
            failed = {"member-001": MemberError("member-001: failed")}
        return super().run(worker, chosen, tell, may_fail) | failed


def test_a_run_of_labelled_nodes_can_be_repurified_without_them_and_says_so(finished: Path, tmp_path: Path) -> None:
    run, said = Path(shutil.copytree(finished, tmp_path / "run")), list[str]()
    labelled = with_overrides(FinishedRun(RunFolder.open(run), None).config, ["resources.label_selector={zone: a}"])
    (run / "config.yaml").write_text(labelled.to_yaml())
    overrides = _csv(tmp_path / "overrides.csv", {_some(run, "rejected")[0]: "unsure"})
    llb_ray.repurify(run, overrides, out=tmp_path / "new", by="Ada", executor="serial", tell=said.append)
    assert said[0] == "note: resources.label_selector has no effect: the serial executor stays on this machine"
    with pytest.raises(ResourceError, match="the serial executor stays on this machine; drop the setting"):
        llb_ray.run(
            labelled, FinishedRun(RunFolder.open(run), None).manifest, out=tmp_path / "other", executor="serial"
        )


def test_a_member_that_was_missing_is_not_tried_again(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    config = with_overrides(tiny, ["members.min_members=2"])
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path / "old", executor=OneFails())
    assert OneFails.tried
    result = _again(tmp_path / "old", dict.fromkeys(_some(tmp_path / "old", "rejected"), "keep"), tmp_path / "new")
    assert not _fresh(result) & REUSED
    assert set(result.missing) == {"member-001"}
    assert any("missing: member-001" in passed for passed in llb_ray.audit(tmp_path / "new"))


@pytest.mark.parametrize("name", ["none", "random", "oracle"])
def test_every_filter_can_be_overridden(name: str, photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    config = with_overrides(tiny, [f"purify.filter={name}"])
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path / "old", executor="serial")
    (kept,) = _some(tmp_path / "old", "kept")
    _again(tmp_path / "old", {kept: "reject"}, tmp_path / "new")
    assert _rows(tmp_path / "new")[kept]["decision"] == "rejected"
    assert llb_ray.audit(tmp_path / "new")


def test_a_run_at_a_uri_is_repurified_into_another(
    bucket: str, photos: Path, tiny: RunConfig, finished: Path, tmp_path: Path
) -> None:
    llb_ray.run(tiny, llb_ray.read_folder(photos, tiny), out=bucket, executor="serial")
    words = dict.fromkeys(_some(finished, "rejected"), "keep")
    new = bucket.replace("/runs/photos", "/runs/second")
    assert not _fresh(llb_ray.repurify(bucket, _csv(tmp_path / "o.csv", words), out=new, executor="serial")) & REUSED
    shutil.rmtree(tmp_path / "cache")
    assert any("1 of them, and no others" in passed for passed in llb_ray.audit(new))


def _refusal(run: Path, content: str, out: Path) -> str:
    (out.parent / "o.csv").write_text(content)
    arguments = ["repurify", run, "--overrides", out.parent / "o.csv", "--out", out, "--executor", "serial"]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
    return result.stderr


def test_what_does_not_fit_is_refused_before_anything_is_made(finished: Path, tmp_path: Path) -> None:
    (kept,) = _some(finished, "kept")
    out = tmp_path / "new"
    assert "is not among the training images" in _refusal(finished, "image_id,decision\nabc,keep\n", out)
    assert "is there twice" in _refusal(finished, f"image_id,decision\n{kept},keep\n{kept},keep\n", out)
    assert "is not one of keep, reject, unsure" in _refusal(finished, f"image_id,decision\n{kept},maybe\n", out)
    assert not out.exists()
    with pytest.raises(ArtifactError, match="is the run that the decisions are about"):
        llb_ray.repurify(finished, _csv(tmp_path / "o.csv", {kept: "keep"}), out=finished, executor="serial")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "o.csv: not a readable CSV file (No such file or directory)"),
        ("", "has no column image_id"),
        ("path,decision\na.png,keep\n", "has no column image_id"),
        ("image_id,decision\nabc,keep\n", "is not among the training images"),
        ("everything rejected", "every image is rejected"),
    ],
)
def test_a_mistake_in_the_overrides_is_found_before_ray_starts(
    content: str | None, sentence: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llb_ray.api.running.make_executor", lambda *_: pytest.fail("an executor was started"))
    if content is not None:
        (tmp_path / "o.csv").write_text(content)
    if content == "everything rejected":
        _csv(tmp_path / "o.csv", dict.fromkeys(_rows(finished), "reject"))
    arguments = ["repurify", finished, "--overrides", tmp_path / "o.csv", "--out", tmp_path / "new"]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert (result.exit_code, sentence in result.stderr) == (1, True), result.output


def test_rejecting_everything_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every image is rejected"):
        _again(finished, dict.fromkeys(_rows(finished), "reject"), tmp_path / "new")


def _drop_a_word(said: pa.Table) -> pa.Table:
    return said.slice(1)


def _another_word(said: pa.Table) -> pa.Table:
    return said.set_column(1, said.schema.field(1), pa.array(["unsure"] * said.num_rows))


@pytest.mark.parametrize("sealed", [False, True], ids=["edited", "sealed"])
@pytest.mark.parametrize("change", [_drop_a_word, _another_word])
def test_words_that_were_not_said_are_found(
    change: Callable[[pa.Table], pa.Table], sealed: bool, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "new"
    _again(finished, dict.fromkeys(_some(finished, "rejected", 2), "keep"), run)
    changed = change(read_table(run / "overrides.arrow"))
    (run / "overrides.arrow").unlink()
    write_table(run / "overrides.arrow", changed)
    if sealed:
        folder = run / "artifacts" / json.loads((run / "run.json").read_text())["artifacts"]["overrides"]
        record = json.loads((folder / RECORD).read_text())
        shutil.copy(run / "overrides.arrow", folder)
        record["files"]["overrides.arrow"] = file_digest(folder / "overrides.arrow")
        record["bytes"]["overrides.arrow"] = (folder / "overrides.arrow").stat().st_size
        (folder / RECORD).write_text(json.dumps(record))
    with pytest.raises(AuditError, match="purified: "):
        llb_ray.audit(run)
