"""Forty planted faults, each a plain edit of one thing, and forgeries in which every digest and key is right again.

One finished run for all of them: each is planted in a copy, and each has to be named for what it is.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from llb_ray import RunConfig, api
from llb_ray.artifacts import RECORD, Recipe, digest
from llb_ray.cli import main
from llb_ray.config import load, with_overrides
from llb_ray.data.tables import read_table, write_table
from llb_ray.engine.rundir.run_index import settings_digest
from llb_ray.errors import AuditError
from tests.support import artifact_of, republish, reseal, set_column

Plant = Callable[[Path], None]
Change = Callable[[Any], Any]


@pytest.fixture(scope="module")
def whole(photos: Path, tiny: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a report, an estimate, a second round and a threshold."""
    config = with_overrides(tiny, ["purify.keep_ratio=auto", "purify.rounds=2", "threshold.folds=2"])
    out = tmp_path_factory.mktemp("whole") / "run"
    api.run(config, api.read_folder(photos, config), out=out, executor="serial")
    api.report(out)
    return out


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def _table(name: str, change: Change) -> Plant:
    """Change a published table."""

    def plant(run: Path) -> None:
        table = change(read_table(run / name))
        (run / name).unlink()
        write_table(run / name, table)

    return plant


def _values(column: str, change: Change) -> Change:
    return lambda table: set_column(table, column, change(table[column].to_pylist()))


def _json(name: str, change: Change) -> Plant:
    def plant(run: Path) -> None:
        (run / name).write_text(json.dumps(change(json.loads((run / name).read_text()))))

    return plant


def _index(change: Change) -> Plant:
    def edit(index: dict[str, Any]) -> dict[str, Any]:
        change(index["artifacts"])
        return index

    return _json("run.json", edit)


def _config(old: str, new: str) -> Plant:
    def plant(run: Path) -> None:
        text = (run / "config.yaml").read_text()
        assert old in text
        (run / "config.yaml").write_text(text.replace(old, new))

    return plant


def _bytes(name: str, change: Change) -> Plant:
    def plant(run: Path) -> None:
        (run / name).write_bytes(change((run / name).read_bytes()))

    return plant


def _in(role: str, name: str) -> Plant:
    """Flip the last bit of an artifact's file."""

    def plant(run: Path) -> None:
        path = artifact_of(run, role) / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    return plant


def _record(role: str, part: str, change: Change) -> Plant:
    def plant(run: Path) -> None:
        path = artifact_of(run, role) / RECORD
        record = json.loads(path.read_text())
        change(record[part])
        path.write_text(json.dumps(record))

    return plant


def _added(name: str) -> Plant:
    def plant(run: Path) -> None:
        (run / name).parent.mkdir(exist_ok=True)
        shutil.copy(run / "purified" / "part-0.arrow", run / name)

    return plant


def _gone(name: str) -> Plant:
    return lambda run: (run / name).unlink()


def _swapped(values: list[Any]) -> list[Any]:
    other = next(number for number, value in enumerate(values) if value != values[0])
    values[0], values[other] = values[other], values[0]
    return values


def _first(value: Any) -> Change:
    return lambda values: [value, *values[1:]]


def _nudged(values: list[Any]) -> list[Any]:
    return [[values[0][0] + 0.125, *values[0][1:]], *values[1:]]


FAULTS: dict[str, tuple[Plant, str]] = {
    # what people open
    "scores: rows shuffled": (_table("scores.arrow", _values("scores", lambda v: v[1:] + v[:1])), "members wrote"),
    "scores: one edited": (_table("scores.arrow", _values("scores", _nudged)), "the members wrote"),
    "scores: ids swapped": (_table("scores.arrow", _values("image_id", _swapped)), "the members wrote"),
    "scores: a row less": (_table("scores.arrow", lambda t: t.slice(1)), "scores.arrow: image .* is missing"),
    "scores: another fold": (_table("scores.arrow", _values("in_fold", _swapped)), "the members wrote"),
    "purified: decisions swapped": (_table("purified/part-0.arrow", _values("decision", _swapped)), "has decision"),
    "purified: another reason": (_table("purified/part-0.arrow", _values("reason", _first("x"))), "has reason"),
    "purified: another aggregate": (
        _table("purified/part-0.arrow", _values("aggregate", _first(9.0))),
        "has aggregate",
    ),
    "purified: another path": (_table("purified/part-0.arrow", _values("path", _swapped)), "has path"),
    "purified: another rank": (_table("purified/part-0.arrow", _values("rank", _swapped)), "has rank"),
    "purified: a row less": (
        _table("purified/part-0.arrow", lambda t: t.slice(1)),
        "purified set: image .* is missing",
    ),
    "purified: a row twice": (_table("purified/part-0.arrow", lambda t: pa.concat_tables([t, t[:1]])), "there twice"),
    "purified: a second part": (_added("purified/part-1.arrow"), "part-1.arrow: is no file of this run"),
    "purified: cut short": (_bytes("purified/part-0.arrow", lambda b: b[: len(b) // 2]), "part-0.arrow|run"),
    "image scores: all one": (_table("image_scores.arrow", _values("score", lambda v: [1.0] * len(v))), "image_scores"),
    "image scores: swapped": (_table("image_scores.arrow", _values("score", _swapped)), "image_scores.arrow says"),
    "image scores: a row less": (_table("image_scores.arrow", lambda t: t[:-1]), "image_scores.arrow: has"),
    "metrics: all .999": (_json("metrics.json", lambda m: _all_floats(m)), "metrics.json: .* but scores and labels"),
    "metrics: one": (_json("metrics.json", lambda m: m | {"i_auroc": 0.999}), "metrics.json: i_auroc is 0.999"),
    "metrics: one more": (_json("metrics.json", lambda m: m | {"accuracy": 1.0}), "metrics.json: accuracy is 1.0"),
    "metrics: another protocol": (
        _json("metrics.json", lambda m: m | {"protocol": m["protocol"] | {"fpr_limit": 1.0}}),
        "metrics.json: protocol.fpr_limit is 1.0",
    ),
    "metrics: missing": (_gone("metrics.json"), "metrics.json"),
    "threshold: another": (_json("threshold.json", lambda t: t | {"threshold": 0.5}), "threshold is 0.5"),
    "threshold: another rate": (_json("threshold.json", lambda t: t | {"false_alarm_rate": 0.5}), "rate is 0.5"),
    "estimate: another": (
        _json("contamination.json", lambda c: c | {"share": 0.0}),
        "json: share is 0.0",
    ),
    "what if: another": (_table("what_if.arrow", _values("normals_lost", _first(0.5))), "what_if.arrow"),
    "quarantine: a row more": (
        _table("quarantine.arrow", lambda t: pa.table([["x.png"], ["train"], ["bad"]], schema=t.schema)),
        "quarantine: x.png is not on disk",
    ),
    "overrides: made up": (_added("overrides.arrow"), "overrides.arrow: is no file of this run"),
    "a stranger's file": (_added("notes.arrow"), "notes.arrow: is no file of this run"),
    "report: edited": (_bytes("report.html", lambda b: b.replace(b"<h1", b"<h1 x", 1) + b" "), "is not the report"),
    "report: missing": (_gone("report.html"), "report.html: is missing"),
    # the configuration
    "config: another limit": (
        _config("fpr_limit: 0.3", "fpr_limit: 0.9"),
        "made with: stage 'evaluate'",
    ),
    "config: another seed": (_config("seed: 0", "seed: 1"), "config.yaml is not what the run was made with"),
    "config: what is in no key": (
        _config("max_pixels: 90000000", "max_pixels: 90000001"),
        "config.yaml: is not the configuration that the run published",
    ),
    # artifacts and records
    "final: a bit of its weights": (_in("final", "detector.safetensors"), "detector.safetensors"),
    "features: a bit": (_in("features", "layers.arrow"), "layers.arrow"),
    "final: other inputs": (
        _record("final", "inputs", lambda inputs: inputs.update(images="0" * 64)),
        "damaged|the record of stage 'final' names other images",
    ),
    "final: other settings": (
        _record("final", "settings", lambda settings: settings.update(seed=1)),
        "damaged|sett",
    ),
    "run.json: scores of others": (
        _index(lambda made: made.update(member_scores=made["final_scores"])),
        "were made by another detector",
    ),
    "run.json: a round less": (_index(lambda made: made.update(rounds=made["rounds"][:1])), "round|purified"),
    "run.json: no threshold": (_index(lambda made: made.update(threshold=None)), "threshold"),
    "run.json: published is another": (
        _json("run.json", lambda i: i | {"published": i["published"] | {"x.json": "0" * 64}}),
        "x.json was published",
    ),
}


def _all_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _all_floats(item) for key, item in value.items()}
    return 0.999 if isinstance(value, float) else value


def _refused(run: Path, rescore: int | None = None) -> str:
    with pytest.raises(AuditError) as refusal:
        api.audit(run, rescore=rescore)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_an_honest_run_passes_with_all_scores_made_again(whole: Path) -> None:
    said = CliRunner().invoke(main, ["audit", str(whole), "--rescore", "0", "--json"])
    assert said.exit_code == 0, said.output
    told = json.loads(said.stdout)
    assert (told["ok"], told["failed"]) == (True, None)
    assert len({check["check"] for check in told["checks"]}) == len(told["checks"]) >= 20
    assert "72 images scored again by 6 detectors" in " ".join(check["found"] for check in told["checks"])


def test_there_are_forty() -> None:
    assert len(FAULTS) >= 40


@pytest.mark.parametrize(("plant", "sentence"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_named(plant: Plant, sentence: str, run: Path) -> None:
    plant(run)
    refused = _refused(run)
    assert re.search(sentence, refused), refused


def test_a_failed_audit_is_an_object_too(run: Path) -> None:
    FAULTS["metrics: one"][0](run)
    said = CliRunner().invoke(main, ["audit", str(run), "--rescore", "none", "--json"])
    told = json.loads(said.stdout)
    assert (said.exit_code, told["ok"], "i_auroc is 0.999" in told["failed"]) == (1, False, True)
    assert [check["check"] for check in told["checks"]][:2] == ["images_unchanged", "conserved"]


# ---- forgeries: whatever is derived from what was changed is right again, keys and digests too ----


def _moved(run: Path, role: str, inputs: dict[str, str] | None = None, settings: dict[str, Any] | None = None) -> Path:
    """An artifact under the key of other inputs and settings, and run.json with it."""
    artifact = artifact_of(run, role)
    record = json.loads((artifact / RECORD).read_text())
    record["inputs"] |= inputs or {}
    record["settings"] |= settings or {}
    record["key"] = Recipe(record["stage"], record["settings"], record["inputs"]).key
    (artifact / RECORD).write_text(json.dumps(record))
    target = artifact.rename(artifact.with_name(record["key"]))
    index = (run / "run.json").read_text()
    (run / "run.json").write_text(index.replace(artifact.name, target.name))
    reseal(target)
    return target


def _content(artifact: Path) -> str:
    return digest(json.loads((artifact / RECORD).read_text())["files"])


def _publish(run: Path, name: str, source: Path) -> None:
    shutil.copy(source, run / name)
    republish(run, name)


def _rewritten(path: Path, change: Change) -> None:
    table = change(read_table(path))
    path.unlink()
    write_table(path, table)


def _measured_again(run: Path) -> None:
    """metrics.json and image_scores.arrow as an honest run would have them, of what now lies there."""
    from llb_ray.engine.evaluation.evaluate import compute_metrics, image_scores
    from llb_ray.engine.inspection.finished_run import FinishedRun
    from llb_ray.engine.rundir.run_folder import RunFolder
    from llb_ray.engine.workers.scorer import read_scores

    finished = FinishedRun(RunFolder.open(run), None)
    scores = read_scores(finished.made.final_scores)
    table = image_scores(finished.images, scores)
    artifact = artifact_of(run, "evaluated")
    _rewritten(artifact / "image_scores.arrow", lambda _: table)
    metrics = compute_metrics(finished.config, finished.truth, finished.purified, scores)
    (artifact / "metrics.json").write_text(json.dumps(metrics))
    names = [f"scores-{index:03d}" for index in range(len(finished.made.final_scores))]
    contents = [made.content for made in finished.made.final_scores]
    artifact = _moved(run, "evaluated", dict(zip(names, contents, strict=True)))
    for name in ("metrics.json", "image_scores.arrow"):
        _publish(run, name, artifact / name)


def _forged_metrics(run: Path) -> None:
    artifact = artifact_of(run, "evaluated")
    metrics = _all_floats(json.loads((artifact / "metrics.json").read_text()))
    (artifact / "metrics.json").write_text(json.dumps(metrics))
    reseal(artifact)
    _publish(run, "metrics.json", artifact / "metrics.json")


def _forged_image_scores(run: Path) -> None:
    artifact = artifact_of(run, "evaluated")
    _rewritten(artifact / "image_scores.arrow", _values("score", lambda v: [1.0] * len(v)))
    reseal(artifact)
    _publish(run, "image_scores.arrow", artifact / "image_scores.arrow")


def _forged_scores(run: Path) -> None:
    """The final detector's own scores follow the labels, and everything after them follows."""
    labels = read_table(artifact_of(run, "labels") / "labels.arrow")
    label = dict(zip(labels["image_id"].to_pylist(), labels["label"].to_pylist(), strict=True))
    artifact = artifact_of(run, "final_scores")

    def change(table: pa.Table) -> pa.Table:
        return set_column(table, "score", [float(label[image_id] or 0) for image_id in table["image_id"].to_pylist()])

    _rewritten(artifact / "scores.arrow", change)
    reseal(artifact)
    _measured_again(run)
    _thresholded_again(run)


def _thresholded_again(run: Path) -> None:
    from llb_ray.engine.evaluation.run_threshold import ThresholdInputs, derive_thresholds
    from llb_ray.engine.inspection.finished_run import FinishedRun
    from llb_ray.engine.rundir.run_folder import RunFolder

    finished = FinishedRun(RunFolder.open(run), None)
    made = finished.made
    found = derive_thresholds(finished.config.threshold, ThresholdInputs.of(made, finished.config))
    artifact = artifact_of(run, "threshold")
    _rewritten(artifact / "held_out.arrow", lambda _: found.held_out)
    (artifact / "threshold.json").write_text(json.dumps(found.facts))
    artifact = _moved(run, "threshold", {f"final-{i:03d}": one.content for i, one in enumerate(made.final_scores)})
    _publish(run, "threshold.json", artifact / "threshold.json")


def _forged_inputs(run: Path) -> None:
    """The record of the final detector says that it learnt from other images, and whatever names it follows."""
    _moved(run, "final", {"images": digest(["somebody else's"])})


def _forged_limit(run: Path) -> None:
    """Another fpr_limit in config.yaml and in the record, beside the figures of the real one."""
    text = (run / "config.yaml").read_text().replace("fpr_limit: 0.3", "fpr_limit: 0.9")
    (run / "config.yaml").write_text(text)
    protocol = json.loads((artifact_of(run, "evaluated") / RECORD).read_text())["settings"]
    artifact = _moved(run, "evaluated", settings=protocol | {"fpr_limit": 0.9})
    metrics = json.loads((artifact / "metrics.json").read_text())
    metrics["protocol"]["fpr_limit"] = 0.9
    (artifact / "metrics.json").write_text(json.dumps(metrics))
    reseal(artifact)
    _publish(run, "metrics.json", artifact / "metrics.json")
    index = json.loads((run / "run.json").read_text())
    index["config"] = settings_digest(load(run / "config.yaml"))
    (run / "run.json").write_text(json.dumps(index))


def _forged_part(run: Path) -> None:
    """A second part of the purified set, which run.json knows."""
    shutil.copy(run / "purified" / "part-0.arrow", run / "purified" / "part-1.arrow")
    republish(run, "purified/part-1.arrow")


FORGERIES: dict[str, tuple[Plant, str]] = {
    "metrics": (_forged_metrics, "metrics.json: .* is 0.999"),
    "image scores": (_forged_image_scores, "image_scores.arrow says"),
    "the final detector's scores": (_forged_scores, "final: image .* gets .* again"),
    "inputs of the final detector": (_forged_inputs, "the record of stage 'final' names other images"),
    "the limit of AUPRO": (_forged_limit, "metrics.json: aupro"),
    "a second part": (_forged_part, "part-1.arrow was published, or does not"),
}


@pytest.mark.parametrize(("forge", "sentence"), FORGERIES.values(), ids=FORGERIES.keys())
def test_a_consistent_forgery_is_named(forge: Plant, sentence: str, run: Path) -> None:
    forge(run)
    refused = _refused(run, rescore=8)
    assert re.search(sentence, refused), refused
