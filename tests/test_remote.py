"""A URI and its working copy: files go there and come back whole, the record there decides, no secret is ever said."""

import hashlib
import pickle
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llb_ray.artifacts import RECORD, Recipe, Store
from llb_ray.errors import ArtifactError, ConfigError
from llb_ray.remote import Remote, local_folder, locate
from tests.support import overwrite, synced

SECRET = "s3://AKIAKEYKEY:S3cr3tS3cr3t@nobody/run?scheme=http&endpoint_override=127.0.0.1:1"


@pytest.fixture(params=["s3", "fsspec"])
def remote(request: pytest.FixtureRequest, bucket: str) -> Remote:
    """An object store of pyarrow's own, without folders, and one of fsspec's file systems, with folders."""
    return Remote.of(bucket if request.param == "s3" else f"fsspec+memory://{uuid.uuid4().hex}/runs/photos")


def _store(remote: Remote, copy: Path | None = None) -> Store:
    """The store at the URI, seen from the machine that has its working copy in `copy`."""
    seen = remote if copy is None else replace(remote, copy=copy)
    return Store(seen.copy / "artifacts", seen)


def _write(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "a.txt").write_text(text)


def test_files_go_there_and_come_back(remote: Remote) -> None:
    path = remote.copy / "sub" / "a.txt"
    assert remote.read(path) is None
    assert remote.names() == set()
    remote.write(path, b"one")
    assert (remote.read(path), remote.names(), path.exists()) == (b"one", {"sub"}, False)
    digest = hashlib.sha256(b"one").hexdigest()
    assert remote.digests(remote.copy) == {"sub/a.txt": digest}
    remote.fetch(path, digest)
    assert path.read_bytes() == b"one"
    remote.put(path.with_name("b.txt"), path)
    remote.delete(path)
    remote.delete(path)
    assert remote.digests(path.parent) == {"b.txt": digest}
    remote.delete_folder(path.parent)
    remote.delete_folder(path.parent)
    assert remote.digests(remote.copy) == {}


def test_a_file_of_another_digest_stays_away(remote: Remote) -> None:
    path = remote.copy / "a.txt"
    remote.write(path, b"one")
    with pytest.raises(ArtifactError, match=r"/runs/photos/a\.txt: not the file that its completion record describes"):
        remote.fetch(path, "0" * 64)
    assert not path.exists()


def test_an_artifact_of_one_machine_is_found_on_another_and_its_files_come_when_read(
    remote: Remote, tmp_path: Path
) -> None:
    made = _store(remote).make(Recipe("stage"), _write("one"))
    there = _store(remote, tmp_path / "other").get(Recipe("stage"))
    assert (there.content, there.where) == (made.content, f"{remote}/artifacts/stage/{Recipe('stage').key}")
    assert [path.name for path in there.path.iterdir()] == [RECORD]
    assert there.file("a.txt").read_text() == "one"
    there.verify()


def test_the_first_record_stays(remote: Remote, tmp_path: Path) -> None:
    other = _store(remote, tmp_path / "other")

    def slow(folder: Path) -> None:
        (folder / "a.txt").write_text("mine")
        other.make(Recipe("stage"), _write("the other machine's"))

    made = _store(remote).make(Recipe("stage"), slow)
    assert made.file("a.txt").read_text() == "the other machine's"


def test_what_was_removed_there_is_made_again_although_it_lies_here(remote: Remote) -> None:
    store, record = _store(remote), f"artifacts/stage/{Recipe('stage').key}/{RECORD}"
    store.make(Recipe("stage"), _write("one"))
    overwrite(remote.uri, record, None)
    assert store.find(Recipe("stage")) is None
    assert store.make(Recipe("stage"), _write("two")).file("a.txt").read_text() == "two"


def test_a_build_that_dies_leaves_no_record_there(remote: Remote, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "a.txt").write_text("half")
        raise ValueError("disk on fire")

    with pytest.raises(ValueError, match="disk on fire"):
        _store(remote).make(Recipe("stage"), fail)
    assert _store(remote, tmp_path / "other").find(Recipe("stage")) is None


@pytest.mark.parametrize("content", [b"two", None])
def test_verify_looks_at_what_lies_there(remote: Remote, content: bytes | None) -> None:
    made = _store(remote).make(Recipe("stage"), _write("one"))
    overwrite(remote.uri, f"artifacts/stage/{made.path.name}/a.txt", content)
    assert made.file("a.txt").read_text() == "one", "the working copy is as it was"
    with pytest.raises(ArtifactError, match=r"://.*/a\.txt: the file is not the one"):
        made.verify()


def test_a_path_is_no_uri_and_a_local_uri_is_a_path(tmp_path: Path) -> None:
    assert locate("runs/a:b") == Path("runs/a:b")
    assert locate(tmp_path) == tmp_path
    assert locate(f"file://{tmp_path}") == tmp_path


def test_the_query_and_the_credentials_choose_no_other_working_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, secret = Remote.of("s3://nobody/run"), Remote.of(SECRET)
    assert plain.copy == secret.copy
    assert plain.copy != Remote.of("s3://nobody/run2").copy
    monkeypatch.setenv("LLB_CACHE", "/elsewhere")
    assert Remote.of(SECRET).copy == Path("/elsewhere") / plain.copy.name


def test_a_dead_endpoint_is_one_sentence_without_a_secret(tmp_path: Path) -> None:
    remote = Remote(SECRET, tmp_path)
    assert pickle.loads(pickle.dumps(remote)) == remote  # noqa: S301  # our own
    with pytest.raises(OSError, match="^s3://nobody/run/a: ") as refused:
        remote.write(tmp_path / "a", b"")
    assert "\n" not in str(refused.value)
    for said in (str(refused.value), repr(refused.value), repr(remote), str(remote), repr(_store(remote))):
        assert "S3cr3t" not in said
        assert "AKIA" not in said
        assert "override" not in said


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("ftpx://me:S3cr3tS3cr3t@host/run", "ftpx://...: not a URI that pyarrow.fs can open"),
        ("s3://me:S3cr/tS3cr3t@host/run", r"s3://...: .*password as %XX"),
        ("s3://me:S3cr3tS3cr3t@host/run?regoin=x", r"s3://...: .*'regoin'"),
        ("fsspec+nothing://me:S3cr3tS3cr3t@host/run", "Protocol not known: nothing"),
    ],
)
def test_a_uri_that_cannot_be_is_one_sentence_without_a_secret(uri: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as refused:
        locate(uri)
    assert "S3cr" not in str(refused.value)


def test_what_must_be_local_names_no_secret() -> None:
    assert local_folder("--out", "runs") == Path("runs")
    with pytest.raises(ConfigError, match="^--out s3://nobody/run: has to be on a disk of this machine"):
        local_folder("--out", SECRET)


def test_a_plain_copy_is_a_store(remote: Remote, tmp_path: Path) -> None:
    _store(remote).make(Recipe("stage"), _write("one"))
    Store(synced(remote.uri, tmp_path / "plain") / "artifacts").get(Recipe("stage")).verify()
