"""Masks of photographs in folders: found by path, combined with a mask for all, and read as they are asked for."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from llb_ray import load_config
from llb_ray.config import DataConfig, load_scan
from llb_ray.data.ignored_regions import Ignored
from llb_ray.data.image_masks import MASKS, ImageMasks, keys_digest, mask_inputs, write_masks
from llb_ray.data.manifest import MANIFEST, QUARANTINE, Manifest
from llb_ray.data.mask_folders import MaskFolders
from llb_ray.data.tables import read_table, write_table
from llb_ray.errors import ConfigError, DataError
from llb_ray.scans.datasets import Material
from llb_ray.scans.job import key
from llb_ray.scans.scan_plan import Job, Scan
from llb_ray.search.search_plan import Search, trial_images
from llb_ray.search.search_record import record_search, refuse_another
from llb_ray.search.space import Choice, Space

SIZE = (8, 12)
LEFT = np.zeros(SIZE, bool)
LEFT[:, :6] = True


def _white(path: Path, white_HW: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(white_HW).save(path)
    return path


def _folders(**named: Path) -> MaskFolders:
    found = MaskFolders.of(DataConfig(**{name: str(path) for name, path in named.items()}), SIZE)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["7.png", "7.bmp", "7_mask.png", "7.jpg.png", "7.json"])
def test_a_mask_has_the_path_of_its_photograph(name: str, tmp_path: Path) -> None:
    path = tmp_path / "masks" / "test" / "bad" / name
    if name.endswith(".json"):
        path.parent.mkdir(parents=True)
        shape = {"shape_type": "rectangle", "points": [[0, 0], [5.4, 8]]}
        path.write_text(json.dumps({"imageWidth": 12, "imageHeight": 8, "shapes": [shape]}))
    else:
        _white(path, LEFT)
    folders = _folders(ignore_mask=tmp_path / "masks")
    found = folders.of_photograph("test/bad/7.jpg")
    assert found is not None
    clear = np.r_[:5, 7:12]  # of the pixel that labelme's line is drawn on
    assert np.array_equal(found.mask_HW[:, clear], LEFT[:, clear])
    for other in ("test/bad/8.jpg", "test/good/7.jpg", "7.jpg", "../masks/test/bad/7.jpg", "/test/bad/7.jpg"):
        assert folders.of_photograph(other) is None


def test_one_setting_may_be_about_all_photographs(tmp_path: Path) -> None:
    top = np.zeros(SIZE, bool)
    top[:2] = True
    _white(tmp_path / "parts" / "1.png", ~LEFT)
    folders = _folders(ignore_mask=_white(tmp_path / "clock.png", top), inspect_mask=tmp_path / "parts")
    found = folders.of_photograph("1.jpg")
    assert found is not None
    assert np.array_equal(found.mask_HW, LEFT | top)
    with pytest.raises(DataError, match=r"parts: has no mask of 2.jpg"):
        folders.of_photograph("2.jpg")
    assert MaskFolders.of(DataConfig(ignore_mask=str(tmp_path / "clock.png")), SIZE) is None


@pytest.mark.parametrize("names", [["1.png", "1.json"], ["1.png", "1_mask.png"], ["1.bmp", "1.png"]])
def test_two_masks_of_one_photograph_are_refused(names: Sequence[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"may both be the mask of 1.jpg; delete one"):
        _folders(ignore_mask=tmp_path).of_photograph("1.jpg")


def test_masks_are_kept_by_content_and_go_to_workers_without_their_bytes(tmp_path: Path) -> None:
    ignored = {name: Ignored(np.random.default_rng(row).random(SIZE) > 0.5) for row, name in enumerate("abc")}
    write_masks(tmp_path / "masks.arrow", ignored.items())
    masks = ImageMasks(tmp_path / "masks.arrow", SIZE)
    assert masks.key == keys_digest({name: one.key for name, one in ignored.items()})
    sent = pickle.dumps(masks)
    assert len(sent) < 400
    for name, one in ignored.items():
        found = pickle.loads(sent).of_image(name)  # noqa: S301 - our own
        assert np.array_equal(found.mask_HW, one.mask_HW)
    assert masks.of_image("d") is None
    assert masks.inputs(["d", "e"]) == {} == mask_inputs([])
    assert masks.inputs(["a", "d"]) != masks.inputs(["d", "a"]) != masks.inputs(["b", "d"])


@pytest.mark.parametrize("forged", [b"", b"no image", Ignored(LEFT).png(), Ignored(LEFT[:, :5]).png()])
def test_a_mask_that_is_not_what_its_key_says_is_damaged(forged: bytes, tmp_path: Path) -> None:
    write_masks(tmp_path / "masks.arrow", [("a", Ignored(~LEFT))])
    table = read_table(tmp_path / "masks.arrow")
    write_table(tmp_path / "forged.arrow", table.set_column(2, MASKS.field("mask"), pa.array([forged], pa.binary())))
    with pytest.raises(DataError, match=r"damaged \(the mask of image a\)"):
        ImageMasks(tmp_path / "forged.arrow", SIZE).of_image("a")


@pytest.mark.parametrize("name", ["7", "7.png", "7_mask", "7.jpg"])
def test_a_folder_is_no_mask(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    folders = _folders(ignore_mask=tmp_path)
    assert folders.of_photograph("7.jpg") is None
    _white(tmp_path / "7.bmp", LEFT)
    found = _folders(ignore_mask=tmp_path).of_photograph("7.jpg")
    assert found is not None
    assert np.array_equal(found.mask_HW, LEFT)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_folder_that_cannot_be_listed_is_refused(
    error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> None:
        raise error

    folders = _folders(ignore_mask=tmp_path)
    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DataError, match=rf"cannot be listed \({error.strerror}\)"):
        folders.of_photograph("7.jpg")


@pytest.mark.parametrize("named", ["photos", "link", "photos/../photos"])
def test_the_folder_of_the_photographs_has_no_masks(named: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    with pytest.raises(DataError, match="has the photographs in it"):
        _folders(inspect_mask=tmp_path / named).refuse_photographs(tmp_path / "photos")
    _folders(inspect_mask=tmp_path).refuse_photographs(tmp_path / "photos")


@pytest.mark.parametrize("named", ["parts", "parts/a/7.png"])
@pytest.mark.parametrize("setting", ["ignore_mask", "inspect_mask"])
def test_the_jobs_of_a_scan_are_others_with_other_masks(named: str, setting: str, tmp_path: Path) -> None:
    mask = _white(tmp_path / "parts" / "a" / "7.png", LEFT)
    dataset = f"scan.dataset={{kind: mvtec, root: {tmp_path}}}"

    def found() -> str:
        scan = Scan(load_scan(None, [dataset, f"data.{setting}={tmp_path / named}"]), tmp_path)
        return key(scan, Job("a", None, "llb", 0), cast(Material, SimpleNamespace(given=())))

    before = found()
    assert found() == before
    _white(mask, np.tile(LEFT, (2, 1)))
    assert found() != before


@pytest.mark.parametrize("named", ["parts", "parts/a/7.png"])
def test_a_search_is_resumed_with_the_masks_that_it_began_with(named: str, tmp_path: Path) -> None:
    mask = _white(tmp_path / "parts" / "a" / "7.png", LEFT)
    config = load_config(None, [f"data.ignore_mask={tmp_path / named}"])
    manifest = Manifest.of(tmp_path, MANIFEST.empty_table(), QUARANTINE.empty_table())
    plan = Search(config, Space({"purify.keep_ratio": Choice((0.8, 0.9))}), manifest, tmp_path / "out")
    record_search(plan)
    refuse_another(plan)
    _white(mask, np.tile(LEFT, (2, 1)))
    with pytest.raises(ConfigError, match="other settings: masks was"):
        refuse_another(plan)


@pytest.mark.parametrize(("objective", "validation"), [("canary", None), ("val_auroc", Path("validation"))])
def test_a_search_judges_by_images_that_have_masks(objective: str, validation: Path | None, tmp_path: Path) -> None:
    config = load_config(None, [f"data.inspect_mask={tmp_path}"])
    manifest = Manifest.of(tmp_path, MANIFEST.empty_table(), QUARANTINE.empty_table())
    with pytest.raises(ConfigError, match=f"objective {objective}: the images that it judges by have no masks"):
        trial_images(objective, manifest, validation, tmp_path / "out", config)
