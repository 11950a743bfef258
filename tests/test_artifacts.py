"""Artifacts: complete or absent, keyed by content, and damage is named."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llb_ray.artifacts import RECORD, Recipe, Store
from llb_ray.disk import write_json
from llb_ray.errors import ArtifactError


def _write(text: str):  # type: ignore[no-untyped-def]
    return lambda folder: (folder / "a.txt").write_text(text)


def test_an_artifact_is_made_once(tmp_path: Path) -> None:
    store, recipe = Store(tmp_path), Recipe("stage", {"x": 1}, {"input": "abc"})
    assert store.find(recipe) is None
    made = store.make(recipe, _write("one"))
    again = store.make(recipe, _write("two"))
    assert (again.path / "a.txt").read_text() == "one"
    assert made.content == again.content


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    store, recipe = Store(tmp_path), Recipe("stage")

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise ValueError("disk on fire")

    with pytest.raises(ValueError, match="disk on fire"):
        store.make(recipe, fail)
    assert store.find(recipe) is None
    assert not list(tmp_path.rglob("half"))
    with pytest.raises(ArtifactError, match="no finished artifact"):
        store.get(recipe)


def test_a_folder_without_a_record_is_not_an_artifact(tmp_path: Path) -> None:
    store, recipe = Store(tmp_path), Recipe("stage")
    store.path(recipe).mkdir(parents=True)
    assert store.find(recipe) is None
    assert store.make(recipe, _write("made")).files.keys() == {"a.txt"}


def test_what_two_need_at_once_is_built_once(tmp_path: Path) -> None:
    store, recipe = Store(tmp_path), Recipe("stage")
    builders: list[int] = []

    def slow(folder: Path) -> None:
        builders.append(threading.get_ident())
        time.sleep(0.2)
        (folder / "a.txt").write_text("one")

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: store.make(recipe, slow), range(4)))
    assert len(builders) == 1
    assert made == [store.get(recipe)] * 4


def test_a_builder_that_is_killed_frees_the_artifact(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from llb_ray.artifacts import Recipe, Store\n"
        "def build(folder): (folder / 'half').touch(); print('at work', flush=True); time.sleep(600)\n"
        "Store(Path(sys.argv[1])).make(Recipe('stage'), build)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "at work\n"
        builder.kill()
    assert (Store(tmp_path).make(Recipe("stage"), _write("one")).path / "a.txt").read_text() == "one"


@pytest.mark.parametrize("other", [Recipe("b"), Recipe("a", {"x": 1}), Recipe("a", {}, {"i": "1"})])
def test_everything_in_a_recipe_counts(other: Recipe) -> None:
    assert Recipe("a").key != other.key


def test_settings_must_be_plain_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        _ = Recipe("a", {"x": float("nan")}).key
    with pytest.raises(TypeError):
        _ = Recipe("a", {"x": Path("p")}).key


@pytest.mark.parametrize("damage", ["change", "remove", "add"])
def test_verify_names_the_damaged_file(tmp_path: Path, damage: str) -> None:
    made = Store(tmp_path).make(Recipe("stage"), _write("one"))
    made.verify()
    if damage == "change":
        (made.path / "a.txt").write_text("two")
    elif damage == "remove":
        (made.path / "a.txt").unlink()
    else:
        (made.path / "a.txt").rename(made.path / "b.txt")
    with pytest.raises(ArtifactError, match=r"a\.txt"):
        made.verify()


@pytest.mark.parametrize("record", ["", "[]", '{"format_version": 1}', '{"format_version": 99, "files": {}}'])
def test_an_unreadable_or_foreign_record_is_named(tmp_path: Path, record: str) -> None:
    store = Store(tmp_path)
    made = store.make(Recipe("stage"), _write("one"))
    (made.path / RECORD).write_text(record)
    with pytest.raises(ArtifactError, match=str(made.path)):
        store.find(Recipe("stage"))


def test_json_has_one_spelling(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": 2})
    write_json(tmp_path / "b.json", {"a": 2, "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
