"""Rounds in a run: their artifacts, that words by hand come after them, and what an audit says of them."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import with_overrides
from llb_ray.data.tables import read_table, write_table
from llb_ray.engine import filenames
from llb_ray.engine.pipeline.pipeline import Result
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.engine.workers.fitter import trained_on
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.ensemble.refinement import kept_in_any
from llb_ray.errors import AuditError, DataError


@pytest.fixture(scope="module")
def judged_twice(photos: Path, tiny_bank: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of memory banks in two rounds; tests that damage it work on a copy."""
    config = with_overrides(tiny_bank, ["purify.rounds=2", "threshold.folds=2"])
    out = tmp_path_factory.mktemp("judged_twice") / "run"
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=out, executor="serial")
    return out


def _rows(run: Path) -> dict[str, dict[str, object]]:
    return {row["image_id"]: row for row in read_table(run / "purified" / "part-0.arrow").to_pylist()}


def _fresh(result: Result) -> list[str]:
    return [time.stage for time in result.times if not time.reused]


def test_the_last_round_is_published_and_the_first_one_is_kept(judged_twice: Path) -> None:
    first, last = RunFolder.open(judged_twice).made().rounds
    assert read_table(last.file(filenames.PURIFIED)).to_pylist() == list(_rows(judged_twice).values())
    assert all(str(row["reason"]).startswith("round 2: the held-out score") for row in _rows(judged_twice).values())
    reasons = read_table(first.file(filenames.PURIFIED))["reason"].to_pylist()
    assert all(reason.startswith("held_out mean of rank scores") for reason in reasons)
    assert any(
        "decisions follow from the held-out scores of round 2" in passed for passed in llb_ray.audit(judged_twice)
    )


def test_the_threshold_comes_from_detectors_that_had_not_seen_the_image(judged_twice: Path) -> None:
    made = RunFolder.open(judged_twice).made()
    assert len(made.fold_scores) == 2
    threshold = json.loads((judged_twice / "threshold.json").read_text())
    # What the first round kept counts, although the second judged by these very scores.
    kept = kept_in_any([read_table(decided.file(filenames.PURIFIED)) for decided in made.rounds])
    assert threshold["num_held_out"] == len(kept)


def test_words_change_the_images_that_they_are_about(judged_twice: Path, tmp_path: Path) -> None:
    before = _rows(judged_twice)
    (kept, *_), (rejected, *_) = ([i for i in before if before[i]["decision"] == d] for d in ("kept", "rejected"))
    (tmp_path / "overrides.csv").write_text(f"image_id,decision\n{kept},reject\n{rejected},keep\n")
    result = llb_ray.repurify(judged_twice, tmp_path / "overrides.csv", out=tmp_path / "new", executor="serial")
    stages = ["overrides", "by-hand", "folds", "fold-scores", "final", "final-scores", "held-out-maps", "threshold"]
    assert _fresh(result) == [*stages, "evaluate"]
    after = _rows(tmp_path / "new")
    assert {image_id for image_id in before if before[image_id] != after[image_id]} == {kept, rejected}
    made = RunFolder.open(tmp_path / "new").made()
    held_out = read_table(made.threshold.file(filenames.HELD_OUT))  # type: ignore[union-attr]
    assert rejected in held_out["image_id"].to_pylist()
    assert kept not in held_out["image_id"].to_pylist()
    learnt = [trained_on(fitted) for fitted in made.folds[2:]]
    assert sum(rejected in ids for ids in learnt) == 1, "of the threshold's two, the one that does not score it"
    assert not any(kept in ids for ids in learnt)
    assert llb_ray.audit(tmp_path / "new")


def test_a_score_of_a_round_that_was_changed_is_found(judged_twice: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(judged_twice, tmp_path / "run"))
    index = json.loads((run / "run.json").read_text())
    index["artifacts"]["fold_scores"].reverse()
    (run / "run.json").write_text(json.dumps(index))
    assert llb_ray.audit(run), "shards may be read in any order"
    index["artifacts"]["rounds"].reverse()
    (run / "run.json").write_text(json.dumps(index))
    with pytest.raises(AuditError, match=r"purify, round 1|raw score matrix would give"):
        llb_ray.audit(run)


@pytest.mark.parametrize(
    ("role", "shards", "sentence"),
    [
        ("fold_scores", 1, "held-out scores: image .* is missing"),
        ("fold_scores", 0, "there are no scores by such"),
        ("round_scores", 0, "2 rounds have decisions, and 1 have scores"),
    ],
)
def test_held_out_scores_that_are_left_out_are_missed(
    role: str, shards: int, sentence: str, judged_twice: Path, tmp_path: Path
) -> None:
    """Whoever leaves some out makes the threshold what they like."""
    run = Path(shutil.copytree(judged_twice, tmp_path / "run"))
    index = json.loads((run / "run.json").read_text())
    index["artifacts"][role] = index["artifacts"][role][:shards]
    if role == "round_scores":
        index["artifacts"]["fold_scores"] = []
        index["artifacts"]["threshold"] = None
        (run / "threshold.json").unlink()
    (run / "run.json").write_text(json.dumps(index))
    with pytest.raises(AuditError, match=sentence):
        llb_ray.audit(run)


def test_a_fold_that_was_fitted_with_other_settings_is_found(judged_twice: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(judged_twice, tmp_path / "run"))
    index = json.loads((run / "run.json").read_text())
    index["artifacts"]["folds"].reverse()
    (run / "run.json").write_text(json.dumps(index))
    with pytest.raises(AuditError, match="stage 'fit 0 without a fold' had other settings"):
        llb_ray.audit(run)


def test_a_word_that_changes_nothing_leaves_the_threshold(judged_twice: Path, tmp_path: Path) -> None:
    kept = next(image_id for image_id, row in _rows(judged_twice).items() if row["decision"] == "kept")
    (tmp_path / "overrides.csv").write_text(f"image_id,decision\n{kept},unsure\n")
    result = llb_ray.repurify(judged_twice, tmp_path / "overrides.csv", out=tmp_path / "new", executor="serial")
    assert result.threshold == json.loads((judged_twice / "threshold.json").read_text())
    assert not {"folds", "fold-scores", "final", "final-scores"} & set(_fresh(result))
    assert llb_ray.audit(tmp_path / "new")


def test_every_one_of_three_rounds_is_derived(photos: Path, tiny_bank: RunConfig, tmp_path: Path) -> None:
    config = with_overrides(tiny_bank, ["purify.rounds=3", "purify.keep_ratio=0.75", "threshold.folds=2"])
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path / "run", executor="serial")
    made = RunFolder.open(tmp_path / "run").made()
    assert (len(made.rounds), len(made.round_scores)) == (3, 2)
    assert llb_ray.audit(tmp_path / "run")
    index = json.loads((tmp_path / "run" / "run.json").read_text())
    index["artifacts"]["rounds"][1] = index["artifacts"]["rounds"][2]
    (tmp_path / "run" / "run.json").write_text(json.dumps(index))
    with pytest.raises(AuditError, match="purify, round 2"):
        llb_ray.audit(tmp_path / "run")


@pytest.mark.parametrize("rounds", [1, 2])
def test_any_detector_can_judge_again(
    rounds: int, finished: Path, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    config = with_overrides(tiny, [f"purify.rounds={rounds}", "threshold.folds=2"])
    lines: list[str] = []
    result = llb_ray.run(config, llb_ray.read_folder(photos, config), out=run, executor="serial", tell=lines.append)
    again = ["folds", "fold-scores", "purify-again"]
    assert [stage for stage in _fresh(result) if stage in again] == (again if rounds == 2 else [])
    assert any("note: round 2 judges every image again, by 2 further" in line for line in lines) == (rounds == 2)
    assert any(line.startswith("round 2: ") and line.endswith("readmitted") for line in lines) == (rounds == 2)
    assert llb_ray.audit(run)
    assert llb_ray.write_report(run).is_file()


def test_a_held_out_score_by_a_detector_that_saw_the_image_is_found(judged_twice: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(judged_twice, tmp_path / "run"))
    made = RunFolder.open(run).made()
    scored = read_scores(made.fold_scores[:1])["image_id"].to_pylist()
    for fitted in made.folds:
        path = fitted.file(filenames.TRAINED_ON)
        table = read_table(path)
        path.unlink()
        ids = [scored[0], *table["image_id"].to_pylist()[1:]]
        write_table(path, table.set_column(0, "image_id", pa.array(ids)))
    with pytest.raises(AuditError, match=f"image {scored[0]} was scored by a detector that was trained on it"):
        llb_ray.audit(run)


def test_a_fold_that_learnt_from_other_images_than_were_kept_is_found(judged_twice: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(judged_twice, tmp_path / "run"))
    path = RunFolder.open(run).made().folds[0].file(filenames.TRAINED_ON)
    table = read_table(path)
    path.unlink()
    first, *others = table["image_id"].to_pylist()
    write_table(path, table.set_column(0, "image_id", pa.array([others[0], *others])))
    with pytest.raises(AuditError, match=f"image {first} was not learnt from as had been decided"):
        llb_ray.audit(run)


def test_a_threshold_that_the_record_does_not_know_is_found(judged_twice: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(judged_twice, tmp_path / "run"))
    index = json.loads((run / "run.json").read_text())
    index["artifacts"]["threshold"] = None
    (run / "run.json").write_text(json.dumps(index))
    with pytest.raises(AuditError, match="the run's record and threshold.method disagree"):
        llb_ray.audit(run)


@pytest.mark.parametrize("settings", [["purify.rounds=2"], ["threshold.method=folds"]])
def test_too_few_kept_images_are_a_sentence_and_no_final_fit(
    settings: list[str], finished: Path, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    config = with_overrides(tiny, ["purify.keep_ratio=0.03", *settings])
    with pytest.raises(
        DataError, match=r"kept images, 1: too few to leave out a fold of them; keep more \(purify.keep_ratio, or"
    ):
        llb_ray.run(config, llb_ray.read_folder(photos, config), out=run, executor="serial")
    done = [json.loads(line).get("stage") for line in (run / "events.jsonl").read_text().splitlines()]
    assert done[::-1].index("purify") < done[::-1].index("final"), "the final fit in this folder is of the run before"
