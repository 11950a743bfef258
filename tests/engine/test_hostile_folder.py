"""A run folder from somebody else: nothing outside is written, removed or read, whatever the folder says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llb_ray import RunConfig, api
from llb_ray.artifacts import RECORD
from llb_ray.errors import LlbError
from tests.support import artifact_of, rewrite, set_column

SECRET = "what somebody wrote by hand"


@pytest.fixture
def hostile(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, beside a file and a folder that are none of its business."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text(SECRET)
    (tmp_path / "mine" / "worker.json").write_text(SECRET)
    return Path(shutil.copytree(finished, tmp_path / "run"))


def _untouched(hostile: Path) -> None:
    mine = hostile.parent / "mine"
    assert {path.name for path in mine.iterdir()} == {"thesis.txt", "worker.json"}
    assert all(path.read_text() == SECRET for path in mine.iterdir())


def _overrides(run: Path, folder: Path) -> Path:
    from llb_ray.data.tables import read_table

    rows = read_table(run / "purified" / "part-0.arrow").to_pylist()
    row = next(row for row in rows if row["decision"] == "rejected")
    path = folder / "overrides.csv"
    path.write_text(f"image_id,decision\n{row['image_id']},keep\n")
    return path


def _record(change: Callable[[dict[str, str]], None]) -> Callable[[Path], None]:
    def plant(run: Path) -> None:
        path = artifact_of(run, "matrix") / RECORD
        record = json.loads(path.read_text())
        for part in ("files", "bytes"):
            change(record[part])
        path.write_text(json.dumps(record))

    return plant


def _renamed(to: str) -> Callable[[Path], None]:
    return _record(lambda part: part.update({to: part.pop("scores.arrow")}))


def _added(name: str) -> Callable[[Path], None]:
    return _record(lambda part: part.update({name: part["scores.arrow"]}))


def _indexed(name: str) -> Callable[[Path], None]:
    def plant(run: Path) -> None:
        index = json.loads((run / "run.json").read_text())
        index["artifacts"]["matrix"] = name
        (run / "run.json").write_text(json.dumps(index))

    return plant


def _store(where: str) -> Callable[[Path], None]:
    def plant(run: Path) -> None:
        index = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(index | {"store": where}))

    return plant


def _linked(name: str, to: str) -> Callable[[Path], None]:
    def plant(run: Path) -> None:
        path = run / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(run.parent / to)

    return plant


def _file_of_artifact_linked(run: Path) -> None:
    path = artifact_of(run, "matrix") / "scores.arrow"
    path.unlink()
    path.symlink_to(run.parent / "mine" / "thesis.txt")


ATTACKS: dict[str, Callable[[Path], None]] = {
    "record names a file above": _renamed("../../../../mine/thesis.txt"),
    "record names an absolute file": _renamed("/etc/passwd"),
    "record names one file more": _added("../../../../mine/thesis.txt"),
    "record hides a step up": _renamed("a/../../../../../mine/thesis.txt"),
    "run.json names a folder above": _indexed("../mine"),
    "run.json names an absolute folder": _indexed("/etc"),
    "run.json names no stage": _indexed("scores"),
    "run.json names a strange stage": _indexed("../scores/0123456789abcdef"),
    "run.json has an absolute store": _store("/etc"),
    "a file is a link": _file_of_artifact_linked,
    "the artifacts are a link": _linked("artifacts", "mine"),
    "what people open is a link": _linked("purified", "mine"),
    "the report is a link": _linked("report.html", "mine/thesis.txt"),
    "the heartbeats are a link": _linked("progress", "mine"),
    "the events are a link": _linked("events.jsonl", "mine/thesis.txt"),
    "the lock is a link": _linked(".lock", "mine/thesis.txt"),
    "the checkpoints are a link": _linked("checkpoints", "mine"),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_hostile_folder_is_refused_by_all_who_read_it(attack: Callable[[Path], None], hostile: Path) -> None:
    attack(hostile)
    out = hostile.parent / "out"
    for use in (
        lambda: api.audit(hostile),
        lambda: api.report(hostile),
        lambda: api.export(hostile, "mvtec-tree", out=out),
    ):
        with pytest.raises(LlbError) as refusal:
            use()
        assert "\n" not in str(refusal.value)
    _untouched(hostile)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_nothing_is_written_beside_what_is_made_of_it(attack: Callable[[Path], None], hostile: Path) -> None:
    said = _overrides(hostile, hostile.parent / "run")
    attack(hostile)
    if not said.exists():
        pytest.skip("the attack removed the decisions")
    with pytest.raises(LlbError):
        api.repurify(hostile, said, out=hostile.parent / "again", executor="serial")
    _untouched(hostile)


@pytest.mark.parametrize("name", ["progress", "events.jsonl", ".lock", "checkpoints", "artifacts", "purified"])
def test_a_run_that_goes_on_in_a_hostile_folder_follows_no_link(
    name: str, hostile: Path, photos: Path, tiny: RunConfig
) -> None:
    _linked(name, "mine/thesis.txt" if "." in name else "mine")(hostile)
    with pytest.raises(LlbError, match="is a link that leads out of"):
        api.run(tiny, api.read_folder(photos, tiny), out=hostile, executor="serial")
    _untouched(hostile)


@pytest.mark.parametrize("name", ["scores.parquet.partial", "scores.csv.partial", "overlays", "maps"])
def test_a_prediction_follows_no_link(name: str, hostile: Path, photos: Path) -> None:
    out = hostile.parent / "predictions"
    out.mkdir()
    (out / "scores.parquet").touch()  # a folder that is known as ours
    _linked(name, "mine/thesis.txt" if "." in name else "mine")(out)
    with pytest.raises(LlbError, match="is a link that leads out of"):
        api.predict(hostile, photos / "test", out=out)
    _untouched(hostile)


@pytest.mark.parametrize("role", ["images", "labels"])
@pytest.mark.parametrize("path", ["../mine/thesis.txt", "/etc/passwd", "a/../../mine/thesis.txt"])
def test_no_image_or_mask_is_read_outside_the_images_folder(role: str, path: str, hostile: Path, photos: Path) -> None:
    column, file = {"images": ("path", "images.arrow"), "labels": ("mask_path", "labels.arrow")}[role]
    rewrite(artifact_of(hostile, role), file, lambda table: set_column(table, column, [path] * table.num_rows))
    for use in (
        lambda: api.audit(hostile),
        lambda: api.report(hostile),
        lambda: api.export(hostile, "mvtec-tree", out=hostile.parent / "out", copy=True),
    ):
        with pytest.raises(LlbError):
            use()
    assert not (hostile.parent / "out").exists()
