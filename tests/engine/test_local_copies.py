"""Features read from a machine's own disk are those of the run, are fetched once, and make room for each other."""

import errno
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from filelock import FileLock

import llb_ray
from llb_ray import Manifest, RunConfig
from llb_ray.artifacts import Artifact, Recipe, Store
from llb_ray.config import with_overrides
from llb_ray.data.tables import write_table
from llb_ray.engine import filenames
from llb_ray.engine.features.local_copies import LocalCopies
from llb_ray.engine.rundir.run_index import settings_digest
from llb_ray.errors import ConfigError, DamageError, LlbError, ResourceError
from tests.support import final_files

_GIB = 2**30


@pytest.fixture
def shards(tmp_path: Path) -> list[Artifact]:
    """Three feature shards on shared storage, of one size."""
    store = Store(tmp_path / "shared")
    return [_shard(store, number) for number in range(3)]


def _shard(store: Store, number: int) -> Artifact:
    recipe = Recipe("features", {"number": number})
    layer = pa.FixedShapeTensorArray.from_numpy_ndarray(np.full((4, 2, 2), number, np.float16))
    with store.building(recipe) as folder:
        assert folder is not None
        write_table(folder / filenames.LAYERS, pa.table({"image_id": [f"{number}{row}" for row in "abcd"], "l": layer}))
    return store.get(recipe)


def _ids(copies: LocalCopies, shard: Artifact) -> list[str]:
    ids: list[str] = copies.mapped(shard).batches[0].column("image_id").to_pylist()
    return ids


def _held(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.arrow")}


def _content(shard: Artifact) -> str:
    return shard.files[filenames.LAYERS]


def test_a_run_with_local_copies_leaves_the_same_bytes(tiny_bank: RunConfig, photos: Path, tmp_path: Path) -> None:
    manifest = llb_ray.read_folder(photos, tiny_bank)
    local = with_overrides(tiny_bank, [f"features.local={tmp_path / 'disk'}"])
    for name, config in (("plain", tiny_bank), ("local", local)):
        llb_ray.run(config, manifest, out=tmp_path / name, executor="serial")
    told, plain = (final_files(tmp_path / name) for name in ("local", "plain"))
    assert {name for name in told if told[name] != plain.get(name)} == {"config.yaml"}
    assert _held(tmp_path / "disk")


def test_a_shard_is_fetched_once(shards: list[Artifact], tmp_path: Path) -> None:
    copies = LocalCopies(tmp_path / "disk" / "features")
    assert _ids(copies, shards[1]) == ["1a", "1b", "1c", "1d"]
    (shards[1].path / filenames.LAYERS).unlink()
    assert _ids(copies, shards[1]) == ["1a", "1b", "1c", "1d"]
    assert _held(copies.folder) == {_content(shards[1])}


def test_what_was_read_longest_ago_makes_room(shards: list[Artifact], tmp_path: Path) -> None:
    size = shards[0].sizes[filenames.LAYERS]
    copies = LocalCopies(tmp_path / "disk", max_gib=2.5 * size / _GIB)
    for second, shard in enumerate((shards[0], shards[1], shards[0])):
        _ids(copies, shard)
        os.utime(copies.folder / f"{_content(shard)}.arrow", (second, second))
    _ids(copies, shards[2])
    assert _held(copies.folder) == {_content(shards[0]), _content(shards[2])}


def test_a_shard_larger_than_the_limit_is_read_where_it_is(
    shards: list[Artifact], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copies = LocalCopies(tmp_path / "disk", max_gib=1 / _GIB)
    with caplog.at_level(logging.WARNING):
        assert _ids(copies, shards[0]) == ["0a", "0b", "0c", "0d"]
    assert _held(copies.folder) == set()
    assert "has no room for" in caplog.text


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_copy_that_was_cut_off_is_fetched_again(kept: int, shards: list[Artifact], tmp_path: Path) -> None:
    copies = LocalCopies(tmp_path / "disk")
    _ids(copies, shards[0])
    copy = copies.folder / f"{_content(shards[0])}.arrow"
    copy.write_bytes(copy.read_bytes()[:kept])
    assert _ids(copies, shards[0]) == ["0a", "0b", "0c", "0d"]
    assert copy.stat().st_size == shards[0].sizes[filenames.LAYERS]


def test_what_a_killed_process_had_copied_is_removed(shards: list[Artifact], tmp_path: Path) -> None:
    copies = LocalCopies(tmp_path / "disk")
    _ids(copies, shards[0])
    killed, busy = (copies.folder / f"{_content(shard)}.part" for shard in shards[1:])
    for part in (killed, busy):
        part.write_bytes(b"half")
    with ThreadPoolExecutor(1) as other, FileLock(busy.with_suffix(".lock")):
        third = _shard(Store(tmp_path / "more"), 7)
        assert other.submit(_ids, copies, third).result() == ["7a", "7b", "7c", "7d"]
        assert {path.name for path in copies.folder.glob("*.part")} == {busy.name}
    _ids(copies, shards[2])
    assert list(copies.folder.glob("*.part")) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_shard_is_read_where_it_is_once_the_disk_is_full(
    code: int,
    shards: list[Artifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fill(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("shutil.copyfile", fill)
    copies = LocalCopies(tmp_path / "disk")
    assert _ids(copies, shards[0]) == ["0a", "0b", "0c", "0d"]
    assert list(copies.folder.glob("*.[ap]*")) == []
    assert "has no room for" in caplog.text


def test_processes_make_room_beside_each_other(shards: list[Artifact], tmp_path: Path) -> None:
    copies = LocalCopies(tmp_path / "disk", max_gib=1.5 * shards[0].sizes[filenames.LAYERS] / _GIB)
    with ThreadPoolExecutor(6) as pool:
        read = list(pool.map(lambda number: _ids(copies, shards[number % 3])[0], range(120)))
    assert read == [f"{number % 3}a" for number in range(120)]


def _of_others(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def _file(folder: Path) -> None:
    folder.write_text("")


def _in_file(folder: Path) -> None:
    folder.parent.joinpath("file").write_text("")
    folder.symlink_to(folder.parent / "file" / "below")


@pytest.mark.parametrize("spoil", [_of_others, _file, _in_file])
def test_a_folder_that_cannot_be_used_is_named(
    shards: list[Artifact], tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(tmp_path / "disk")
    with pytest.raises(ResourceError, match="features.local=.*disk.*: .*; name a folder of your own"):
        _ids(LocalCopies(tmp_path / "disk"), shards[0])


def test_a_damaged_shard_is_not_copied(shards: list[Artifact], tmp_path: Path) -> None:
    layers = shards[0].path / filenames.LAYERS
    layers.write_bytes(layers.read_bytes()[:-9] + b"-damaged-")
    with pytest.raises(DamageError, match="damaged"):
        _ids(LocalCopies(tmp_path / "disk"), shards[0])
    assert list((tmp_path / "disk").glob("*.[ap]*")) == []


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["features.local=scratch"], "give an absolute path"),
        (["features.local_gib=3"], "no effect without local"),
        (["features.local=/scratch", "features.max_gib=0"], "no effect with max_gib=0"),
    ],
)
def test_settings_without_effect_are_refused(settings: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        llb_ray.load_config(None, settings)


@pytest.mark.parametrize("setting", ["features.local=/scratch", "features.max_gib=3", "resources.num_cpus=3"])
def test_where_features_are_read_makes_no_other_run(tiny: RunConfig, setting: str) -> None:
    assert settings_digest(with_overrides(tiny, [setting])) == settings_digest(tiny)


def test_a_run_at_a_uri_has_copies_already(tiny: RunConfig, photos: Path, tmp_path: Path) -> None:
    config = with_overrides(tiny, [f"features.local={tmp_path / 'disk'}"])
    manifest: Manifest = llb_ray.read_folder(photos, config)
    with pytest.raises(LlbError, match="features.local has no effect with a run at a URI"):
        llb_ray.run(config, manifest, out="fsspec+memory://bucket/run", executor="serial")
