"""The feature cache: every image in exactly one shard, what is stored is what was encoded, and nothing stale."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import llb_ray
from llb_ray import Manifest, RunConfig
from llb_ray.artifacts import Artifact, Store
from llb_ray.config import ResourcesConfig
from llb_ray.data.images import read_rgb
from llb_ray.data.manifest import path_from_text
from llb_ray.data.tables import read_batches
from llb_ray.detectors.base import Layers
from llb_ray.detectors.build import build_encoder, encoder_fingerprint
from llb_ray.engine import files, stages
from llb_ray.engine.executor import SerialExecutor, Tell
from llb_ray.engine.features import CachedSource, Catalogue, Featurizer, FeaturizerSpec, ImageRef
from llb_ray.engine.worker import Place, Spec, Worker
from llb_ray.errors import DataError, WeightsError
from tests.support import final_files

CPU = torch.device("cpu")
SHARD = 10


@dataclass
class Wide(SerialExecutor):
    """The serial executor with room for several workers at once; remembers what each featurizer was given."""

    room: int
    given: list[tuple[int, ...]] = field(default_factory=list)

    def slots(self, resources: ResourcesConfig) -> int:
        return self.room

    def run(self, worker: type[Worker], specs: Sequence[Spec], tell: Tell) -> None:
        self.given += [spec.shards for spec in specs if isinstance(spec, FeaturizerSpec)]
        super().run(worker, specs, tell)


@pytest.fixture(scope="module")
def manifest(photos: Path, tiny: RunConfig) -> Manifest:
    return llb_ray.read_folder(photos, tiny)


def _spec(config: RunConfig, manifest: Manifest, folder: Path) -> FeaturizerSpec:
    """One featurizer for all shards."""
    pairs = zip(manifest.table["image_id"].to_pylist(), manifest.table["path"].to_pylist(), strict=True)
    fingerprint = encoder_fingerprint(config.detector)
    catalogue = Catalogue(fingerprint, tuple(ImageRef(*pair) for pair in pairs), shard_images=SHARD)
    shards = tuple(range(len(catalogue.shards)))
    place = Place(folder / "artifacts", folder / "progress", config.resources)
    limit = config.data.max_pixels
    return FeaturizerSpec("featurizer", place, config.detector, catalogue, shards, manifest.root, limit)


def _artifacts(spec: FeaturizerSpec) -> list[Artifact]:
    store = Store(spec.place.store)
    return [store.get(recipe) for recipe in spec.catalogue.recipes]


def _encoded(spec: FeaturizerSpec, image_ids: Sequence[str]) -> Layers:
    """Straight from the files, without a cache."""
    paths = {image.image_id: spec.root / path_from_text(image.path) for image in spec.catalogue.images}
    size_px = spec.detector.image_size_px
    image_BHW3 = np.stack([read_rgb(paths[image_id], size_px, spec.max_pixels) for image_id in image_ids])
    return build_encoder(spec.detector, CPU).encode(torch.from_numpy(image_BHW3).permute(0, 3, 1, 2))


def test_every_image_is_in_exactly_one_shard(tiny: RunConfig, manifest: Manifest, tmp_path: Path) -> None:
    spec = _spec(tiny, manifest, tmp_path)
    Featurizer(spec).encode()
    batches = [list(read_batches(artifact.path / files.LAYERS)) for artifact in _artifacts(spec)]
    sizes = [sum(batch.num_rows for batch in shard) for shard in batches]
    assert sizes == [SHARD] * 7 + [2]
    stored = [image_id for shard in batches for batch in shard for image_id in batch.column("image_id").to_pylist()]
    assert stored == manifest.table["image_id"].to_pylist()


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


def test_features_are_stored_as_float16_and_read_as_float32(
    tiny_bank: RunConfig, manifest: Manifest, tmp_path: Path
) -> None:
    spec = _spec(tiny_bank, manifest, tmp_path)
    Featurizer(spec).encode()
    artifacts = _artifacts(spec)
    schema = next(read_batches(artifacts[0].path / files.LAYERS)).schema
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
    schema = next(read_batches(_artifacts(spec)[0].path / files.LAYERS)).schema
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
    monkeypatch.setattr("llb_ray.engine.features.build_encoder", lambda *given: pytest.fail("it was built"))
    Featurizer(spec).encode()


@pytest.mark.parametrize("room", [1, 3, 99])
def test_several_featurizers_share_the_shards_and_drop_none(
    room: int, tiny: RunConfig, manifest: Manifest, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "Catalogue", partial(Catalogue, shard_images=SHARD))
    executor = Wide(room)
    llb_ray.run(tiny, manifest, out=tmp_path, executor=executor)
    assert len(executor.given) == min(room, 8)
    assert sorted(shard for shards in executor.given for shard in shards) == list(range(8))
    assert max(map(len, executor.given)) - min(map(len, executor.given)) <= 1
    sharded, whole = final_files(tmp_path), final_files(finished)
    for name in ("purified/part-0.arrow", "scores.arrow", "image_scores.arrow", "metrics.json"):
        assert sharded[name] == whole[name]


def test_another_encoder_or_other_images_are_other_shards(tiny: RunConfig, manifest: Manifest, tmp_path: Path) -> None:
    catalogue = _spec(tiny, manifest, tmp_path).catalogue
    others: list[dict[str, Any]] = [
        {"encoder": {**catalogue.encoder, "weights": "other"}},
        {"images": catalogue.images[1:]},
    ]
    for change in others:
        keys = {recipe.key for recipe in replace(catalogue, **change).recipes}
        assert not keys & {recipe.key for recipe in catalogue.recipes}


def test_moved_images_are_the_same_shards(tiny: RunConfig, manifest: Manifest, tmp_path: Path) -> None:
    catalogue = _spec(tiny, manifest, tmp_path).catalogue
    moved = tuple(replace(image, path=f"elsewhere/{image.path}") for image in catalogue.images)
    assert replace(catalogue, images=moved).recipes == catalogue.recipes


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
    drivers = replace(spec.catalogue, encoder={**spec.catalogue.encoder, "weights": "0" * 64})
    with pytest.raises(WeightsError, match="are not the driver's; put the same weights file"):
        Featurizer(replace(spec, catalogue=drivers)).encode()
    assert not list((tmp_path / "artifacts").glob("features/*"))
