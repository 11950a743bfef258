"""The feature cache: every image in exactly one shard, what is stored is what was encoded, and nothing stale."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

import llb_ray
from llb_ray import Manifest, RunConfig
from llb_ray.artifacts import Artifact, Store, digest
from llb_ray.config import ResourcesConfig
from llb_ray.data.decoding import read_rgb
from llb_ray.data.manifest import path_from_text
from llb_ray.data.tables import read_batches, read_table
from llb_ray.detectors.base import Layers
from llb_ray.detectors.factory import build_encoder, encoder_fingerprint
from llb_ray.engine import filenames
from llb_ray.engine.execution.executor import SerialExecutor, Tell
from llb_ray.engine.execution.protocols import Worker, WorkerContext
from llb_ray.engine.features import encoded_images
from llb_ray.engine.features.encoding import FeatureExtractor, ImageRef
from llb_ray.engine.features.feature_access import CachedSource
from llb_ray.engine.features.featurizer import Featurizer, FeaturizerSpec, shards_of
from llb_ray.engine.workers.fitter import Member
from llb_ray.errors import DataError, LlbError, WeightsError

CPU = torch.device("cpu")
SHARD = 10


@dataclass
class Wide(SerialExecutor):
    """The serial executor with room for several workers at once; remembers how many shards each worker was given."""

    room: int
    given: list[list[int]] = field(default_factory=list)

    def slots(self, resources: ResourcesConfig) -> int:
        return self.room

    def run(self, worker: type[Worker], specs: Sequence[Any], tell: Tell, may_fail: int = 0) -> dict[str, LlbError]:
        self.given += [[len(spec.shards) for spec in specs]] if worker is not Member else []
        return super().run(worker, specs, tell, may_fail)


@pytest.fixture(scope="module")
def manifest(photos: Path, tiny: RunConfig) -> Manifest:
    return llb_ray.read_folder(photos, tiny)


def _refs(manifest: Manifest) -> list[ImageRef]:
    return [ImageRef(row["image_id"], row["path"]) for row in manifest.table.to_pylist()]


def _spec(config: RunConfig, manifest: Manifest, folder: Path) -> FeaturizerSpec:
    """One featurizer for all shards."""
    fingerprint = encoder_fingerprint(config.detector)
    photographs = FeatureExtractor(manifest.root, config.data.max_pixels, config.detector, fingerprint)
    shards = shards_of(_refs(manifest), digest(dict(fingerprint)), SHARD)
    place = WorkerContext(Store(folder / "artifacts"), folder / "progress", config.resources)
    return FeaturizerSpec("featurizer", place, photographs, tuple(shards))


def _artifacts(spec: FeaturizerSpec) -> list[Artifact]:
    store = spec.context.store
    return [store.get(shard.recipe) for shard in spec.shards]


def _encoded(spec: FeaturizerSpec, image_ids: Sequence[str]) -> Layers:
    """Straight from the files, without a cache."""
    paths = {image.image_id: image.path for shard in spec.shards for image in shard.images}
    detector, root = spec.extractor.detector, spec.extractor.root
    size_px, limit = detector.image_size_px, spec.extractor.max_pixels
    image_BHW3 = np.stack([read_rgb(root / path_from_text(paths[name]), size_px, limit) for name in image_ids])
    return build_encoder(detector, CPU).encode(torch.from_numpy(image_BHW3).permute(0, 3, 1, 2))


def test_every_image_is_in_exactly_one_shard(tiny: RunConfig, manifest: Manifest, tmp_path: Path) -> None:
    spec = _spec(tiny, manifest, tmp_path)
    Featurizer(spec).encode()
    batches = [batch for artifact in _artifacts(spec) for batch in read_batches(artifact.path / filenames.LAYERS)]
    stored = [image_id for batch in batches for image_id in batch.column("image_id").to_pylist()]
    assert stored == manifest.table["image_id"].to_pylist()


@pytest.mark.parametrize(("num_images", "num_shards"), [(0, 0), (1, 1), (256, 1), (257, 2), (512, 2), (513, 4)])
def test_shards_are_at_most_of_the_size_asked_for_on_average(num_images: int, num_shards: int) -> None:
    refs = [ImageRef(digest(number)[:32], "") for number in range(num_images)]
    shards = shards_of(refs, "")
    assert len(shards) == num_shards
    assert [image for shard in shards for image in shard.images] == sorted(refs, key=lambda ref: ref.image_id)


def test_an_added_image_changes_one_shard(manifest: Manifest) -> None:
    refs = _refs(manifest)
    added = {shard.recipe.key for shard in shards_of(refs, "", SHARD)}
    before = {shard.recipe.key for shard in shards_of(refs[:30] + refs[31:], "", SHARD)}
    assert (len(added - before), len(before - added)) == (1, 1)


def test_rows_come_by_id_in_any_order_as_they_were_encoded(tiny: RunConfig, manifest: Manifest, tmp_path: Path) -> None:
    small_batches = RunConfig.model_validate({**tiny.model_dump(), "resources": {"batch_size": 3}})
    spec = _spec(small_batches, manifest, tmp_path)
    Featurizer(spec).encode()
    everyone = manifest.table["image_id"].to_pylist()
    asked = [everyone[row] for row in np.random.default_rng(0).permutation(len(everyone))[:31]]
    source = CachedSource(_artifacts(spec), asked, CPU)
    rows = np.array([30, 4, 4, 0, 17, 9])
    (found,) = source.batch(rows)
    (expected,) = _encoded(spec, [asked[row] for row in rows])
    assert len(source) == 31
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_a_source_keeps_nothing_of_shards_without_its_images(
    tiny: RunConfig, manifest: Manifest, tmp_path: Path
) -> None:
    spec = _spec(tiny, manifest, tmp_path)
    Featurizer(spec).encode()
    assert len(spec.shards) > 2
    asked = spec.shards[1].image_ids[::2]
    source = CachedSource(_artifacts(spec), asked, CPU)
    assert len(source._mapped) == 1
    (found,) = source.batch(np.arange(len(asked)))
    (expected,) = _encoded(spec, asked)
    assert torch.equal(found, expected)


def test_features_are_stored_as_float16_and_read_as_float32(
    tiny_bank: RunConfig, manifest: Manifest, tmp_path: Path
) -> None:
    spec = _spec(tiny_bank, manifest, tmp_path)
    Featurizer(spec).encode()
    artifacts = _artifacts(spec)
    schema = next(read_batches(artifacts[0].path / filenames.LAYERS)).schema
    assert [schema.field(f"layer_{index}").type.value_type for index in (0, 1)] == [pa.float16()] * 2
    image_ids = manifest.table["image_id"].to_pylist()[::-9]
    found = CachedSource(artifacts, image_ids, CPU).batch(np.arange(len(image_ids)))
    for layer, expected in zip(found, _encoded(spec, image_ids), strict=True):
        assert layer.dtype == torch.float32
        assert torch.allclose(layer, expected, rtol=2e-3, atol=1e-4)
        assert torch.equal(layer, layer.half().float())


def test_pixels_are_stored_as_bytes(tiny: RunConfig, manifest: Manifest, tmp_path: Path) -> None:
    spec = _spec(tiny, manifest, tmp_path)
    Featurizer(spec).encode()
    schema = next(read_batches(_artifacts(spec)[0].path / filenames.LAYERS)).schema
    assert schema.field("layer_0").type.value_type == pa.uint8()


def test_only_the_shard_that_is_missing_is_made_again(tiny: RunConfig, manifest: Manifest, tmp_path: Path) -> None:
    spec = _spec(tiny, manifest, tmp_path)
    Featurizer(spec).encode()
    before = _artifacts(spec)
    times = [artifact.path.stat().st_mtime_ns for artifact in before]
    shutil.rmtree(before[3].path)
    Featurizer(spec).encode()
    after = _artifacts(spec)
    assert after == before
    remade = [artifact.path.stat().st_mtime_ns for artifact in after]
    assert [shard for shard, (old, new) in enumerate(zip(times, remade, strict=True)) if old != new] == [3]


def test_nothing_missing_builds_no_encoder(
    tiny: RunConfig, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = _spec(tiny, manifest, tmp_path)
    Featurizer(spec).encode()
    monkeypatch.setattr("llb_ray.engine.features.encoding.build_encoder", lambda *given: pytest.fail("it was built"))
    Featurizer(spec).encode()


@pytest.mark.parametrize("room", [1, 3, 99])
def test_several_workers_share_the_shards_and_drop_none(
    room: int, tiny: RunConfig, manifest: Manifest, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded_images, "shard_images", lambda detector: SHARD)
    executor = Wide(room)
    llb_ray.run(tiny, manifest, out=tmp_path, executor=executor)
    assert len(executor.given) == 4, "features, the members' scores, the final detector's, held-out maps by member"
    for given in executor.given[:3]:
        assert len(given) == min(room, sum(given))
        assert max(given) - min(given) <= 1
    sharded, whole = (read_table(run / "scores.arrow") for run in (tmp_path, finished))
    assert sharded.drop(["scores"]).equals(whole.drop(["scores"]))
    scores = [pc.list_flatten(table["scores"]).to_numpy() for table in (sharded, whole)]
    assert np.allclose(*scores, rtol=1e-4)


def test_another_encoder_or_other_images_are_other_shards(manifest: Manifest) -> None:
    refs = _refs(manifest)
    keys = {shard.recipe.key for shard in shards_of(refs, "this", SHARD)}
    for images, encoder in ((refs, "other"), ([replace(ref, augment="hflip") for ref in refs], "this")):
        assert not keys & {shard.recipe.key for shard in shards_of(images, encoder, SHARD)}


def test_moved_images_are_the_same_shards(manifest: Manifest) -> None:
    refs = _refs(manifest)
    moved = [replace(ref, path=f"elsewhere/{ref.path}") for ref in refs]
    recipes = [[shard.recipe for shard in shards_of(images, "", SHARD)] for images in (refs, moved)]
    assert recipes[0] == recipes[1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda path: path.write_bytes(path.read_bytes() + b"\x00"), "its content changed since the manifest was made"),
        (lambda path: path.unlink(), "cannot be read .No such file"),
    ],
    ids=["changed", "gone"],
)
def test_an_image_that_changed_after_the_manifest_is_refused(
    change: Any, sentence: str, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(photos, tmp_path / "photos"))
    manifest = llb_ray.read_folder(moved, tiny)
    victim = min((moved / "train" / "good").glob("*.png"))
    change(victim)
    with pytest.raises(DataError, match=f"^{victim}: {sentence}.*; run the same command again") as refusal:
        llb_ray.run(tiny, manifest, out=tmp_path / "run", executor="serial")
    assert "\n" not in str(refusal.value)
    llb_ray.run(tiny, llb_ray.read_folder(moved, tiny), out=tmp_path / "run", executor="serial")
    assert llb_ray.audit(tmp_path / "run")


def test_a_node_with_other_weights_is_refused_and_leaves_nothing(
    tiny_bank: RunConfig, manifest: Manifest, tmp_path: Path
) -> None:
    spec = _spec(tiny_bank, manifest, tmp_path)
    drivers = replace(spec.extractor, encoder={**spec.extractor.encoder, "weights": "0" * 64})
    with pytest.raises(WeightsError, match="are not those of the run; put the same weights file"):
        Featurizer(replace(spec, extractor=drivers)).encode()
    assert not list((tmp_path / "artifacts").glob("features/*"))
