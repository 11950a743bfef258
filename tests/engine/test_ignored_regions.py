"""Ignored regions: what is in them changes nothing, from the encoder to regions, metrics, overlays and exports."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import DataConfig, load, with_overrides
from llb_ray.data.ignored_regions import Ignored
from llb_ray.data.tables import read_table
from llb_ray.engine.pixel_grid import PixelGrid
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.errors import ConfigError, DataError
from llb_ray.metrics.exact_pixel import Ranked, pixel_metrics, ranked_metrics
from llb_ray.metrics.streaming_pixel import PixelCounts
from tests.support import Pixels, labelled_photos

SIZE = (48, 64)
TILES = "detector.tiles={size_px: 32, overlap_px: 8}"
LEFT = np.arange(64) < 24  # columns that are ignored


@pytest.fixture(scope="module")
def clocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quiet surface; at the left something else in each photograph, in the anomalous ones a spot at the right."""
    rng = np.random.default_rng(0)

    def draw(kind: str) -> tuple[Pixels, Pixels | None]:
        image = rng.normal(120, 4, (48, 64, 3)).clip(0, 255).astype(np.uint8)
        image[:, :20] = rng.integers(0, 256, (48, 20, 3))
        if kind == "good":
            return image, None
        mask = np.zeros(SIZE, np.uint8)
        image[20:30, 45:56], mask[20:30, 45:56], mask[5:9, 2:9] = 250, 255, 255
        return image, mask

    counts = [("train", "good", 16), ("test", "good", 6), ("test", "spot", 5)]
    return labelled_photos(tmp_path_factory.mktemp("clocks"), counts, draw)


def _image(path: Path, white: np.ndarray) -> Path:
    Image.fromarray(np.uint8(255) * white.astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def mask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """White at the left, of another size than the photographs."""
    return _image(tmp_path_factory.mktemp("mask") / "mask.png", np.tile(np.repeat(LEFT, 2), (96, 1)))


@pytest.fixture(
    scope="module",
    params=[
        [],
        ["detector.memory=plain"],
        [TILES],
        ["members.detector=density"],
    ],
    ids=["placed", "plain", "tiles", "density"],
)
def run(
    request: pytest.FixtureRequest,
    clocks: Path,
    mask: Path,
    tiny_bank: RunConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    size = [64, 64] if "tiles" in str(request.param) else [48, 64]
    settings = [f"detector.image_size_px={size}", "threshold.method=folds", "threshold.folds=2", *request.param]
    settings += [f"data.ignore_mask={mask}", "data.group_pattern=null", "members.count=2", "purify.keep_ratio=0.9"]
    config = with_overrides(tiny_bank, settings)
    out = tmp_path_factory.mktemp("ignoring") / "run"
    llb_ray.run(config, llb_ray.read_folder(clocks, config), out=out, executor="serial")
    return out


def test_what_is_ignored_changes_no_score_and_no_map(run: Path, clocks: Path) -> None:
    detector, rng = llb_ray.Detector.load(run), np.random.default_rng(1)
    image = np.asarray(Image.open(clocks / "test" / "spot" / "0.png"))
    other = image.copy()
    other[:, :20] = rng.integers(0, 256, (48, 20, 3))
    assert not np.array_equal(image, other)
    one, two = detector.predict(image), detector.predict(other)
    assert np.array_equal(one.score_N, two.score_N)
    assert np.array_equal(one.map_NHW, two.map_NHW)


def test_what_is_ignored_wins_nowhere(run: Path, clocks: Path) -> None:
    detector = llb_ray.Detector.load(run)
    verdicts = detector.predict([clocks / "test" / "spot" / f"{number}.png" for number in range(5)])
    columns = verdicts.map_NHW.shape[2]
    ignored = verdicts.map_NHW[:, :, : columns * 24 // 64]
    assert (ignored == 0).all()
    assert (verdicts.map_NHW > 0).any()
    assert all(region.x >= 23 for found in verdicts.regions for region in found)
    finder = detector.calibration.regions
    assert finder is not None
    assert not finder.mask(verdicts.map_NHW[0], (480, 640))[:, :230].any()


def test_the_run_keeps_the_mask_and_needs_the_file_no_more(run: Path, clocks: Path, mask: Path, tmp_path: Path) -> None:
    assert "the same region in every image" in (run / "card.md").read_text()
    kept = np.asarray(Image.open(run / "ignored.png"))
    size = RunFolder.open(run).config().detector.size
    assert kept.shape == size
    assert np.array_equal(kept[0], np.repeat(LEFT, 1))
    away = mask.with_suffix(".away")
    shutil.move(mask, away)
    try:
        llb_ray.predict(run, clocks / "test", out=tmp_path / "out", overlays="all")
        assert llb_ray.audit(run)
    finally:
        shutil.move(away, mask)
    drawn = np.asarray(Image.open(tmp_path / "out" / "overlays" / "good" / "0.png.png"), float)
    photo = np.asarray(Image.open(clocks / "test" / "good" / "0.png"), float)
    assert np.abs(drawn[:, :22] - 0.4 * photo[:, :22]).max() <= 1
    assert llb_ray.write_report(run).stat().st_size > 0


def test_metrics_are_of_the_other_pixels_alone(run: Path) -> None:
    folder = RunFolder.open(run)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["num_left_out_of_pixel_metrics"] == 0
    assert "ignored" in metrics["protocol"]
    config, made = folder.config(), folder.made()
    ignored = Ignored.of(config.data, config.detector.size)
    assert ignored is not None
    scores = read_scores(made.final_scores)
    smooth = PixelGrid.of(config, ignored).smooth(scores["map"].combine_chunks().to_numpy_ndarray())
    assert np.isfinite(smooth).all()
    assert (smooth[:, ignored.mask_HW] == 0).all()


def test_detectors_are_given_the_share_of_each_cell_that_is_ignored(run: Path) -> None:
    from safetensors.numpy import load_file

    made = RunFolder.open(run).made()
    assert "masked_1" in load_file(made.final.file("detector.safetensors"))
    share_NHW = read_table(made.features[0].file("layers.arrow")).columns[-1].combine_chunks().to_numpy_ndarray()[:, 0]
    columns = share_NHW.shape[2]
    assert (share_NHW[..., : columns * 22 // 64] == 1).all()
    assert (share_NHW[..., columns * 26 // 64 + 1 :] == 0).all()


@pytest.mark.filterwarnings("ignore")
def test_an_exported_model_ignores_by_itself(run: Path, clocks: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    llb_ray.export(run, "onnx", out=tmp_path / "model.onnx")
    size = RunFolder.open(run).config().detector.size
    image = np.asarray(Image.open(clocks / "test" / "spot" / "1.png").resize(size[::-1], Image.Resampling.BICUBIC))
    other = image.copy()
    other[:, :20] = 7
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (one, two), _, maps = session.run(None, {"image": np.stack([image, other])})
    assert one == pytest.approx(two)
    assert np.allclose(maps[0], maps[1], atol=1e-5)
    assert one == pytest.approx(float(llb_ray.Detector.load(run).predict(image).score_N[0]), rel=1e-3)


def _labelme(path: Path, shapes: object, width: object = 640, height: object = 480) -> Path:
    path.write_text(json.dumps({"imageWidth": width, "imageHeight": height, "shapes": shapes}))
    return path


@pytest.mark.parametrize("kind", ["image", "polygon", "no kind", "rectangle", "inspect", "both"])
def test_images_and_polygons_say_the_same(kind: str, tmp_path: Path) -> None:
    box = [[0, 0], [239.9, 0], [239.9, 480], [0, 480]]
    left = _image(tmp_path / "left.png", np.tile(LEFT, (48, 1)))
    right = _image(tmp_path / "right.png", np.tile(~LEFT, (48, 1)))
    named = {
        "image": {"ignore_mask": left},
        "polygon": {"ignore_mask": _labelme(tmp_path / "a.json", [{"shape_type": "polygon", "points": box}])},
        "no kind": {"ignore_mask": _labelme(tmp_path / "a.json", [{"shape_type": None, "points": box}])},
        "rectangle": {"ignore_mask": _labelme(tmp_path / "b.json", [{"shape_type": "rectangle", "points": box[::2]}])},
        "inspect": {"inspect_mask": right},
        "both": {"ignore_mask": left, "inspect_mask": right},
    }[kind]
    found = Ignored.of(DataConfig(**{name: str(path) for name, path in named.items()}), SIZE)
    assert found is not None
    wrong = found.mask_HW != LEFT[None]
    assert not wrong[:, np.r_[:22, 26:64]].any(), "but for the pixel that a line is drawn on"


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda path: None, "not a usable mask|not a labelme file"),
        (lambda path: path.write_text("{"), "not a usable mask|not a labelme file"),
        (lambda path: path.write_text("[]"), "not a usable mask|not a labelme file"),
        (lambda path: path.write_text("[" * 100_000), "not a usable mask|not a labelme file"),
        (lambda path: _labelme(path, [{"shape_type": "line", "points": [[1, 1], [2, 2]]}]), "is a line|usable"),
        (lambda path: _labelme(path, ["polygon"]), "not a labelme file|usable"),
        (lambda path: _labelme(path, [None]), "not a labelme file|usable"),
        (lambda path: _labelme(path, [{"points": [[1, 1, 1]]}]), "not a labelme file|usable"),
        (lambda path: _labelme(path, [{"points": [[1, 1]]}]), "a shape has no corners|usable"),
        (lambda path: _labelme(path, [{"points": [[1, 1], [1e300, 1], [5, 5]]}]), "a shape has no corners|usable"),
        (lambda path: _labelme(path, [{"points": [["a", 1]]}]), "not a labelme file|usable"),
        (
            lambda path: _labelme(path, [{"points": [[float("nan"), 1], [1, 2], [3, 3.0]]}]),
            "a shape has no corners|usable",
        ),
        *[
            (lambda path, width=width: _labelme(path, [], width=width), "not a labelme file|usable")
            for width in (0, -640, None, "wide", [640], float("nan"), float("inf"), 10**400)
        ],
        (lambda path: _labelme(path, 3), "not a labelme file|usable"),
    ],
)
@pytest.mark.parametrize("name", ["mask.json", "mask.png"])
def test_a_file_that_shows_no_region_is_refused_in_one_sentence(
    name: str, write: Callable[[Path], object], sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(DataError, match=sentence) as refused:
        Ignored.of(DataConfig(ignore_mask=str(path)), SIZE)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_nothing_left_to_look_at_is_refused(tmp_path: Path) -> None:
    white = _image(tmp_path / "white.png", np.ones(SIZE, bool))
    with pytest.raises(DataError, match="leave no pixel to look at"):
        Ignored.of(DataConfig(ignore_mask=str(white)), SIZE)
    black = _image(tmp_path / "black.png", np.zeros(SIZE, bool))
    with pytest.raises(DataError, match="leave no pixel to look at"):
        Ignored.of(DataConfig(inspect_mask=str(black)), SIZE)
    assert Ignored.of(DataConfig(), SIZE) is None


@pytest.mark.parametrize("name", ["reconstruction", "autoencoder"])
def test_a_detector_that_cannot_leave_out_regions_says_so(name: str) -> None:
    with pytest.raises(ConfigError, match=f"data.ignore_mask: detector {name} cannot leave out regions"):
        load(None, [f"detector.name={name}", "data.ignore_mask=mask.png"])


def test_augmented_copies_would_move_the_region() -> None:
    with pytest.raises(ConfigError, match=r"features.augment moves what data.inspect_mask is about"):
        load(None, ["features.augment=[hflip]", "data.inspect_mask=mask.png"])


def test_a_path_is_relative_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("data:\n  ignore_mask: masks/left.png\n")
    assert load(tmp_path / "run.yaml").data.ignore_mask == str(tmp_path / "masks" / "left.png")


@pytest.mark.parametrize("of_each", [False, True])
def test_pixels_that_are_not_seen_count_nowhere(of_each: bool) -> None:
    rng = np.random.default_rng(0)
    map_NHW, mask_NHW = rng.normal(size=(3, 16, 20)).astype(np.float32), np.zeros((3, 16, 20), bool)
    mask_NHW[:, 4:9, 12:15] = True
    seen = np.broadcast_to(np.arange(20) >= 8, (3, 16, 20) if of_each else (16, 20))
    expected = pixel_metrics(np.ascontiguousarray(map_NHW[:, :, 8:]), np.ascontiguousarray(mask_NHW[:, :, 8:]))
    assert ranked_metrics([Ranked.of(map_NHW, mask_NHW, seen)]) == pytest.approx(expected)
    counts = PixelCounts()
    counts.add(map_NHW, mask_NHW, seen)
    assert counts.metrics() == pytest.approx(expected, abs=1e-6)
