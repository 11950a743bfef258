"""Regions: places above a threshold from held-out maps, in a photograph's own pixels, and the audit of them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image, ImageDraw

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import with_overrides
from llb_ray.disk import file_digest
from llb_ray.engine.inference.regions import RegionFinder
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.pixel_grid import PixelGrid
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.engine.workers.fitter import trained_on
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.ensemble.pixel_threshold import level_at, levels_of
from llb_ray.errors import ArtifactError, AuditError, ConfigError
from tests.support import artifact_of, reseal, rewrite, set_column

FINDER = RegionFinder(level=0.5, grid=PixelGrid(64, 1.0))


def _map(*spots: tuple[slice, slice]) -> np.ndarray:
    map_HW = np.zeros((16, 16), np.float32)
    for height, spot in enumerate(spots, 2):
        map_HW[spot] = height
    return map_HW


def test_regions_are_in_the_photographs_pixels_the_highest_first() -> None:
    map_HW = _map((slice(2, 5), slice(4, 8)), (slice(10, 16), slice(0, 3)))
    lower, upper = FINDER.find(map_HW, (128, 320))  # half as high, two and a half times as wide as 64 px would have
    assert (lower.peak, upper.peak) == (pytest.approx(3, abs=0.2), pytest.approx(2, abs=0.2))
    assert (upper.x, upper.y, upper.width, upper.height) == pytest.approx((78, 14, 84, 29), abs=8)
    assert (lower.x, lower.y + lower.height) == (0, 128), "it reaches the lower left corner"
    for region in (lower, upper):
        assert region.mean < region.peak
        xs, ys = np.array(region.polygon).reshape(-1, 2).T
        assert (xs.min(), xs.max()) == pytest.approx((region.x, region.x + region.width), abs=5)
        assert (ys.min(), ys.max()) == pytest.approx((region.y, region.y + region.height), abs=2)


@pytest.mark.parametrize("size", [(64, 64), (200, 300), (31, 500)])
def test_polygons_areas_and_masks_are_of_one_place(size: tuple[int, int]) -> None:
    map_HW = _map((slice(2, 5), slice(4, 8)), (slice(10, 16), slice(0, 3)), (slice(0, 1), slice(15, 16)))
    regions, mask_HW = FINDER.find(map_HW, size), FINDER.mask(map_HW, size)
    assert mask_HW.shape == size
    drawn = Image.new("1", size[::-1])
    for region in regions:
        ImageDraw.Draw(drawn).polygon(region.polygon, fill=1)
    assert sum(region.area for region in regions) == pytest.approx(mask_HW.sum(), rel=0.05)
    assert (np.asarray(drawn) ^ mask_HW).sum() < 0.15 * mask_HW.sum()


def test_a_ring_is_one_region_with_its_outer_outline() -> None:
    map_HW = np.zeros((16, 16), np.float32)
    map_HW[3:13, 3:13] = 2
    map_HW[6:10, 6:10] = 0
    (ring,) = FINDER.find(map_HW, (64, 64))
    assert ring.area < ring.width * ring.height * 0.95
    xs = np.array(ring.polygon)[::2]
    assert (xs.min(), xs.max()) == pytest.approx((ring.x, ring.x + ring.width), abs=1)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_map_that_is_nowhere_above_has_none(value: float) -> None:
    map_HW = np.full((16, 16), value, np.float32)
    assert FINDER.find(map_HW, (10, 10)) == []
    assert not FINDER.mask(map_HW, (10, 10)).any()


def test_a_map_that_is_everywhere_above_is_the_photograph() -> None:
    (whole,) = FINDER.find(np.ones((16, 16), np.float32), (30, 40))
    assert (whole.x, whole.y, whole.width, whole.height, whole.area) == (0, 0, 40, 30, 1200)


def test_levels_are_what_shares_of_the_area_exceed() -> None:
    map_NHW = np.random.default_rng(0).normal(size=(20, 64, 64)).astype(np.float32)
    levels = levels_of(map_NHW)
    for rate in (0.2, 0.01, 0.0013, 1e-3):
        assert (map_NHW > level_at(levels, rate)).mean() == pytest.approx(rate, rel=0.05)
    for rate in (0, 0.21, -1, float("nan")):
        with pytest.raises(ConfigError, match="the false-area rate .* is not known"):
            level_at(levels, rate)


@pytest.fixture(scope="module")
def by_folds(photos: Path, tiny: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("by_folds") / "run"
    config = with_overrides(tiny, ["threshold.method=folds", "threshold.folds=2"])
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=out, executor="serial")
    return out


@pytest.fixture(params=["finished", "by_folds"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A run whose held-out maps are by members, and one whose are by detectors without a fold."""
    return Path(shutil.copytree(request.getfixturevalue(request.param), tmp_path / "run"))


def test_held_out_maps_are_by_detectors_that_had_not_seen_the_image(run: Path) -> None:
    made = FinishedRun(RunFolder.open(run), None).made
    fitted = {artifact.content: artifact for artifact in [*made.folds, *made.by_number().values()]}
    for shard in made.held_out_maps:
        (by,) = [fitted[content] for content in shard.inputs.values() if content in fitted]
        assert not set(trained_on(by)) & set(read_scores([shard])["image_id"].to_pylist())
    facts = json.loads((run / "threshold.json").read_text())
    assert facts["num_held_out_maps"] == read_scores(made.held_out_maps).num_rows >= 36
    assert facts["false_area_rate"] == 0.001
    assert llb_ray.Detector.load(run).calibration.regions.level == facts["pixel_threshold"]  # type: ignore[union-attr]


def test_detector_tables_coco_and_masks_say_the_same(run: Path, photos: Path, tmp_path: Path) -> None:
    paths = sorted((photos / "test").rglob("*.png"))
    rate = 0.05
    verdicts = llb_ray.Detector.load(run, false_area_rate=rate).predict(paths)
    prediction = llb_ray.predict(run, paths, out=tmp_path / "out", masks=True, false_area_rate=rate)
    scores = parquet.read_table(tmp_path / "out" / "scores.parquet").to_pylist()
    regions = parquet.read_table(tmp_path / "out" / "regions.parquet").to_pylist()
    assert prediction.num_regions == len(regions) == sum(map(len, verdicts.regions)) > 0
    assert [row["num_regions"] for row in scores] == [len(some) for some in verdicts.regions]
    assert {(row["width"], row["height"]) for row in scores} == {(48, 48)}
    first = next(some[0] for some in verdicts.regions if some)
    assert [regions[0][name] for name in ("x", "y", "width", "height", "area")] == [
        *(first.x, first.y, first.width, first.height, first.area)
    ]
    coco = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == [row["path"] for row in scores]
    assert [note["bbox"] for note in coco["annotations"]] == [
        [row[name] for name in ("x", "y", "width", "height")] for row in regions
    ]
    name = {image["id"]: image["file_name"] for image in coco["images"]}
    assert [name[note["image_id"]] for note in coco["annotations"]] == [row["path"] for row in regions]
    masks = sorted((tmp_path / "out" / "masks").rglob("*.png"))
    assert len(masks) == len(paths)
    white = [int((np.asarray(Image.open(path)) == 255).sum()) for path in masks]
    areas = [sum(region.area for region in some) for some in verdicts.regions]
    assert sum(white) == pytest.approx(sum(areas), rel=0.1)
    assert all(area > 0 for area, pixels in zip(areas, white, strict=True) if pixels)


def _shift(table: pa.Table) -> pa.Table:
    return set_column(table, "level", [level + 0.5 for level in table["level"].to_pylist()])


def _other_levels(run: Path) -> None:
    rewrite(artifact_of(run, "threshold"), "pixel_levels.arrow", _shift)


def _no_levels(run: Path) -> None:
    (artifact_of(run, "threshold") / "pixel_levels.arrow").unlink()
    reseal(artifact_of(run, "threshold"))


def _fewer_maps(run: Path) -> None:
    rewrite(artifact_of(run, "held_out_maps"), "scores.arrow", lambda table: table.slice(1))


def _no_maps(run: Path) -> None:
    index = json.loads((run / "run.json").read_text())
    index["artifacts"]["held_out_maps"] = []
    (run / "run.json").write_text(json.dumps(index))


FORGERIES: list[tuple[Callable[[Path], None], str]] = [
    (_other_levels, "pixel_levels.arrow: not what the held-out maps give"),
    (_no_levels, "a pixel threshold without held-out maps, or maps without one"),
    (_fewer_maps, "held-out maps: image .* against the sample"),
    (_no_maps, "a pixel threshold without held-out maps, or maps without one"),
]


@pytest.mark.parametrize(("forge", "sentence"), FORGERIES)
def test_a_forged_pixel_threshold_is_named(forge: Callable[[Path], None], sentence: str, run: Path) -> None:
    forge(run)
    with pytest.raises(AuditError, match=sentence):
        llb_ray.audit(run, rescore=None)


def test_a_forged_map_is_found_by_whoever_scores_again(run: Path) -> None:
    def raised(table: pa.Table) -> pa.Table:
        maps = pa.FixedShapeTensorArray.from_numpy_ndarray(table["map"].combine_chunks().to_numpy_ndarray() + 1)
        return table.set_column(table.column_names.index("map"), "map", maps)

    from llb_ray.engine.audit.rescore import scores_again

    rewrite(artifact_of(run, "held_out_maps"), "scores.arrow", raised)
    with pytest.raises(AuditError, match="held-out maps: image .* has another map"):
        scores_again(FinishedRun(RunFolder.open(run), None, checks=False), 0)


def test_a_run_of_before_has_no_regions_and_says_how_to_get_them(
    finished: Path, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    """What an earlier version left: no held-out maps in run.json, and a threshold made without them."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    _before(run)
    llb_ray.audit(run)
    prediction = llb_ray.predict(run, photos / "test", out=tmp_path / "out", overlays="none")
    assert "no regions: the run keeps no held-out maps" in prediction.sentence()
    assert not (tmp_path / "out" / "regions.parquet").exists()
    assert set(parquet.read_table(tmp_path / "out" / "scores.parquet")["num_regions"].to_pylist()) == {None}
    with pytest.raises(ArtifactError, match="run the same command again"):
        _ = llb_ray.Detector.load(run).predict(next(photos.glob("test/good/*.png"))).regions
    with pytest.raises(ArtifactError, match="run the same command again"):
        llb_ray.predict(run, photos / "test", out=tmp_path / "masks", masks=True)
    result = llb_ray.run(tiny, llb_ray.read_folder(photos, tiny), out=run, executor="serial")
    assert [time.stage for time in result.times if not time.reused] == ["held-out-maps", "threshold"]
    assert llb_ray.predict(run, photos / "test", out=tmp_path / "out", overlays="none").num_regions is not None


@pytest.mark.parametrize("asked", [{}, {"masks": True}, {"maps": True}])
def test_a_run_without_a_threshold_is_refused_for_that(
    asked: dict[str, bool], finished: Path, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    without = with_overrides(tiny, ["threshold.method=none"])
    llb_ray.run(without, llb_ray.read_folder(photos, without), out=run, executor="serial")
    with pytest.raises(ArtifactError, match="threshold.method=none, so nothing says which score is anomalous"):
        llb_ray.predict(run, photos / "test", out=tmp_path / "out", **asked)  # type: ignore[arg-type]


def _before(run: Path) -> None:
    from llb_ray.engine.evaluation.held_out_maps import HeldOutMaps
    from llb_ray.engine.evaluation.run_threshold import ThresholdInputs
    from llb_ray.engine.pipeline.decision_stages import Decisions

    finished = FinishedRun(RunFolder.open(run), None)
    made, config = finished.made, finished.config
    inputs = replace(ThresholdInputs.of(made, config), maps=HeldOutMaps.of([], config, None))
    threshold = Decisions(config, finished.train, finished.folder.store).threshold(inputs)
    assert threshold is not None
    index = json.loads((run / "run.json").read_text())
    for artifact in index["artifacts"].pop("held_out_maps"):
        shutil.rmtree(run / "artifacts" / artifact)
    shutil.rmtree(artifact_of(run, "threshold"))
    index["artifacts"]["threshold"] = threshold.path.relative_to(run / "artifacts").as_posix()
    shutil.copy(threshold.file("threshold.json"), run / "threshold.json")
    index["published"]["threshold.json"] = file_digest(run / "threshold.json")
    del index["published"]["card.md"]
    (run / "card.md").unlink()
    (run / "run.json").write_text(json.dumps(index))


def test_members_of_another_kind_give_no_maps(photos: Path, tiny_bank: RunConfig, tmp_path: Path) -> None:
    config = with_overrides(tiny_bank, ["members.detector=density"])
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path / "run", executor="serial")
    assert FinishedRun(RunFolder.open(tmp_path / "run"), None).made.held_out_maps == []
    assert "no held-out maps, so no pixel threshold" in llb_ray.audit(tmp_path / "run")


def test_a_threshold_of_none_keeps_no_maps(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    config = with_overrides(tiny, ["threshold.method=none"])
    result = llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path / "run", executor="serial")
    assert "held-out-maps" not in [time.stage for time in result.times]


@pytest.mark.parametrize("rate", [0.5, 0.0, -1.0, float("nan")])
def test_a_rate_that_no_table_has_is_refused_where_there_is_no_table_too(rate: float) -> None:
    earlier: Any = SimpleNamespace(files={})
    with pytest.raises(ConfigError, match="the false-area rate .* is not known"):
        RegionFinder.of(earlier, rate, FINDER.grid)
    assert RegionFinder.of(earlier, 0.001, FINDER.grid) is None
