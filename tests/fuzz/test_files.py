"""Damaged and made-up files: whatever they hold, they are read or refused with a sentence, and no process dies.

FUZZ is the number of examples for every kind of file; `make fuzz` sets it.
"""

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from llb_ray.data.tables import write_table
from tests.fuzz.readers import read
from tests.support import artifact_of

EXAMPLES = int(os.environ.get("FUZZ", "12"))
ANY_NUMBER = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize="FUZZ" not in os.environ,
)


@pytest.fixture(scope="module")
def reader() -> Iterator[ProcessPoolExecutor]:
    """A process of its own to read in: a fault in C code ends that one."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def seeds(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Path]]:
    """A sound file of every kind, by name, and what reads it."""
    from llb_ray.data.adapters import survey
    from llb_ray.engine.execution.checkpoint import FileCheckpoints
    from llb_ray.scans.job_results import ROWS

    root = tmp_path_factory.mktemp("seeds")
    run = Path(shutil.copytree(finished, root / "run"))
    data = Path(json.loads((run / "run.json").read_text())["data_root"])
    survey("mvtec", data).usable(True).save(root / "listing.arrow")
    write_table(root / "table.arrow", pa.table({"image_id": ["a", "bc", None], "scores": [[1.0], [], None]}))
    values = np.random.default_rng(0).random((8, 9, 6), np.float32)
    np.save(root / "bands.npy", values)
    np.savez_compressed(root / "bands.npz", values)
    pages = [Image.fromarray(values[..., page]) for page in range(6)]
    pages[0].save(root / "bands.tif", save_all=True, append_images=pages[1:])
    photo = Image.fromarray((255 * values[..., :3]).astype(np.uint8))
    for ending in ("png", "jpg", "tif", "bmp", "webp"):
        photo.save(root / f"photo.{ending}")
    (root / "overrides.csv").write_text(f'image_id,path,decision,note\n{"a" * 32},a.png,keep,"why, not"\n')
    (root / "list.txt").write_text("a.png\nb/c.png\n")
    (root / "list.csv").write_text("path,score\na.png,1\n")
    parquet.write_table(pa.table({"path": ["a.png", "b.png"], "label": [0, 1]}), root / "list.parquet")
    parquet.write_table(ROWS.empty_table(), root / "results.parquet")
    (root / "columns.csv").write_text("path,category,split,label\na.png,x,train,0\nb.png,x,test,1\n")
    import torch

    FileCheckpoints(root / "fit.checkpoint", 0).save({"step": torch.arange(9)})
    (run / "progress").mkdir(exist_ok=True)
    beat = next((run / "progress").glob("*.json"))
    return {
        "listing": ("listing", root / "listing.arrow"),
        "table": ("table", root / "table.arrow"),
        "mapped": ("mapped", artifact_of(run, "features") / "layers.arrow"),
        "scores": ("table", artifact_of(run, "final_scores") / "scores.arrow"),
        "purified": ("table", artifact_of(run, "purified") / "purified.arrow"),
        "index": ("index", run / "run.json"),
        "record": ("record", artifact_of(run, "matrix") / "record.json"),
        "events": ("status", run / "events.jsonl"),
        "beat": ("beat", beat),
        "config": ("config", run / "config.yaml"),
        "overrides": ("overrides", root / "overrides.csv"),
        **{f"list.{ending}": ("inputs", root / f"list.{ending}") for ending in ("txt", "csv", "parquet")},
        **{f"bands.{ending}": ("bands", root / f"bands.{ending}") for ending in ("npy", "npz", "tif")},
        **{f"photo.{ending}": ("photograph", root / f"photo.{ending}") for ending in ("png", "jpg", "tif", "bmp")},
        "photo.webp": ("photograph", root / "photo.webp"),
        "checkpoint": ("checkpoint", root / "fit.checkpoint"),
        "columns.csv": ("columns", root / "columns.csv"),
        "columns.parquet": ("columns", root / "list.parquet"),
        "results": ("results", root / "results.parquet"),
    }


NAMES = [
    *("listing", "table", "mapped", "scores", "purified", "index", "record", "events", "beat", "config", "overrides"),
    *("list.txt", "list.csv", "list.parquet", "bands.npy", "bands.npz", "bands.tif"),
    *("photo.png", "photo.jpg", "photo.tif", "photo.bmp", "photo.webp", "checkpoint"),
    *("columns.csv", "columns.parquet", "results"),
]
FLIPS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8)


def _damaged(content: bytes, flips: list[tuple[float, int]], kept: float) -> bytes:
    changed = bytearray(content)
    for where, byte in flips:
        changed[min(len(changed) - 1, int(where * len(changed)))] = byte
    return bytes(changed[: max(1, int(kept * len(changed)))])


@pytest.mark.parametrize("name", NAMES)
def test_damaged_bytes_are_read_or_refused(
    name: str, seeds: dict[str, tuple[str, Path]], reader: ProcessPoolExecutor
) -> None:
    kind, path = seeds[name]
    sound = path.read_bytes()

    @ANY_NUMBER
    @given(FLIPS, st.one_of(st.just(1.0), st.floats(0, 1)))
    def run(flips: list[tuple[float, int]], kept: float) -> None:
        reader.submit(read, kind, str(path), _damaged(sound, flips, kept)).result()

    try:
        assert reader.submit(read, kind, str(path), sound).result() == "read"
        run()
    finally:
        path.write_bytes(sound)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", ["index", "record", "events", "beat", "config"])
def test_other_json_is_read_or_refused(
    name: str, seeds: dict[str, tuple[str, Path]], reader: ProcessPoolExecutor
) -> None:
    """Sound JSON in which a value somewhere is another, or in the place of the whole."""
    import yaml

    kind, path = seeds[name]
    sound = path.read_bytes()
    lines = sound.decode().splitlines() if name == "events" else [sound.decode()]

    @ANY_NUMBER
    @given(st.data(), JSON)
    def run(data: st.DataObject, value: object) -> None:
        number = data.draw(st.integers(0, len(lines) - 1))
        tree = yaml.safe_load(lines[number])
        changed = [*lines]
        changed[number] = json.dumps(_with(data, tree, value))
        reader.submit(read, kind, str(path), "\n".join(changed).encode()).result()

    try:
        run()
    finally:
        path.write_bytes(sound)


def _with(data: st.DataObject, tree: object, value: object) -> object:
    """The tree with `value` somewhere in it."""
    if not isinstance(tree, dict) or not tree or data.draw(st.integers(0, 4)) == 0:
        return value
    key = data.draw(st.sampled_from(sorted(tree)))
    return {**tree, key: _with(data, tree[key], value)}


@pytest.mark.parametrize("label", [7, -1, 2, 100])
def test_a_label_that_is_none_is_refused_when_it_is_read(label: int, tmp_path: Path) -> None:
    from llb_ray.data.listing import LISTING, Listing
    from llb_ray.data.manifest import MANIFEST, Manifest
    from llb_ray.errors import DataError

    row = {"path": "a.png", "category": "x", "split": "train", "label": label}
    with pytest.raises(DataError, match="a label is neither 0"):
        Listing.of(tmp_path, pa.Table.from_pylist([row], LISTING))
    with pytest.raises(DataError, match="a label in the manifest is neither 0"):
        Manifest.of(tmp_path, pa.Table.from_pylist([row | {"image_id": "0" * 32, "group": "g"}], MANIFEST))
