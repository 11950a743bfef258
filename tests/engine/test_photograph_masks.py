"""A mask for each photograph: what is under it changes nothing, wherever it is in each, from the encoder to exports."""

import json
import logging
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import ExifTags, Image
from scipy.ndimage import binary_erosion

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import with_overrides
from llb_ray.data.ignored_regions import Ignored, MaskPaths
from llb_ray.data.image_masks import ImageMasks
from llb_ray.data.tables import read_table, write_table
from llb_ray.engine.features.ignored_pixels import read_ignored
from llb_ray.engine.inference.given_masks import regions_given
from llb_ray.engine.inference.photograph_masks import PhotographMasks
from llb_ray.engine.pixel_grid import PixelGrid
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.errors import AuditError, ConfigError, DataError, LlbError
from tests.support import Pixels, labelled_photos, rewrite, set_column

SIZE = (48, 64)
BOX = 20  # px, of what moves through the photographs
TILES = "detector.tiles={size_px: 32, overlap_px: 8}"


def _at(number: int) -> tuple[slice, slice]:
    """Where something else is in a photograph: at the left, in the middle or at the bottom, never over a spot."""
    top, left = [(2, 3), (25, 18), (27, 2), (4, 20), (14, 8)][number % 5]
    return slice(top, top + BOX), slice(left, left + BOX)


def _paint(image: Pixels, number: int, rng: np.random.Generator) -> Pixels:
    image[_at(number)] = rng.integers(0, 256, (BOX, BOX, 3))
    return image


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos`, a quiet surface with something else in another place of each, in some a spot at the right; `masks`."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("cell")
    drawn = [0]

    def draw(kind: str) -> tuple[Pixels, Pixels | None]:
        image = _paint(rng.normal(120, 4, (*SIZE, 3)).clip(0, 255).astype(np.uint8), drawn[0], rng)
        truth = np.zeros(SIZE, np.uint8)
        if kind == "spot":
            image[20:30, 48:58], truth[20:30, 48:58] = 250, 255
            truth[_at(drawn[0])] = 255  # and what is under the mask is no matter
        drawn[0] += 1
        return image, truth if kind == "spot" else None

    counts = [("train", "good", 16), ("test", "good", 6), ("test", "spot", 5)]
    labelled_photos(root / "photos", counts, draw)
    number = 0
    for split, kind, count in counts:
        for index in range(count):
            _mask(root / "masks" / split / kind / f"{index}.png", _at(number))
            number += 1
    return root


def _mask(path: Path, where: tuple[slice, slice], of: tuple[int, int] = SIZE) -> None:
    white_HW = np.zeros(of, np.uint8)
    white_HW[where] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(white_HW).save(path)


@pytest.fixture(scope="module")
def settings(tiny_bank: RunConfig) -> Callable[..., RunConfig]:
    def of(*more: str) -> RunConfig:
        size = [64, 64] if TILES in more else [*SIZE]
        base = [f"detector.image_size_px={size}", "threshold.method=folds", "threshold.folds=2"]
        base += ["data.group_pattern=null", "members.count=2", "purify.keep_ratio=0.9"]
        return with_overrides(tiny_bank, [*base, *more])

    return of


def _run(config: RunConfig, photos: Path, out: Path) -> Path:
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=out, executor="serial")
    return out


@pytest.fixture(scope="module", params=[["members.detector=density"], [TILES]], ids=["density", "tiles"])
def run(
    request: pytest.FixtureRequest,
    cell: Path,
    settings: Callable[..., RunConfig],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    config = settings(f"data.ignore_mask={cell / 'masks'}", *request.param)
    return _run(config, cell / "photos", tmp_path_factory.mktemp("moving") / "run")


@pytest.fixture(scope="module")
def inspecting(
    cell: Path, settings: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A run that is given what to inspect, the opposite of the masks, and the folder of these."""
    folder = tmp_path_factory.mktemp("inspecting")
    for path in (cell / "masks").rglob("*.png"):
        target = folder / "masks" / path.relative_to(cell / "masks")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(~np.asarray(Image.open(path))).save(target)
    config = settings("detector.memory=plain", f"data.inspect_mask={folder / 'masks'}")
    return _run(config, cell / "photos", folder / "run"), folder / "masks"


def _scores(run: Path) -> dict[str, float]:
    table = read_scores(RunFolder.open(run).made().final_scores)
    return dict(zip(table["image_id"].to_pylist(), table["score"].to_pylist(), strict=True))


def _repainted(cell: Path, out: Path) -> Path:
    """The test photographs with other pixels under their masks."""
    rng = np.random.default_rng(9)
    for path in sorted((cell / "photos" / "test").rglob("*.png")):
        image = np.array(Image.open(path))
        hidden = np.asarray(Image.open(cell / "masks" / "test" / path.relative_to(cell / "photos" / "test"))) > 0
        hidden = binary_erosion(hidden, iterations=3)  # resizing mixes what is nearer to the edge
        image[hidden] = rng.integers(0, 256, (int(hidden.sum()), 3))
        target = out / path.relative_to(cell / "photos" / "test")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(target)
    return out


def test_what_is_under_a_moving_mask_changes_no_score_map_or_region(run: Path, cell: Path, tmp_path: Path) -> None:
    masks = cell / "masks" / "test"
    others = _repainted(cell, tmp_path / "others")
    for name, photos in (("one", cell / "photos" / "test"), ("two", others)):
        llb_ray.predict(run, photos, out=tmp_path / name, overlays="none", maps=True, ignore_mask=masks)
    for name in ("scores.csv", "coco.json"):
        one, two = ((tmp_path / out / name).read_text() for out in ("one", "two"))
        assert _without_ids(one) == _without_ids(two)
    one, two = (read_table(tmp_path / out / "maps" / "part-00000.arrow")["map"] for out in ("one", "two"))
    assert one.combine_chunks().to_numpy_ndarray().tobytes() == two.combine_chunks().to_numpy_ndarray().tobytes()


def _without_ids(text: str) -> str:
    """Ids are hashes of all pixels."""
    return re.sub(r"\b[0-9a-f]{32}\b", "", text)


def test_photographs_of_the_run_are_known_by_their_content(run: Path, cell: Path) -> None:
    said = _scores(run)
    paths = sorted((cell / "photos" / "test").rglob("*.png"))
    images = RunFolder.open(run).made().images.file("images.arrow")
    ids = dict(zip(read_table(images)["path"].to_pylist(), read_table(images)["image_id"].to_pylist(), strict=True))
    expected = [said[ids[path.relative_to(cell / "photos").as_posix()]] for path in paths]
    assert llb_ray.Detector.load(run).predict(paths).score_N == pytest.approx(expected, abs=1e-4)


def test_defects_are_found_and_nothing_under_a_mask(run: Path, cell: Path, tmp_path: Path) -> None:
    photos = cell / "photos" / "test" / "spot"
    verdicts = llb_ray.Detector.load(run).predict([photos / f"{number}.png" for number in range(5)])
    assert any(verdicts.regions)
    for number, found in enumerate(verdicts.regions, 22):
        hidden = np.zeros(SIZE, bool)
        hidden[_at(number)] = True
        for region in found:
            box = hidden[region.y : region.y + region.height, region.x : region.x + region.width]
            assert box.mean() < 0.6
        assert not verdicts.finders[number - 22].mask(verdicts.map_NHW[number - 22], SIZE)[hidden].any()


def test_the_card_says_that_new_images_need_masks(run: Path) -> None:
    assert "by a mask of its own in each of 27 images; new images need theirs" in (run / "card.md").read_text()


def test_pixels_under_a_mask_are_not_measured(run: Path) -> None:
    folder = RunFolder.open(run)
    config, made = folder.config(), folder.made()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["num_left_out_of_pixel_metrics"] == 0
    assert metrics["p_auroc"] > 0.9, "the truth under the masks would have made it less"
    hidden = read_ignored(made.ignored, config)
    grid, table = PixelGrid.of(config, hidden), read_scores(made.final_scores)
    ids = table["image_id"].to_pylist()
    smooth, seen = grid.smooth_each(ids, table["map"].combine_chunks().to_numpy_ndarray()), grid.seen(ids)
    assert seen is not None
    assert 0.7 < seen.mean() < 0.9
    assert (smooth[~seen] == 0).all()
    assert (smooth[seen] > 0).any()


def test_the_overlay_is_dark_where_the_photograph_is_ignored(run: Path, cell: Path, tmp_path: Path) -> None:
    llb_ray.predict(run, cell / "photos" / "test" / "good", out=tmp_path / "out", overlays="all")
    drawn = np.asarray(Image.open(tmp_path / "out" / "overlays" / "0.png.png"), float)
    photo = np.asarray(Image.open(cell / "photos" / "test" / "good" / "0.png"), float)
    down, across = _at(16)
    inner = slice(down.start + 2, down.stop - 2), slice(across.start + 2, across.stop - 2)
    assert np.abs(drawn[inner] - 0.4 * photo[inner]).max() <= 1
    assert llb_ray.write_report(run).stat().st_size > 0


def test_one_mask_for_each_is_one_mask_for_all(cell: Path, settings: Callable[..., RunConfig], tmp_path: Path) -> None:
    _mask(tmp_path / "all.png", _at(0))
    for path in (cell / "photos").rglob("t*/*/*.png"):
        _mask(tmp_path / "each" / path.relative_to(cell / "photos"), _at(0))
    density = "members.detector=density"
    one, each = (
        _run(settings(density, f"data.ignore_mask={tmp_path / name}"), cell / "photos", tmp_path / f"run-{name}")
        for name in ("all.png", "each")
    )
    assert _scores(one) == _scores(each)


def test_layers_that_are_not_cached_give_the_same(
    cell: Path, settings: Callable[..., RunConfig], tmp_path: Path
) -> None:
    named = f"data.ignore_mask={cell / 'masks'}"
    cached, streamed = (
        _run(settings("detector.memory=plain", named, *more), cell / "photos", tmp_path / f"run-{len(more)}")
        for more in ([], ["features.max_gib=0"])
    )
    assert not RunFolder.open(streamed).made().features
    assert _scores(cached) == pytest.approx(_scores(streamed), rel=1e-5)


def test_a_changed_mask_is_found_and_changes_what_depends_on_it(
    cell: Path, settings: Callable[..., RunConfig], tmp_path: Path
) -> None:
    shutil.copytree(cell / "masks", tmp_path / "masks")
    config = settings("detector.memory=plain", f"data.ignore_mask={tmp_path / 'masks'}")
    out = _run(config, cell / "photos", tmp_path / "run")
    assert any("masks on disk" in passed for passed in llb_ray.audit(out))
    before, scores = RunFolder.open(out).made(), _scores(out)
    _mask(tmp_path / "masks" / "test" / "spot" / "0.png", (slice(15, 35), slice(40, 64)))
    with pytest.raises(AuditError, match="the mask of test/spot/0.png changed on disk"):
        llb_ray.audit(out)
    _run(config, cell / "photos", out)
    after, again = RunFolder.open(out).made(), _scores(out)
    assert after.final.content == before.final.content
    assert [image_id for image_id in scores if scores[image_id] != again[image_id]] != []
    assert sum(scores[image_id] != again[image_id] for image_id in scores) == 1
    shutil.rmtree(tmp_path / "masks")
    assert any("the run's own" in passed for passed in llb_ray.audit(out)), "the run keeps its masks"
    _mask(tmp_path / "masks" / "train" / "good" / "0.png", (slice(0, 9), slice(0, 9)))
    with pytest.raises(AuditError, match="changed on disk"):
        llb_ray.audit(out)
    shutil.rmtree(tmp_path / "masks")
    assert after.ignored is not None
    rewrite(after.ignored.path, "masks.arrow", lambda table: set_column(table, "key", ["0" * 64] * len(table)))
    with pytest.raises(AuditError):
        llb_ray.audit(out)


def test_new_photographs_without_masks_are_looked_at_whole_and_it_is_said(
    run: Path, cell: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    others = _repainted(cell, tmp_path / "others")
    with caplog.at_level(logging.WARNING):
        llb_ray.predict(run, others, out=tmp_path / "out", overlays="none")
    assert "everything is looked at" in caplog.text
    detector = llb_ray.Detector.load(run)
    image = np.asarray(Image.open(others / "good" / "1.png"))
    hidden = np.asarray(Image.open(cell / "masks" / "test" / "good" / "1.png"))
    whole, by_array = detector.predict(image), detector.predict(image, ignore_mask=hidden > 0)
    by_file = detector.predict([others / "good" / "1.png"], ignore_mask=[cell / "masks" / "test" / "good" / "1.png"])
    assert whole.score_N[0] > by_array.score_N[0] == by_file.score_N[0]
    assert detector.predict(image, inspect_mask=Image.fromarray(~hidden)).score_N[0] == by_array.score_N[0]


def test_a_prediction_goes_on_only_with_the_masks_that_it_began_with(run: Path, cell: Path, tmp_path: Path) -> None:
    folder = RunFolder.open(run)
    kept = folder.made().ignored
    assert kept is not None
    hidden = read_ignored(kept, folder.config())
    shutil.copytree(cell / "masks", tmp_path / "masks")

    def key() -> str:
        masks = PhotographMasks.of(hidden, folder.config(), MaskPaths(ignore=tmp_path / "masks"))
        assert masks is not None
        return masks.key

    keys = [key()]
    assert key() == keys[0]
    (tmp_path / "masks" / "test" / "gone.png").symlink_to(tmp_path / "nowhere")
    keys.append(key())
    _mask(tmp_path / "masks" / "test" / "good" / "0.png", (slice(0, 9), slice(0, 9)))
    keys.append(key())
    shutil.move(tmp_path / "masks" / "test" / "good", tmp_path / "elsewhere")
    (tmp_path / "masks" / "test" / "good").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "masks")
    assert key() == keys[-1]
    _mask(tmp_path / "elsewhere" / "0.png", (slice(0, 8), slice(0, 9)))
    keys.append(key())
    write_table(tmp_path / "masks.arrow", read_table(kept.file("masks.arrow")).slice(1))
    hidden = ImageMasks(tmp_path / "masks.arrow", folder.config().detector.size)  # of a run that was made again
    keys.append(key())
    assert len(set(keys)) == len(keys)


def _picture(kind: str, hidden: Pixels, path: Path) -> Image.Image:
    """What is hidden as a picture of another kind, opened from its file."""
    drawn = {
        "blue": lambda: Image.fromarray(np.dstack([0 * hidden, 0 * hidden, hidden > 0]).astype(np.uint8)),
        "transparent": lambda: Image.fromarray(np.dstack([np.full((*SIZE, 3), 255, np.uint8), hidden])),
        "16-bit": lambda: Image.fromarray((hidden > 0).astype(np.uint16)),
        "float": lambda: Image.fromarray((hidden > 0).astype(np.float32) / 4),
        "jpeg": lambda: Image.fromarray(hidden),
        "turned": lambda: Image.fromarray(np.rot90(hidden)),
    }[kind]()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6 if kind == "turned" else 1
    target = path / {"jpeg": "mask.jpg", "float": "mask.tif"}.get(kind, "mask.png")
    drawn.save(target, exif=exif)
    return Image.open(target)


@pytest.mark.parametrize("kind", ["blue", "transparent", "16-bit", "float", "jpeg", "turned"])
def test_a_picture_as_a_mask_is_read_as_its_file_is(kind: str, cell: Path, tmp_path: Path) -> None:
    hidden = np.asarray(Image.open(cell / "masks" / "test" / "good" / "1.png"))
    picture = _picture(kind, hidden, tmp_path)
    (by_picture,), (by_file,) = (regions_given(one, 1) for one in (picture, picture.filename))
    found, expected = (Ignored.draw(one, None, SIZE, 10**6) for one in (by_picture, by_file))
    assert found is not None
    assert expected is not None
    assert found.key == expected.key
    assert (found.mask_HW != (hidden > 0)).mean() < 0.05


@pytest.mark.parametrize("given", [3, True, np.zeros((0, 0), bool), np.zeros((4, 0), bool), np.ones(3, bool), [3.5]])
def test_what_is_no_mask_is_refused(given: Any) -> None:
    with pytest.raises(DataError, match="a mask is .*; give a path, a PIL image, or an array"):
        regions_given(given, 1)


def test_what_to_inspect_has_to_be_known(inspecting: tuple[Path, Path], cell: Path, tmp_path: Path) -> None:
    run, masks = inspecting
    others = _repainted(cell, tmp_path / "others")
    said = llb_ray.predict(run, others, out=tmp_path / "with", overlays="none", inspect_mask=masks / "test")
    assert (said.num_scored, said.num_quarantined) == (11, 0)
    shutil.copytree(masks / "test", tmp_path / "fewer")
    (tmp_path / "fewer" / "good" / "0.png").unlink()
    said = llb_ray.predict(run, others, out=tmp_path / "fewer-out", overlays="none", inspect_mask=tmp_path / "fewer")
    assert (said.num_scored, said.num_quarantined) == (10, 1)
    assert "has no mask of good/0.png" in (tmp_path / "fewer-out" / "quarantine.csv").read_text()
    with pytest.raises(DataError, match="nothing says what to inspect"):
        llb_ray.predict(run, others, out=tmp_path / "without", overlays="none")
    with pytest.raises(DataError, match="nothing says what to inspect"):
        llb_ray.Detector.load(run).predict(others / "good" / "1.png")


@pytest.mark.filterwarnings("ignore")
def test_an_exported_model_takes_the_mask_as_a_channel(
    inspecting: tuple[Path, Path], cell: Path, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run, _ = inspecting
    llb_ray.export(run, "onnx", out=tmp_path / "model.onnx")
    image = np.asarray(Image.open(cell / "photos" / "test" / "spot" / "1.png"))
    hidden = np.asarray(Image.open(cell / "masks" / "test" / "spot" / "1.png"))
    other = np.where(hidden[..., None] > 0, np.uint8(7), image)
    given = np.stack([np.dstack([one, hidden]) for one in (image, other)])
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (one, two), _, maps = session.run(None, {"image": given})
    assert one == pytest.approx(two)
    assert np.allclose(maps[0], maps[1], atol=1e-5)
    said = llb_ray.Detector.load(run).predict(image, ignore_mask=hidden)
    assert one == pytest.approx(float(said.score_N[0]), rel=1e-3)
    with pytest.raises(ConfigError, match="export without --any-size"):
        llb_ray.export(run, "onnx", out=tmp_path / "any.onnx", any_size=True)


def _spoil(*paths: str, content: bytes | None = None, white: bool = False) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        for path in paths:
            if content is not None:
                (root / path).write_bytes(content)
            elif white:
                _mask(root / path, (slice(None), slice(None)))
            else:
                (root / path).unlink()

    return spoil


def _copied(root: Path) -> None:
    """A photograph twice, with two masks."""
    shutil.copy(root / "photos/train/good/0.png", root / "photos/train/good/zero.png")
    _mask(root / "masks/train/good/zero.png", (slice(0, 5), slice(0, 5)))


@pytest.mark.parametrize(
    ("setting", "spoil", "sentence"),
    [
        ("ignore_mask", _spoil("masks/train/good/3.png", white=True), "good/3.png: leave no pixel to look at"),
        ("ignore_mask", _spoil("masks/train/good/3.png", content=b"no image"), "good/3.png: not a usable mask"),
        ("ignore_mask", lambda root: shutil.move(root / "masks/train", root / "masks/else"), None),  # test has some
        ("ignore_mask", lambda root: shutil.move(root / "masks", root / "masks2/train"), "no such file or folder"),
        ("ignore_mask", _spoil("masks/test/good/0.json", content=b"{}"), "0.json and 0.png may both be the mask"),
        ("ignore_mask", _spoil("masks/test/good/0_mask.png", white=True), "0.png and 0_mask.png may both be the mask"),
        ("inspect_mask", _spoil("masks/train/good/5.png"), "has no mask of train/good/5.png"),
        ("ignore_mask", _copied, "are the same photograph and have different masks"),
    ],
    ids=["everything", "no image", "some", "gone", "two", "two names", "nothing to inspect", "copies"],
)
def test_masks_that_cannot_be_used_are_refused_in_one_sentence(
    setting: str,
    spoil: Callable[[Path], None],
    sentence: str | None,
    cell: Path,
    settings: Callable[..., RunConfig],
    tmp_path: Path,
) -> None:
    for name in ("photos", "masks"):
        shutil.copytree(cell / name, tmp_path / name)
    spoil(tmp_path)
    config = settings(f"data.{setting}={tmp_path / 'masks'}", "detector.memory=plain", "purify.filter=none")
    _refused_with(config, tmp_path, sentence)


def test_a_folder_without_a_mask_of_any_photograph_is_refused(
    cell: Path, settings: Callable[..., RunConfig], tmp_path: Path
) -> None:
    _mask(tmp_path / "masks" / "0.png", _at(0))
    _refused_with(settings(f"data.ignore_mask={tmp_path / 'masks'}"), cell, "has no mask of any photograph", tmp_path)


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize(
    ("folder", "sentence"),
    [("photos/ground_truth", "has the ground truth in it"), ("photos", "has the photographs in")],
)
def test_what_shows_something_else_is_no_folder_of_masks(
    folder: str, sentence: str, linked: bool, cell: Path, settings: Callable[..., RunConfig], tmp_path: Path
) -> None:
    named = cell / folder
    if linked:
        named = tmp_path / "link"
        named.symlink_to(cell / folder)
    _refused_with(settings(f"data.inspect_mask={named}"), cell, sentence, tmp_path)


def test_new_photographs_are_not_their_own_masks(run: Path, cell: Path, tmp_path: Path) -> None:
    photos = cell / "photos" / "test"
    for named in ("ignore_mask", "inspect_mask"):
        with pytest.raises(DataError, match="has the photographs in it"):
            llb_ray.predict(run, photos, out=tmp_path / "out", **{named: photos})


def test_a_folder_of_two_without_a_mask_of_any_photograph_is_refused(
    cell: Path, settings: Callable[..., RunConfig], tmp_path: Path
) -> None:
    _mask(tmp_path / "masks" / "0.png", _at(0))
    config = settings(f"data.inspect_mask={cell / 'masks'}", f"data.ignore_mask={tmp_path / 'masks'}")
    _refused_with(config, cell, r"masks: has no mask of any photograph", tmp_path)


@pytest.mark.parametrize("given", ["*/*.png", "good/*.png"])
def test_masks_of_other_photographs_are_said(
    given: str, run: Path, cell: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pattern = str(cell / "photos" / "test" / given)  # whose paths are absolute
    with caplog.at_level(logging.WARNING):
        llb_ray.predict(run, pattern, out=tmp_path / "out", overlays="none", ignore_mask=cell / "masks" / "test")
    assert "has no mask of any photograph" in caplog.text


def test_softpatch_compares_common_cells(cell: Path, settings: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = settings(f"data.ignore_mask={cell / 'masks'}", "purify.filter=softpatch")
    _refused_with(config, cell, "takes one mask for all and no folder of masks", tmp_path)


def test_what_takes_no_masks_refuses_such_a_run(inspecting: tuple[Path, Path], cell: Path, tmp_path: Path) -> None:
    from llb_ray.serving.judge import Judge

    run, _ = inspecting
    with pytest.raises(ConfigError, match="serve takes none; use predict"):
        Judge(str(run))
    with pytest.raises(DataError, match="which an update does not know"):
        llb_ray.update(run, cell / "photos" / "test" / "good", out=tmp_path / "out", executor="serial")


def _refused_with(config: RunConfig, root: Path, sentence: str | None, out: Path | None = None) -> None:
    if sentence is None:
        _run(config, root / "photos", (out or root) / "run")
        return
    with pytest.raises(LlbError, match=sentence) as refused:
        _run(config, root / "photos", (out or root) / "run")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("given", [["ignore_mask"], ["inspect_mask"], ["ignore_mask", "inspect_mask"]])
def test_a_run_without_masks_takes_none(given: Sequence[str], finished_bank: Path, cell: Path, tmp_path: Path) -> None:
    named = dict.fromkeys(given, cell / "masks")
    with pytest.raises(ConfigError, match="the run was made without"):
        llb_ray.predict(finished_bank, cell / "photos" / "test", out=tmp_path / "out", **named)
    with pytest.raises(ConfigError, match="the run was made without"):
        llb_ray.Detector.load(finished_bank).predict(cell / "photos/test/good/0.png", **named)


def test_new_photographs_may_have_one_mask_together(run: Path, cell: Path, tmp_path: Path) -> None:
    photos = cell / "photos" / "test" / "spot"
    _mask(tmp_path / "all.png", (slice(None), slice(44, None)))
    llb_ray.predict(run, photos, out=tmp_path / "out", overlays="none", ignore_mask=tmp_path / "all.png")
    regions = parquet.read_table(tmp_path / "out" / "regions.parquet").to_pylist()
    assert all(region["x"] + region["width"] <= 46 for region in regions)
    (tmp_path / "all.json").write_text("[]")
    with pytest.raises(DataError, match=r"^[^ ]*all.json: not a labelme file"):
        llb_ray.predict(run, photos, out=tmp_path / "no", ignore_mask=tmp_path / "all.json")
    with pytest.raises(DataError, match="no such file or folder of masks"):
        llb_ray.predict(run, photos, out=tmp_path / "no", ignore_mask=tmp_path / "none")


def test_a_path_that_leaves_the_folder_has_no_mask(inspecting: tuple[Path, Path], cell: Path, tmp_path: Path) -> None:
    run, masks = inspecting
    others = _repainted(cell, tmp_path / "others")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.txt").write_text("../others/good/0.png\n")
    with pytest.raises(DataError, match=r"has no mask of \.\./others/good/0.png"):
        llb_ray.predict(run, tmp_path / "lists" / "list.txt", out=tmp_path / "out", inspect_mask=masks / "test")
    assert others.exists()
