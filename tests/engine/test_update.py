"""A run with further images: only these are encoded, members stay, the audit derives it all, corrections come back."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from PIL import Image

import llb_ray
from llb_ray import RunConfig
from llb_ray.cli import main
from llb_ray.config import with_overrides
from llb_ray.data.tables import read_table
from llb_ray.engine.inspection.changes import changes_between
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.pipeline.pipeline import Result
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.ensemble.partition import PARTITION, extend_partition, partition
from llb_ray.errors import ArtifactError, AuditError, DataError
from tests.support import artifact_of, rewrite, set_column

NUM_NEW = 6


@pytest.fixture(scope="module")
def more(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs that no run has seen, two of them of one object that the training images show too."""
    folder = tmp_path_factory.mktemp("more")
    sources = sorted((photos / "train" / "good").glob("*.png"))[: NUM_NEW - 2]
    for number, source in enumerate(sources):
        brighter(source, folder / f"obj{900 + number}_view0.png")
    brighter(sources[0], folder / "obj0001_view7.png", 9)
    brighter(sources[1], folder / "obj0001_view8.png", 9)
    return folder


def brighter(source: Path, target: Path, by: int = 5) -> None:
    pixels = np.asarray(Image.open(source)).astype(int) + by
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(target)


@pytest.fixture(scope="module")
def updated(finished: Path, more: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("updated") / "run"
    return llb_ray.update(finished, more, out=out, executor="serial"), out


def _run(path: Path) -> FinishedRun:
    return FinishedRun(RunFolder.open(path), None)


def test_only_new_images_are_encoded_and_no_member_is_trained(
    finished: Path, updated: tuple[Result, Path], more: Path
) -> None:
    result, out = updated
    assert result.passes.done == NUM_NEW
    fresh = {time.stage for time in result.times if not time.reused}
    assert "members" not in fresh
    assert {"features", "member-scores", "final"} <= fresh
    before, after = _run(finished).made, _run(out).made
    assert [one and one.path.name for one in before.members] == [one and one.path.name for one in after.members]
    assert {one.path.name for one in before.features} < {one.path.name for one in after.features}
    assert {one.path.name for one in before.member_scores} < {one.path.name for one in after.member_scores}


def test_known_images_keep_their_scores(finished: Path, updated: tuple[Result, Path]) -> None:
    before, after = _run(finished), _run(updated[1])
    assert after.purified.num_rows == before.purified.num_rows + NUM_NEW
    scores = {row["image_id"]: row for row in after.matrix.to_pylist()}
    assert all(scores[row["image_id"]] == row for row in before.matrix.to_pylist())
    assert all((after.root / path).is_file() for path in after.images["path"].to_pylist())


def test_the_audit_derives_it(updated: tuple[Result, Path]) -> None:
    sentences = llb_ray.audit(updated[1], rescore=6)
    assert any("2 lots of images, 72 of which the members know" in sentence for sentence in sentences)
    assert any("trained on their shares and nothing else" in sentence for sentence in sentences)


def _other_lot(table: pa.Table) -> pa.Table:
    return table.slice(1)


def _other_group(table: pa.Table) -> pa.Table:
    return set_column(table, "group", ["x", *table["group"].to_pylist()[1:]])


@pytest.mark.parametrize("change", [_other_lot, _other_group])
def test_a_forged_lot_is_found(change, updated: tuple[Result, Path], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run = Path(shutil.copytree(updated[1], tmp_path / "run"))
    rewrite(artifact_of(run, "lots"), "images.arrow", change)
    with pytest.raises(AuditError, match=r"^lots: image "):
        llb_ray.audit(run, rescore=None)


def test_another_home_of_a_new_image_is_found(updated: tuple[Result, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(updated[1], tmp_path / "run"))

    def moved(table: pa.Table) -> pa.Table:
        return set_column(table, "member", [(one + 1) % 3 for one in table["member"].to_pylist()])

    rewrite(artifact_of(run, "partition"), "partition.arrow", moved)
    with pytest.raises(AuditError, match="assigned to other members"):
        llb_ray.audit(run, rescore=None)


def test_changes_are_shown(finished: Path, more: Path, tmp_path: Path) -> None:
    words = ["update", finished, "--data", more, "--out", tmp_path / "run", "--executor", "serial", "--no-report"]
    result = CliRunner().invoke(main, [*map(str, words)])
    assert result.exit_code == 0, result.output
    assert f"{NUM_NEW} new images: " in result.output
    assert "of 48 known ones the decision changed for " in result.output
    changes = changes_between(_run(finished), _run(tmp_path / "run"))
    assert (changes.num_known, changes.num_new) == (48, NUM_NEW)
    said = json.loads(CliRunner().invoke(main, [*map(str, words), "--json"]).stdout)
    assert said["changes"]["num_new_kept"] == changes.num_new_kept
    assert len(said["changes"]["changed"]) == len(changes.changed)


@pytest.mark.parametrize("separator", [",", ";"])
def test_corrected_verdicts_are_decisions_by_hand(finished: Path, more: Path, tmp_path: Path, separator: str) -> None:
    llb_ray.predict(finished, more, out=tmp_path / "predicted", overlays="none", threshold=-1.0)
    table = tmp_path / "predicted" / "scores.csv"
    rows = list(csv.DictReader(table.open()))
    assert {row["decision"] for row in rows} == {"anomalous"}
    rows[0]["decision"] = "normal"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    out = tmp_path / "run"
    llb_ray.update(finished, more, out=out, corrected=tmp_path / "predicted", by="Ada", executor="serial")
    (said,) = read_table(out / "overrides.arrow").to_pylist()
    assert said == {"image_id": rows[0]["image_id"], "decision": "keep", "by": "Ada", "note": "predicted anomalous"}
    decided = {row["image_id"]: row for row in _run(out).purified.to_pylist()}[said["image_id"]]
    assert decided["decision"] == "kept"
    assert "by hand (Ada)" in decided["reason"]
    llb_ray.audit(out, rescore=None)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("image_id,decision\nabc,good\n", "'good' is not normal or anomalous"),
        ("image_id,decision\nabc,normal\nabc,anomalous\n", "has two different decisions"),
        ("image_id,decision\n", "no decision differs"),
        ("\x00", "no decision differs|not a readable CSV"),
    ],
)
def test_corrections_that_are_none_are_refused(
    text: str, sentence: str, finished: Path, more: Path, tmp_path: Path
) -> None:
    llb_ray.predict(finished, more, out=tmp_path / "predicted", overlays="none")
    (tmp_path / "predicted" / "scores.csv").write_text(text)
    with pytest.raises(DataError, match=sentence):
        llb_ray.update(finished, more, out=tmp_path / "run", corrected=tmp_path / "predicted", executor="serial")
    assert not (tmp_path / "run").exists()


def test_an_updated_run_is_updated_and_repurified(updated: tuple[Result, Path], photos: Path, tmp_path: Path) -> None:
    source = next((photos / "train" / "good").glob("*.png"))
    (tmp_path / "third").mkdir()
    brighter(source, tmp_path / "third" / "obj950_view0.png", 11)
    result = llb_ray.update(updated[1], tmp_path / "third", out=tmp_path / "run", executor="serial")
    assert result.passes.done == 1
    assert any("3 lots of images, 72" in sentence for sentence in llb_ray.audit(tmp_path / "run", rescore=None))
    image_id = _run(updated[1]).lots[1]["image_id"][0].as_py()
    (tmp_path / "overrides.csv").write_text(f"image_id,decision\n{image_id},reject\n")
    llb_ray.repurify(tmp_path / "run", tmp_path / "overrides.csv", out=tmp_path / "again", executor="serial")
    llb_ray.audit(tmp_path / "again", rescore=None)
    llb_ray.threshold(tmp_path / "again", false_alarm_rate=0.1)
    llb_ray.audit(tmp_path / "again", rescore=None)


def test_known_images_are_quarantined_and_nothing_new_is_refused(
    finished: Path, more: Path, photos: Path, tmp_path: Path
) -> None:
    known = sorted((photos / "train" / "good").glob("*.png"))[:2]
    (tmp_path / "known").mkdir()
    for path in known:
        shutil.copy(path, tmp_path / "known" / path.name)
    with pytest.raises(DataError, match="has no training image that the run does not know .2 images found"):
        llb_ray.update(finished, tmp_path / "known", out=tmp_path / "run", executor="serial")
    shutil.copytree(more, tmp_path / "known", dirs_exist_ok=True)
    result = llb_ray.update(finished, tmp_path / "known", out=tmp_path / "run", executor="serial")
    assert (result.passes.done, result.num_quarantined) == (NUM_NEW, 2)
    reasons = read_table(tmp_path / "run" / "quarantine.arrow")["reason"].to_pylist()
    assert all(reason.startswith("same content as ") for reason in reasons)
    llb_ray.audit(tmp_path / "run", rescore=None)


@pytest.fixture
def grown(tiny: RunConfig, photos: Path, tmp_path: Path) -> Path:
    """A folder of a finished run ``run`` beside it, that a photograph and two unreadable files were added to since."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted((photos / "train" / "good").glob("*.png"))[:12]:
        shutil.copy(path, folder)
    (folder / "unreadable.png").write_bytes(b"nothing")
    config = with_overrides(tiny, ["purify.filter=none", "threshold.method=none"])
    llb_ray.run(config, llb_ray.read_folder(folder, config), out=tmp_path / "run", executor="serial")
    brighter(next(folder.glob("obj*.png")), folder / "obj990_view0.png")
    (folder / "another.png").write_bytes(b"nothing")
    return folder


@pytest.mark.parametrize("data", ["photos", "photos/../photos", "photos/new"])
def test_the_runs_own_folder_may_have_grown(grown: Path, tmp_path: Path, data: str) -> None:
    if data == "photos/new":
        (grown / "new").mkdir()
        brighter(next(grown.glob("obj*.png")), grown / "new" / "obj991_view0.png", 9)
    out = tmp_path / "new"
    result = llb_ray.update(tmp_path / "run", tmp_path / data, out=out, executor="serial")
    assert (result.num_kept, result.passes.done) == (13, 1)
    aside = [row["path"].rpartition("/")[2] for row in read_table(out / "quarantine.arrow").to_pylist()]
    assert sorted(aside) == (["unreadable.png"] if data == "photos/new" else ["another.png", "unreadable.png"])
    llb_ray.audit(out, rescore=None)


def test_another_image_under_a_known_name_is_refused(grown: Path, tmp_path: Path) -> None:
    known = sorted(grown.glob("obj*.png"))[:2]
    for path in known:
        brighter(path, path, 7)
    with pytest.raises(DataError, match=f"{known[0].name}: has changed since the run .2 such.; give new photographs"):
        llb_ray.update(tmp_path / "run", grown, out=tmp_path / "new", executor="serial")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["RUN", "--data", "missing"], "missing: "),
        (["RUN", "--data", "EMPTY"], "EMPTY: "),
        (["RUN", "--data", "TEXT"], "TEXT: "),
        (["EMPTY", "--data", "MORE"], "no finished run here"),
        (["UNFINISHED", "--data", "MORE"], "no finished run here"),
        (["RUN", "--data", "MORE", "--corrected", "EMPTY"], "scores.csv: not a readable CSV file"),
        (["RUN", "--data", "MORE", "--corrected", "missing"], "scores.csv: not a readable CSV file"),
    ],
)
def test_what_cannot_be_updated_is_one_sentence(
    finished: Path, more: Path, tmp_path: Path, words: list[str], reason: str
) -> None:
    places = {name: tmp_path / name for name in ("EMPTY", "TEXT", "UNFINISHED")}
    places["EMPTY"].mkdir()
    places["TEXT"].write_text("no folder")
    shutil.copytree(finished, places["UNFINISHED"], ignore=shutil.ignore_patterns("run.json"))
    places |= {"RUN": finished, "MORE": more}
    said = ["update", *(str(places.get(word, word)) for word in words), "--out", str(tmp_path / "new")]
    result = CliRunner().invoke(main, [*said, "--executor", "serial"])
    assert result.exit_code == 1, result.output
    assert reason.replace("EMPTY", str(places["EMPTY"])).replace("TEXT", str(places["TEXT"])) in result.output
    assert result.output.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_new_images_may_have_another_size(finished: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    for number, source in enumerate(sorted((photos / "train" / "good").glob("*.png"))[:2]):
        with Image.open(source) as image:
            image.resize((97, 161)).convert("L").save(tmp_path / "large" / f"obj96{number}_view0.jpg")
    result = llb_ray.update(finished, tmp_path / "large", out=tmp_path / "run", executor="serial")
    assert (result.passes.done, result.num_input) == (2, 50)


def test_results_do_not_go_among_the_photographs_or_over_the_run(finished: Path, more: Path) -> None:
    with pytest.raises(ArtifactError, match="inside the images' folder"):
        llb_ray.update(finished, more, out=more / "run", executor="serial")
    with pytest.raises(ArtifactError, match=f"is inside the finished run {finished}; choose an --out beside it"):
        llb_ray.update(finished, more, out=finished / "new", executor="serial")
    with pytest.raises(ArtifactError, match=f"is inside the finished run {finished}; choose an --out beside it"):
        llb_ray.predict(finished, more, out=finished / "predictions" / "today")
    with pytest.raises(ArtifactError, match="is the run that is updated"):
        llb_ray.update(finished, more, out=finished, executor="serial")


def test_a_run_without_members_is_updated_too(tiny: RunConfig, photos: Path, more: Path, tmp_path: Path) -> None:
    config = with_overrides(tiny, ["purify.filter=none", "threshold.folds=2"])
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path / "first", executor="serial")
    result = llb_ray.update(tmp_path / "first", more, out=tmp_path / "run", executor="serial")
    assert (result.passes.done, result.num_kept) == (NUM_NEW, 48 + NUM_NEW)
    llb_ray.audit(tmp_path / "run", rescore=None)


def test_a_new_image_has_its_groups_member_or_one_by_its_id() -> None:
    ids = [f"{number:032x}" for number in range(6)]
    base = partition(ids, ["a", "a", "b", "b", "c", "c"], 3, seed=0)
    home = dict(zip(base["image_id"].to_pylist(), base["member"].to_pylist(), strict=True))
    new = [f"{number:032x}" for number in (100, 101, 103)]
    table = extend_partition(base, [*ids, *new], ["a", "a", "b", "b", "c", "c", "b", "d", "d"])
    assert table.schema == PARTITION
    found = dict(zip(table["image_id"].to_pylist(), table["member"].to_pylist(), strict=True))
    assert {image_id: found[image_id] for image_id in ids} == home
    assert found[new[0]] == home[ids[2]]
    assert found[new[1]] == found[new[2]] == 101 % 3
