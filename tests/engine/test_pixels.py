"""Large test sets: pixels counted by workers are what the driver finds at once, whoever counts and however often."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from PIL import Image

import llb_ray
from llb_ray import Manifest, RunConfig
from llb_ray.api import make_executor
from llb_ray.artifacts import Artifact, Recipe, Store
from llb_ray.config import with_overrides
from llb_ray.data.manifest import LABELS
from llb_ray.data.tables import batch_writer
from llb_ray.engine import filenames, pixel_grid
from llb_ray.engine.evaluation import evaluate, pixel_counter
from llb_ray.engine.evaluation.evaluate import detection_metrics, shards_to_count
from llb_ray.engine.evaluation.ground_truth import GroundTruth, KnownImage
from llb_ray.engine.evaluation.pixel_counter import Evaluator, EvaluatorSpec, Grid, Pixels, PixelShard
from llb_ray.engine.execution.executor import Executor
from llb_ray.engine.execution.heartbeat import read_beats
from llb_ray.engine.pixel_grid import PixelGrid
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.errors import DataError
from tests.support import final_files
from tests.workers import place

SIZE, CELLS, IMAGES = 32, 16, 20
_STRINGS = ("group", pa.string()), ("category", pa.string())
CONFIG = RunConfig.model_validate({"detector": {"image_size_px": SIZE}, "evaluation": {"sigma_px": 1}})
GRID = Grid(PixelGrid(SIZE, 1), 10**6)
NAMES = ("p_auroc", "p_ap", "p_f1_max", "aupro")
Rows = npt.NDArray[np.int64]


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test set is a large one, and four of its images are a shard."""
    monkeypatch.setattr(evaluate, "EXACT_PIXELS", 0)
    monkeypatch.setattr(pixel_counter, "SHARD_PIXELS", 4 * SIZE**2)


@pytest.fixture(params=["serial", "ray"])
def executor(request: pytest.FixtureRequest, ray_local: None) -> Iterator[Executor]:
    with make_executor(request.param) as entered:
        yield entered


@pytest.fixture
def truth(tmp_path: Path) -> GroundTruth:
    """Of twenty images a third is normal, three are training images, one is unlabelled, and one mask is empty."""
    (tmp_path / "masks").mkdir()
    rows = []
    for number in range(IMAGES):
        anomalous = number % 3 > 0
        if anomalous and number != 1:
            mask = np.zeros((SIZE, SIZE), np.uint8)
            mask[number : number + 5, 3:9] = 255 * (number != 2)
            Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
        path = f"masks/{number}.png" if anomalous and number != 1 else None
        label = None if number == 6 else int(anomalous)
        split = "train" if number in (3, 9, 15) else "test"
        kind = ("dent", "crack")[number // 3 % 2] if anomalous else None
        known = {"label": label, "defect_type": kind, "mask_path": path, "group": "g", "category": "weave"}
        rows.append({"image_id": f"i{number:02d}", "split": split, **known})
    schema = pa.schema([("image_id", pa.string()), ("split", pa.string()), *LABELS, *_STRINGS])
    return GroundTruth(pa.Table.from_pylist(rows, schema), tmp_path, 10**6)


@pytest.fixture
def scored(tmp_path: Path) -> list[Artifact]:
    """Score shards of two, then of seven images; each in record batches of three at most."""
    rng, store = np.random.default_rng(0), Store(tmp_path / "store")
    map_NHW = rng.normal(size=(IMAGES, CELLS, CELLS)).astype(np.float32)
    shards = []
    for index, rows in enumerate(np.split(rng.permutation(IMAGES), [2, 4, 6, 13])):

        def build(folder: Path, rows: Rows = rows) -> None:
            parts = np.split(rows, range(3, len(rows), 3))
            with batch_writer(folder / filenames.SCORES) as append:
                for part in parts:
                    append(_batch(part, map_NHW[part]))

        shards.append(store.make(Recipe("score", {"index": index}), build))
    return shards


def _batch(rows: Rows, map_NHW: npt.NDArray[np.float32]) -> pa.RecordBatch:
    columns = {
        "image_id": pa.array([f"i{row:02d}" for row in rows]),
        "score": pa.array(map_NHW.max(axis=(1, 2))),
        "map": pa.FixedShapeTensorArray.from_numpy_ndarray(map_NHW),
    }
    return pa.RecordBatch.from_pydict(columns)


def _count(shards: list[PixelShard], executor: Executor, folder: Path, workers: int = 2) -> list[Artifact]:
    specs = [
        EvaluatorSpec(f"evaluator-{slot:03d}", place(folder), GRID, tuple(shards[slot::workers]))
        for slot in range(workers)
    ]
    executor.run(Evaluator, specs, lambda line: None)
    return [place(folder).store.get(shard.recipe) for shard in shards]


def test_every_executor_counts_what_the_driver_finds(
    executor: Executor, many: None, truth: GroundTruth, scored: list[Artifact], tmp_path: Path
) -> None:
    shards = shards_to_count(scored, truth, GRID)
    assert [len(shard.known) for shard in shards] == [5, 5, 6]  # whole score shards, four images at least
    counted = _count(shards, executor, tmp_path / "two")
    with make_executor("serial") as serial:
        alone = _count(shards, serial, tmp_path / "alone", workers=1)
    assert [artifact.files for artifact in counted] == [artifact.files for artifact in alone]
    scores = read_scores(scored)
    found, exact = (detection_metrics(scores, truth, CONFIG, parts) for parts in (counted, ()))
    assert (found["pixel_mode"], exact["pixel_mode"]) == ("streaming", "exact")
    assert found["num_left_out_of_pixel_metrics"] == exact["num_left_out_of_pixel_metrics"] == 2
    assert found.keys() == exact.keys()
    for name in NAMES:
        assert abs(found[name] - exact[name]) <= found["pixel_error_bound"][name] < 1e-2
    _same_by_type(found["by_type"], exact["by_type"])
    assert {beat.done for beat in read_beats(tmp_path / "two" / "progress")} == {5 + 6, 5}


def _same_by_type(counted: dict[str, Any], exact: dict[str, Any]) -> None:
    assert counted.keys() == exact.keys()
    for kind, found in counted.items():
        assert found.keys() == exact[kind].keys()
        assert abs(found["aupro"] - exact[kind]["aupro"]) <= found["aupro_error_bound"] < 1e-2
        assert exact[kind]["aupro_error_bound"] == 0
        assert (found["num"], found["i_auroc"]) == (exact[kind]["num"], exact[kind]["i_auroc"])


def test_no_more_maps_and_masks_are_held_than_a_batch(
    many: None, truth: GroundTruth, scored: list[Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    pixels_of = Grid.pixels

    def watched(grid: Grid, known: Sequence[KnownImage], map_NHW: npt.NDArray[np.float32]) -> Pixels:
        held.append(len(map_NHW))
        return pixels_of(grid, known, map_NHW)

    monkeypatch.setattr(Grid, "pixels", watched)
    monkeypatch.setattr(pixel_grid, "_PIXELS_AT_ONCE", 2 * SIZE**2)
    with make_executor("serial") as executor:
        _count(shards_to_count(scored, truth, GRID), executor, tmp_path)
    assert (max(held), sum(held)) == (2, 16)


def test_a_shard_that_is_counted_is_not_counted_again_and_a_mask_that_is_edited_is(
    many: None, truth: GroundTruth, scored: list[Artifact], tmp_path: Path
) -> None:
    shards = shards_to_count(scored, truth, GRID)
    with make_executor("serial") as executor:
        _count(shards[:1], executor, tmp_path)
        before = _records(tmp_path)
        _count(shards, executor, tmp_path)
    after = _records(tmp_path)
    assert after.items() >= before.items()
    assert len(after) == 3
    mask = next(image.mask for image in shards[0].known.values() if image.mask)
    Image.fromarray(np.full((SIZE, SIZE), 255, np.uint8)).save(mask)
    edited = shards_to_count(scored, GroundTruth(truth.table, truth.root, truth.max_pixels), GRID)
    assert [new.recipe == old.recipe for new, old in zip(edited, shards, strict=True)] == [False, True, True]


def _records(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("store/pixels/*/record.json")}


def test_an_unreadable_mask_is_one_sentence_from_any_worker(
    executor: Executor, many: None, truth: GroundTruth, scored: list[Artifact], tmp_path: Path
) -> None:
    (tmp_path / "masks" / "8.png").write_bytes(b"scribble")
    with pytest.raises(DataError, match=r"8\.png: not a usable mask .*; replace or delete it$"):
        _count(shards_to_count(scored, truth, GRID), executor, tmp_path)


def test_a_small_set_or_one_without_masks_is_left_to_the_driver(
    truth: GroundTruth, scored: list[Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shards_to_count(scored, truth, GRID) == []
    monkeypatch.setattr(evaluate, "EXACT_PIXELS", 16 * SIZE**2)
    assert shards_to_count(scored, truth, GRID) == []
    monkeypatch.setattr(evaluate, "EXACT_PIXELS", 16 * SIZE**2 - 1)
    assert len(shards_to_count(scored, truth, GRID)) == 1
    bare = truth.table.drop(["mask_path"]).append_column("mask_path", pa.nulls(IMAGES, pa.string()))
    assert shards_to_count(scored, GroundTruth(bare, truth.root, truth.max_pixels), GRID) == []


@pytest.mark.ray
def test_a_whole_run_counts_alike_on_both_executors_and_within_its_bound(
    many: None, ray_local: None, photos: Path, tiny: RunConfig, finished: Path, tmp_path: Path
) -> None:
    config = with_overrides(tiny, ["resources.num_gpus=1", "resources.device=cpu"])
    manifest = llb_ray.read_folder(photos, config)
    for name in ("serial", "ray"):
        shutil.copytree(finished, tmp_path / name)
        result = llb_ray.run(config, manifest, out=tmp_path / name, executor=name)
        assert [time.stage for time in result.times if not time.reused] == ["pixels", "evaluate"]
    assert final_files(tmp_path / "serial") == final_files(tmp_path / "ray")
    found, exact = result.metrics, json.loads((finished / "metrics.json").read_text())
    assert found["pixel_mode"] == "streaming"
    for name in NAMES:
        assert abs(found[name] - exact[name]) <= found["pixel_error_bound"][name] < 1e-2
    _same_by_type(found["by_type"], exact["by_type"])
    same = found.keys() - {*NAMES, "by_type", "pixel_mode", "pixel_error_bound"}
    assert {name: found[name] for name in same} == {name: exact[name] for name in same}
    assert llb_ray.audit(tmp_path / "ray")


def test_a_stopped_run_goes_on_from_what_was_counted(
    many: None, photos: Path, tiny: RunConfig, finished: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(photos, tmp_path / "photos" / photos.name))
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    manifest = llb_ray.read_folder(copy, tiny)
    mask = copy / manifest.split("test")["mask_path"].drop_null()[0].as_py()
    good = mask.read_bytes()
    mask.write_bytes(b"scribble")
    with pytest.raises(DataError, match="not a usable mask"):
        llb_ray.run(tiny, manifest, out=run, executor="serial")
    mask.write_bytes(good)
    assert _rerun(tiny, manifest, run) == ["pixels", "evaluate"]
    assert _rerun(tiny, manifest, run) == []
    assert _rerun(with_overrides(tiny, ["evaluation.fpr_limit=0.1"]), manifest, run) == ["evaluate"]
    assert _rerun(with_overrides(tiny, ["evaluation.sigma_px=2"]), manifest, run) == ["threshold", "pixels", "evaluate"]


def _rerun(config: RunConfig, manifest: Manifest, out: Path) -> list[str]:
    result = llb_ray.run(config, manifest, out=out, executor="serial")
    return [time.stage for time in result.times if not time.reused]
