"""Layers out of the cache and layers encoded anew are the same layers; copies, small disks and small GPUs."""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import llb_ray
from llb_ray import Manifest, RunConfig
from llb_ray.artifacts import Store, digest
from llb_ray.config import with_overrides
from llb_ray.data.tables import read_table
from llb_ray.detectors.base import Layers
from llb_ray.detectors.factory import build_detector, encoder_fingerprint
from llb_ray.engine.execution.protocols import WorkerContext
from llb_ray.engine.features import encoding as photographs_module
from llb_ray.engine.features.cache_budget import no_room
from llb_ray.engine.features.encoding import EncoderSpec, FeatureExtractor, ImageRef
from llb_ray.engine.features.feature_access import CachedFeatures, CachedSource, FeatureAccess, StreamedFeatures
from llb_ray.engine.features.featurizer import Featurizer, FeaturizerSpec, Shard, shards_of
from llb_ray.errors import ResourceError
from tests.support import final_files

AUGMENT = ("hflip", "rot90")


@pytest.fixture(params=["tiny", "tiny_bank"])
def config(request: pytest.FixtureRequest) -> RunConfig:
    chosen: RunConfig = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def manifest(photos: Path, config: RunConfig) -> Manifest:
    return llb_ray.read_folder(photos, config)


@pytest.fixture
def place(config: RunConfig, tmp_path: Path) -> WorkerContext:
    return WorkerContext(Store(tmp_path / "artifacts"), tmp_path / "progress", config.resources)


@pytest.fixture
def photographs(config: RunConfig, manifest: Manifest) -> FeatureExtractor:
    return FeatureExtractor(manifest.root, 10**8, config.detector, encoder_fingerprint(config.detector))


@pytest.fixture
def images(manifest: Manifest) -> list[ImageRef]:
    return [ImageRef(row["image_id"], row["path"]) for row in manifest.table.to_pylist()]


@pytest.fixture
def shards(photographs: FeatureExtractor, images: list[ImageRef]) -> list[Shard]:
    copies = [[replace(image, augment=kind) for image in images] for kind in (None, *AUGMENT)]
    return [shard for one in copies for shard in shards_of(one, digest(dict(photographs.encoder)), 20)]


@pytest.fixture
def accesses(
    photographs: FeatureExtractor, images: list[ImageRef], shards: list[Shard], place: WorkerContext
) -> list[FeatureAccess]:
    """The cache, made, and the way around it."""
    Featurizer(FeaturizerSpec("all", place, photographs, tuple(shards))).encode()
    return [CachedFeatures(tuple(shard.recipe for shard in shards)), StreamedFeatures(photographs, tuple(images))]


def _all(layers: Iterator[tuple[object, Layers]]) -> list[np.ndarray]:
    return [np.concatenate(parts) for parts in zip(*(batch for _, batch in layers), strict=True)]


def test_streamed_layers_are_the_cached_ones(
    accesses: list[FeatureAccess], images: list[ImageRef], place: WorkerContext
) -> None:
    chosen = [image.image_id for image in images[::-3]]
    cached, streamed = (access.source(chosen, place, AUGMENT) for access in accesses)
    assert len(cached) == len(streamed) == 3 * len(chosen)
    assert cached.image_ids == streamed.image_ids == chosen
    rows = np.array([len(cached) - 1, 0, 5, len(chosen) + 2])
    for one, other in zip(cached.batch(rows), streamed.batch(rows), strict=True):
        # One encoding may round another way than the other: one unit in the last place of float16.
        assert torch.allclose(one, other, rtol=2e-3, atol=1e-3)
    fronts, backs = (_all(source.batches(2, 9, 3)) for source in (cached, streamed))
    for one, other in zip(fronts, backs, strict=True):
        assert len(one) == 7
        assert np.allclose(one, other, rtol=2e-3, atol=1e-3)


def test_a_worker_is_given_its_share_and_looks_through_no_other_shard(
    accesses: list[FeatureAccess], shards: list[Shard], place: WorkerContext
) -> None:
    plain = [shard for shard in shards if shard.images[0].augment is None]
    chosen, others = plain[0].image_ids, plain[-1].image_ids
    assert len(plain) > 1
    for access in accesses:
        mine = access.only(chosen, shards)
        assert len(pickle.dumps(mine)) < len(pickle.dumps(access))
        one, other = (one.source(chosen, place, AUGMENT).batch(np.arange(3 * len(chosen))) for one in (mine, access))
        assert all(map(torch.equal, one, other))
        with pytest.raises(KeyError):
            mine.source(others, place)
    cached = accesses[0].only(chosen, plain)
    assert isinstance(cached, CachedFeatures)
    assert cached.recipes == (plain[0].recipe,)


def test_copies_follow_the_plain_images_in_the_same_order(
    accesses: list[FeatureAccess], images: list[ImageRef], place: WorkerContext, config: RunConfig
) -> None:
    if config.detector.name != "autoencoder":
        pytest.skip("pixels show a flip; what a network makes of one is its own affair")
    chosen = [image.image_id for image in images[:4]]
    for access in accesses:
        source = access.source(chosen, place, AUGMENT)
        (plain,), (flipped,), (turned,) = (source.batch(np.arange(4) + 4 * copy) for copy in range(3))
        assert torch.equal(flipped, plain.flip(3))
        assert torch.equal(turned, torch.rot90(plain, 1, (2, 3)))


def test_a_run_without_room_for_a_cache_gives_the_same_and_says_so(
    config: RunConfig, manifest: Manifest, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    lines: list[str] = []
    strict = with_overrides(config, ["features.max_gib=1e-6"])
    result = llb_ray.run(strict, manifest, out=tmp_path / "run", executor="serial", tell=lines.append)
    assert any("features.max_gib is 1e-06: nothing is cached" in line for line in lines)
    assert not (tmp_path / "run" / "artifacts" / "features").exists()
    whole = request.getfixturevalue("finished" if config.detector.name == "autoencoder" else "finished_bank")
    scores = [read_table(run / "image_scores.arrow") for run in (tmp_path / "run", whole)]
    assert scores[0]["image_id"].equals(scores[1]["image_id"])
    assert np.allclose(*(table["score"].to_numpy() for table in scores), rtol=1e-2)
    assert llb_ray.audit(tmp_path / "run")
    assert result.passes.cached_bytes == 0
    assert result.passes.done > 2 * manifest.table.num_rows


def test_members_are_scored_in_one_pass_without_a_cache(config: RunConfig, manifest: Manifest, tmp_path: Path) -> None:
    strict = with_overrides(config, ["features.max_gib=0"])
    run = lambda count: llb_ray.run(  # noqa: E731
        with_overrides(strict, [f"members.count={count}"]), manifest, out=tmp_path / str(count), executor="serial"
    )
    three, six = run(3).passes, run(6).passes
    fits = [sum(config.detector.reads("member", size) for size in shares) for shares in ([16] * 3, [8] * 6)]
    assert six.done - three.done == fits[1] - fits[0]
    assert six.recomputing - three.recomputing == fits[1] - fits[0] + 3 * 48


def test_the_passes_of_a_run_are_counted(config: RunConfig, manifest: Manifest, tmp_path: Path) -> None:
    first = llb_ray.run(config, manifest, out=tmp_path, executor="serial").passes
    assert first.done == manifest.table.num_rows
    assert first.recomputing > 4 * first.done
    assert first.cached_bytes > 0
    again = llb_ray.run(config, manifest, out=tmp_path, executor="serial").passes
    assert (again.done, again.recomputing) == (0, first.recomputing)


def test_the_reads_of_a_fit_are_what_it_reads(
    accesses: list[FeatureAccess],
    config: RunConfig,
    images: list[ImageRef],
    place: WorkerContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads = 0
    batch = CachedSource.batch

    def counted(self: CachedSource, rows: np.ndarray) -> Layers:
        nonlocal reads
        reads += len(rows)
        return batch(self, rows)

    monkeypatch.setattr(CachedSource, "batch", counted)
    source = accesses[0].source([image.image_id for image in images[:20]], place, AUGMENT)
    build_detector(config.detector, "member", torch.device("cpu")).fit(source, seed=0)
    assert reads == config.detector.reads("member", 60)


def test_augmented_copies_multiply_the_cache_and_change_the_fit(
    config: RunConfig, manifest: Manifest, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    more = with_overrides(config, ["features.augment=[hflip, rot180]"])
    result = llb_ray.run(more, manifest, out=tmp_path, executor="serial")
    assert result.passes.done == manifest.table.num_rows + 2 * len(manifest.image_ids("train"))
    assert llb_ray.audit(tmp_path)
    whole = request.getfixturevalue("finished" if config.detector.name == "autoencoder" else "finished_bank")
    assert final_files(tmp_path)["scores.arrow"] != final_files(whole)["scores.arrow"]


@pytest.mark.parametrize("most", [1, 3, 5])
def test_a_batch_that_does_not_fit_the_gpu_is_halved(
    most: int,
    photographs: FeatureExtractor,
    images: list[ImageRef],
    place: WorkerContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encode = photographs_module.stored_layers
    expected = EncoderSpec(photographs, place.resources).layers(images[:13])

    def small(encoder: object, image_BHW3: np.ndarray, hidden: object) -> object:
        if len(image_BHW3) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(encoder, image_BHW3)  # type: ignore[arg-type]

    monkeypatch.setattr(photographs_module, "stored_layers", small)
    for found, wanted in zip(EncoderSpec(photographs, place.resources).layers(images[:13]), expected, strict=True):
        assert np.allclose(found, wanted, rtol=2e-3, atol=1e-3)


def test_a_gpu_too_small_for_one_image_is_refused(
    photographs: FeatureExtractor, images: list[ImageRef], place: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(photographs_module, "stored_layers", full)
    with pytest.raises(ResourceError, match="does not hold the encoder and one image of 32 x 32 px; lower"):
        EncoderSpec(photographs, place.resources).layers(images[:2])


def test_the_free_disk_is_the_limit_unless_another_is_set(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = [np.zeros((1, 2**20), np.uint8)]
    monkeypatch.setattr("shutil.disk_usage", lambda root: type("Usage", (), {"free": 100 * 2**20}))
    assert no_room(config.features, one, 90, 90, tmp_path) == ""
    assert "still to be cached take 0.0889 GiB" in no_room(config.features, one, 200, 91, tmp_path)
    assert no_room(config.features, one, 200, 10, tmp_path) == ""


_MANY_SHARDS = """
import resource, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pyarrow as pa
import torch
from llb_ray.data.tables import write_table
from llb_ray.engine import filenames
from llb_ray.engine.features.feature_access import CachedSource

folder, limit = Path(sys.argv[1]), 64
layer = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((1, 2, 2), np.float16))
ids = [f"{number}" for number in range(3 * limit)]
for image_id in ids:
    (folder / image_id).mkdir()
    write_table(folder / image_id / filenames.LAYERS, pa.table({"image_id": [image_id], "layer": layer}))
shards = [SimpleNamespace(settings={}, file=(folder / image_id).joinpath) for image_id in ids]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
source = CachedSource(shards, ids, torch.device("cpu"))
for shard in source._mapped:
    shard.forget()
print(source.batch(np.arange(len(ids)))[0].sum().item())
"""


def test_a_cache_may_have_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _MANY_SHARDS, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout) == 4 * 3 * 64
