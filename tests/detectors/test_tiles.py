"""Large photographs in tiles: what is cut is joined again, seams do not show, and a small defect decides the score."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import BackboneConfig, TilesConfig, load, tile_starts, with_overrides
from llb_ray.data.decoding import read_rgb
from llb_ray.detectors.backbones import Backbone
from llb_ray.detectors.base import top_mean
from llb_ray.detectors.factory import build_encoder, encoder_fingerprint, learner_settings
from llb_ray.detectors.memory_bank import TOP_SHARE
from llb_ray.detectors.tiles import Tiled, Tiling, WorstTile
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.errors import ConfigError
from tests.support import labelled_photos, square_defects

CPU = torch.device("cpu")
CNN = BackboneConfig(name="test_resnet.r160_in1k", weights="random", layers=(1, 2))
NETWORK = "detector.backbone={name: test_resnet.r160_in1k, weights: random}"
CASES = [  # tile, overlap, height, width
    (64, 0, 128, 192),
    (64, 16, 160, 256),
    (64, 32, 64, 96),
    (96, 40, 288, 416),
    (64, 8, 64, 64),
]


@pytest.mark.parametrize(("tile", "overlap", "height", "width"), CASES)
@pytest.mark.parametrize("step", [1, 8, 32])
def test_tiles_cover_a_side_and_overlap_as_much_as_is_asked(
    tile: int, overlap: int, height: int, width: int, step: int
) -> None:
    tiles = TilesConfig(size_px=tile, overlap_px=overlap)
    for side in (height, width):
        starts = tile_starts(side, tiles, step)
        assert (starts[0], starts[-1]) == (0, side - tile)
        assert all(start % step == 0 for start in starts)
        assert all(step <= gap <= tile - overlap for gap in np.diff(starts))
    assert tiles.count((height, width)) == len(tile_starts(height, tiles)) * len(tile_starts(width, tiles))


class Pooled(nn.Module):
    """Two layers without context: each cell is the mean of its own pixels, so that joining must be exact."""

    def forward(self, image_BCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(nn.functional.avg_pool2d(image_BCHW, stride) for stride in (8, 16))


@pytest.mark.parametrize(("tile", "overlap", "height", "width"), [case for case in CASES if case[0] % 16 == 0])
def test_what_is_cut_is_joined_again(tile: int, overlap: int, height: int, width: int) -> None:
    image_BCHW = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    tiling = Tiling((height, width), TilesConfig(size_px=tile, overlap_px=overlap), (8, 16), Pooled())
    for joined, whole in zip(tiling(image_BCHW), Pooled()(image_BCHW), strict=True):
        assert joined.shape == whole.shape
        assert torch.allclose(joined, whole, atol=1e-6)


def test_features_pass_from_one_tile_to_the_next_in_proportion() -> None:
    """Of tiles that each say their own number, the joined row rises without a jump, and no three of them meet."""

    class Numbered(nn.Module):
        def forward(self, tile_TCSS: torch.Tensor) -> tuple[torch.Tensor, ...]:
            number_T = torch.arange(len(tile_TCSS), dtype=torch.float32)
            return (number_T[:, None, None, None].expand(-1, 1, 16, 16),)

    tiles = TilesConfig(size_px=64, overlap_px=32)
    (row_1,) = Tiling((64, 192), tiles, (4,), Numbered())(torch.zeros(1, 3, 64, 192))
    row = row_1[0, 0, 0]
    assert (float(row[0]), float(row[-1])) == (0, 4)
    assert float(row.diff().max()) <= 1 / 8 + 1e-6
    assert float(row.diff().min()) >= 0


def _encoder(name: str, tile: int, overlap: int, size: tuple[int, int]) -> Tiled:
    backbone = Backbone(BackboneConfig(name=name, weights="random"), tile, CPU, True)
    return Tiled(backbone, size, size, TilesConfig(size_px=tile, overlap_px=overlap))


@pytest.mark.parametrize("name", ["test_resnet.r160_in1k", "test_vit.r160_in1k"])
def test_a_tiled_encoder_gives_an_image_the_same_layers_in_any_batch_and_exported(name: str) -> None:
    encoder = _encoder(name, 64, 32, (96, 160))
    image_BCHW = torch.randint(0, 256, (3, 3, 96, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    layers, alone = encoder.encode(image_BCHW), encoder.encode(image_BCHW[1:2])
    assert all(torch.equal(layer[1:2], one) for layer, one in zip(layers, alone, strict=True))
    with torch.inference_mode():
        together = encoder.network()(image_BCHW)
    assert all(torch.allclose(layer, one, atol=1e-4) for layer, one in zip(layers, together, strict=True))


def test_an_image_of_one_tile_is_as_without_tiles() -> None:
    image_BCHW = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = Backbone(CNN, 64, CPU)
    tiled = Tiled(plain, 64, (64, 64), TilesConfig(size_px=64, overlap_px=16))
    for one, other in zip(plain.encode(image_BCHW), tiled.encode(image_BCHW), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_seams_do_not_show() -> None:
    """With an overlap, layers are nearer to those of the whole than those of tiles that are put side by side."""
    size = (160, 288)
    noise = torch.rand(1, 3, 20, 36, generator=torch.Generator().manual_seed(1))
    image = (255 * nn.functional.interpolate(noise, size, mode="bicubic").clamp(0, 1)).to(torch.uint8)
    whole = Backbone(CNN, size, CPU).encode(image)[0]
    tiled, cut = (Tiled(Backbone(CNN, 96, CPU), size, size, TilesConfig(size_px=96, overlap_px=px)) for px in (32, 0))
    blended, butted = ((encoder.encode(image)[0] - whole).abs().mean() for encoder in (tiled, cut))
    assert blended < 0.6 * butted
    assert blended < 0.1 * whole.abs().mean()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["detector.tiles={size_px: 512}"], "tiles.size_px=512 is larger than an image of 224 x 224 px"),
        (["detector.tiles={size_px: 64, overlap_px: 40}"], "overlap_px=40 is more than half of size_px=64"),
        (["detector.tiles={size_px: 0}"], "detector.tiles.size_px"),
        (["detector.tiles={side: 3}"], "unknown key 'detector.tiles.side'"),
        (["detector.tiles=224"], "should be a section"),
        (["detector.tiles={size_px: 64}", "members.detector=density"], "density looks at few places"),
        (["detector.name=density", "detector.tiles={size_px: 64}"], "density looks at few places"),
        (["detector.name=autoencoder", "detector.tiles={size_px: 64}"], "unknown key 'detector.tiles'"),
    ],
)
def test_tiles_that_make_no_sense_are_refused_in_one_sentence(settings: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as refused:
        load(None, settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("tile", "size", "sentence"),
    [
        (64, (100, 160), r"image_size_px = 100 x 160: .* multiple of 32 px, .* choose \[96, 160\]"),
        (64, (160, 170), r"image_size_px = 160 x 170: .* choose \[160, 160\]"),
        (80, (160, 160), "tiles.size_px = 80: the network makes 3 cells of it, .* choose a multiple of 32"),
    ],
)
def test_cells_of_neighbouring_tiles_must_meet(tile: int, size: tuple[int, int], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        _encoder("test_resnet.r160_in1k", tile, 16, size)


def test_the_key_of_layers_says_how_they_were_cut_and_none_without_tiles() -> None:
    plain = load(None, ["detector.image_size_px=[64, 96]", NETWORK])
    tiled = with_overrides(plain, ["detector.tiles={size_px: 64, overlap_px: 16}"])
    assert "tiles" not in encoder_fingerprint(plain.detector)
    assert "tiles" not in learner_settings(plain.detector, "final")
    assert encoder_fingerprint(tiled.detector) == build_encoder(tiled.detector, CPU).fingerprint()
    others = ["detector.tiles.overlap_px=32", "detector.tiles.size_px=32", "detector.image_size_px=[96, 64]"]
    configs = [plain, tiled, *(with_overrides(tiled, [other]) for other in others)]
    assert len({repr(encoder_fingerprint(config.detector)) for config in configs}) == 5


def test_the_score_is_that_of_the_worst_tile() -> None:
    config = load(None, ["detector.image_size_px=[640, 960]", "detector.tiles={size_px: 160, overlap_px: 32}"]).detector
    map_BHW = torch.rand(3, 80, 120, generator=torch.Generator().manual_seed(0))
    small = map_BHW.clone()
    small[1, 41:44, 60:63] += 20  # nine of 9,600 cells
    score = WorstTile(config, TOP_SHARE)
    assert float(score(small)[1]) > 5 * float(score(map_BHW)[1])
    assert float(top_mean(small, TOP_SHARE)[1]) < 1.5 * float(top_mean(map_BHW, TOP_SHARE)[1])
    assert torch.equal(score(small)[[0, 2]], score(map_BHW)[[0, 2]])
    whole = load(None, ["detector.image_size_px=[640, 960]"]).detector
    assert torch.equal(WorstTile(whole, TOP_SHARE)(small), top_mean(small, TOP_SHARE))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of 192 x 256 px, the anomalous ones with a bright square of 10."""
    draw = square_defects((192, 256), 4, slice(92, 102), slice(180, 190))
    counts = [("train", "good", 12), ("test", "good", 4), ("test", "spot", 4)]
    return labelled_photos(tmp_path_factory.mktemp("large"), counts, draw)


@pytest.fixture(scope="module", params=["memory_bank", "reconstruction"])
def run(
    request: pytest.FixtureRequest, large: Path, tiny_bank: RunConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    settings = ["detector.image_size_px=[192, 256]", "detector.tiles={size_px: 64, overlap_px: 16}"]
    if request.param == "reconstruction":
        backbone = tiny_bank.detector.model_dump(mode="json")["backbone"]
        small = {"backbone": backbone, "channels": 8, "member_steps": 2, "final_steps": 3}
        settings.insert(0, f"detector={ {'name': 'reconstruction', **small} }")
    config = with_overrides(tiny_bank, [*settings, "data.group_pattern=null", "members.count=2"])
    out = tmp_path_factory.mktemp("tiled") / "run"
    llb_ray.run(config, llb_ray.read_folder(large, config), out=out, executor="serial")
    return out


def test_a_small_defect_is_found_where_it_is(run: Path, large: Path, tmp_path: Path) -> None:
    folder = RunFolder.open(run)
    names = [large / "test" / kind / f"{number}.png" for kind in ("good", "spot") for number in range(4)]
    verdicts = llb_ray.Detector.load(run).predict(names)
    if folder.config().detector.name == "memory_bank":
        assert verdicts.score_N[4:].min() > verdicts.score_N[:4].max()
        _, row, column = np.unravel_index(verdicts.map_NHW[4:5].argmax(), verdicts.map_NHW[4:5].shape)
        height, width = verdicts.map_NHW.shape[1:]
        assert abs(row / height - 97 / 192) < 0.08
        assert abs(column / width - 185 / 256) < 0.08
    llb_ray.predict(run, large / "test", out=tmp_path / "out", overlays="all")
    assert Image.open(tmp_path / "out" / "overlays" / "spot" / "0.png.png").size == (256, 192)


def test_images_alone_and_together_get_the_runs_scores(run: Path, large: Path) -> None:
    names = [large / "test" / "spot" / f"{number}.png" for number in range(3)]
    detector = llb_ray.Detector.load(run)
    together = detector.predict(names).score_N
    assert np.allclose(together, [detector.predict(name).score_N[0] for name in names], rtol=1e-4)


def test_the_run_is_audited_and_its_report_is_written(run: Path) -> None:
    assert llb_ray.audit(run)
    assert llb_ray.write_report(run).stat().st_size > 0


@pytest.mark.filterwarnings("ignore")
def test_an_exported_model_cuts_and_joins_by_itself(run: Path, large: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    llb_ray.export(run, "onnx", out=tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    image_BHW3 = np.stack([read_rgb(large / "test" / "spot" / f"{number}.png", (192, 256), 10**6) for number in (0, 1)])
    score_B, _, map_BHW = session.run(None, {"image": image_BHW3})
    verdicts = llb_ray.Detector.load(run).predict(list(image_BHW3))
    assert np.allclose(score_B, verdicts.score_N, rtol=1e-3)
    assert map_BHW.shape == verdicts.map_NHW.shape
