"""A user's validation folder: how it is labelled, and that it stays apart from training and test images."""

import shutil
from pathlib import Path

import pytest

import llb_ray
from llb_ray import RunConfig
from llb_ray.data.manifest import TEST, TRAIN
from llb_ray.data.synthetic import SyntheticConfig, write_synthetic
from llb_ray.errors import DataError
from llb_ray.search.objective import val_auroc
from llb_ray.search.validation import with_validation


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """good/ and folders of defects, of photographs that nobody else has."""
    recipe = SyntheticConfig(("weave",), train_objects=1, test_objects=10, alpha=0, seed=5, size_px=48, views=1)
    write_synthetic(tmp_path / "made", recipe)
    return Path(shutil.move(tmp_path / "made" / "weave" / "test", tmp_path / "validation"))


def test_it_takes_the_place_of_the_test_split_and_is_measured(
    folder: Path, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    manifest = llb_ray.read_folder(photos, tiny)
    searched = with_validation(manifest, folder, tiny)
    assert searched.image_ids(TRAIN) == manifest.image_ids(TRAIN)
    assert searched.split(TRAIN)["label"].null_count == len(manifest.image_ids(TRAIN))
    assert not set(searched.image_ids(TEST)) & set(manifest.image_ids(TEST))
    labels = {Path(row["path"]).parent.name: row["label"] for row in searched.split(TEST).to_pylist()}
    assert labels.pop("good") == 0
    assert set(labels.values()) == {1}
    llb_ray.run(tiny, searched, out=tmp_path / "run", executor="serial")
    assert 0 <= val_auroc(tmp_path / "run") <= 1


def test_known_unlabelled_or_one_sided_images_are_refused(folder: Path, photos: Path, tiny: RunConfig) -> None:
    manifest = llb_ray.read_folder(photos, tiny)
    with pytest.raises(DataError, match="is also in .*; validation needs images of its own"):
        with_validation(manifest, photos / "test", tiny)
    stray = next((folder / "good").iterdir())
    stray.rename(folder / stray.name)
    with pytest.raises(DataError, match="is in no folder that says what it is"):
        with_validation(manifest, folder, tiny)
    (folder / stray.name).unlink()
    shutil.rmtree(folder / "good")
    with pytest.raises(DataError, match="normal images in good/"):
        with_validation(manifest, folder, tiny)
