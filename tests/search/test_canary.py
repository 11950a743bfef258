"""Canaries: who is held back, what is planted, and that no label and no test image comes along."""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

import llb_ray
from llb_ray import Manifest, RunConfig
from llb_ray.config import with_overrides
from llb_ray.data.decoding import read_rgb
from llb_ray.data.manifest import TEST, TRAIN, path_from_text
from llb_ray.data.tables import read_table
from llb_ray.errors import ArtifactError, DataError
from llb_ray.search.canary import RECORD, with_canaries
from llb_ray.search.objective import canary
from llb_ray.search.synthetic_defects import KINDS, plant_defect
from llb_ray.seeding import stream


@pytest.fixture(scope="module")
def manifest(photos: Path, tiny: RunConfig) -> Manifest:
    return llb_ray.read_folder(photos, tiny)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canaries")


@pytest.fixture(scope="module")
def searched(manifest: Manifest, tiny: RunConfig, out: Path) -> Manifest:
    return with_canaries(manifest, out, tiny, seed=0, share=0.2)


def _records(out: Path) -> list[dict[str, str]]:
    (record,) = out.rglob(RECORD)
    rows: list[dict[str, str]] = read_table(record).to_pylist()
    return rows


def test_training_images_are_trained_on_or_held_back_and_no_test_image_is_left(
    manifest: Manifest, searched: Manifest, out: Path
) -> None:
    sources, copies = ({row[name] for row in _records(out)} for name in ("source", "image_id"))
    assert len(sources) == len(copies) == 10
    assert set(searched.image_ids(TRAIN)) | sources == set(manifest.image_ids(TRAIN))
    assert not set(searched.image_ids(TRAIN)) & sources
    assert set(searched.image_ids(TEST)) == sources | copies


def test_nothing_is_labelled(searched: Manifest) -> None:
    for name in ("label", "defect_type", "mask_path"):
        assert searched.table[name].null_count == searched.table.num_rows


def test_no_object_is_on_both_sides(searched: Manifest) -> None:
    groups = [set(searched.split(split)["group"].to_pylist()) for split in (TRAIN, TEST)]
    assert not groups[0] & groups[1]


def test_kinds_rotate_and_each_picture_differs_in_one_place(searched: Manifest, out: Path) -> None:
    records = _records(out)
    assert len({row["kind"] for row in records}) >= len(KINDS) - 1
    path = dict(zip(searched.table["image_id"].to_pylist(), searched.table["path"].to_pylist(), strict=True))
    for row in records:
        before, after = (
            read_rgb(searched.root / path_from_text(path[row[name]]), None, 10**6) for name in ("source", "image_id")
        )
        assert before.shape == after.shape
        assert 0 < (before != after).any(axis=2).mean() < 0.5


def test_a_second_call_reuses_the_pictures_and_another_place_gets_the_same_bytes(
    manifest: Manifest, searched: Manifest, tiny: RunConfig, out: Path, tmp_path: Path
) -> None:
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert with_canaries(manifest, out, tiny, seed=0, share=0.2).table.equals(searched.table)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == times
    elsewhere = with_canaries(manifest, tmp_path / "b", tiny, seed=0, share=0.2)
    assert elsewhere.table["image_id"].equals(searched.table["image_id"])
    assert with_canaries(manifest, tmp_path / "b", tiny, seed=1, share=0.2).image_ids(TRAIN) != searched.image_ids(
        TRAIN
    )


def test_neither_labels_nor_names_decide(manifest: Manifest, searched: Manifest, tiny: RunConfig, out: Path) -> None:
    table = manifest.table
    labels = table.column_names.index("label")
    flipped = table.set_column(labels, table.schema.field("label"), pc.subtract(1, table["label"]).cast("int8"))
    again = with_canaries(Manifest.of(manifest.root, flipped), out, tiny, seed=0, share=0.2)
    assert again.table.equals(searched.table)


def test_too_few_images_and_a_folder_among_the_photographs_are_refused(
    manifest: Manifest, tiny: RunConfig, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="48 training images in 24 groups: too few"):
        with_canaries(manifest, tmp_path, tiny, seed=0, share=0.1)
    with pytest.raises(ArtifactError, match="is inside"):
        with_canaries(manifest, manifest.root / "out", tiny, seed=0)


def test_a_photograph_that_changed_is_named(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    root = Path(shutil.copytree(photos, tmp_path / "photos"))
    manifest = llb_ray.read_folder(root, tiny)
    for file in (root / "train").rglob("*.png"):
        Image.new("RGB", (48, 48)).save(file)
    with pytest.raises(DataError, match="content changed"):
        with_canaries(manifest, tmp_path / "out", tiny, seed=0, share=0.2)


def test_a_run_trains_on_the_rest_scores_the_canaries_and_passes_its_audit(
    photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(photos / "train" / "good", tmp_path / "photos"))
    first = next(iter(sorted(root.iterdir())))
    os.rename(first, os.fsencode(root) + b"/caf\xe9\\obj9999.png")
    manifest = llb_ray.read_folder(root, tiny)
    searched = with_canaries(manifest, tmp_path / "caf\xe9 \\ canaries", tiny, seed=0, share=0.3)
    config = with_overrides(tiny, ["members.count=2"])
    result = llb_ray.run(config, searched, out=tmp_path / "run", executor="serial")
    assert result.num_input == len(searched.image_ids(TRAIN))
    assert set(result.metrics) == {"protocol"}
    scored = read_table(tmp_path / "run" / "image_scores.arrow")["image_id"].to_pylist()
    assert set(scored) == set(searched.table["image_id"].to_pylist())
    assert llb_ray.audit(tmp_path / "run")
    assert 0 <= canary(tmp_path / "run") <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (32, 300)])
def test_every_kind_shows_on_a_plain_picture_of_any_size_and_grey_stays_grey(
    kind: str, value: int, shape: tuple[int, int]
) -> None:
    before = np.full((*shape, 3), value, np.uint8)
    after, name = plant_defect(before, kind, stream(0, kind))
    assert name in (kind, "hole")
    assert after.shape == before.shape
    assert np.abs(after.astype(int) - before).max() >= 10
    assert (after == after[..., :1]).all()
    assert (before == value).all()
