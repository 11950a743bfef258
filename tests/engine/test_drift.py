"""Drift: alarms at the stated rate where nothing has changed, and where something has; what is refused; its page."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageEnhance, ImageFilter
from pyarrow import parquet

import llb_ray
from llb_ray.cli import main
from llb_ray.engine.drift.alarms import FEATURES, SHARE, SHIFT, Lot, Reference, interval_of, watched
from llb_ray.engine.drift.feature_shift import feature_shift
from llb_ray.errors import DataError
from tests.browser import chromium, complaints
from tests.support import set_column

_LEVEL = 0.05


def _reference(generator: np.random.Generator, num: int = 200) -> Reference:
    seen_MS = _features(generator, num)
    return Reference("normal", generator.lognormal(size=num), threshold=10.3, max_share=0.03, feature_MS=seen_MS)


def _features(generator: np.random.Generator, num: int) -> np.ndarray:
    """Skewed and correlated, as those of photographs are."""
    return generator.lognormal(size=(num, 20)) @ np.random.default_rng(7).normal(size=(20, 64))


def _lot(generator: np.random.Generator, num: int = 30) -> Lot:
    return Lot(generator.lognormal(size=num), _features(generator, num))


def test_false_alarms_are_as_rare_as_the_level_says() -> None:
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(300):
        lots = {str(lot): Lot(generator.lognormal(size=30)) for lot in range(3)}
        alarms += any(lot.alarms for lot in watched(_reference(generator), lots, _LEVEL))
    assert alarms / 300 <= _LEVEL + 3 * np.sqrt(_LEVEL * (1 - _LEVEL) / 300)


@pytest.mark.parametrize("num", [5, 30])
def test_features_raise_false_alarms_as_rarely(num: int) -> None:
    generator, level = np.random.default_rng(0), 0.1
    found = [feature_shift(_features(generator, 60), _features(generator, num), level) for _ in range(100)]
    alarms = sum(one is not None and one.p < level for one in found)
    assert alarms / 100 <= level + 3 * np.sqrt(level * (1 - level) / 100)


@pytest.mark.parametrize(
    ("change", "alarms"),
    [
        (lambda score_N: score_N * 5, (SHIFT, SHARE)),
        (lambda score_N: score_N / 3, (SHIFT,)),
        (lambda score_N: np.concatenate([score_N, [99.0] * 12]), (SHARE,)),  # anomalies among images as ever
        (lambda score_N: np.concatenate([score_N, [99.0]]), ()),
    ],
    ids=["higher", "lower", "anomalies", "one anomaly"],
)
def test_alarms_name_what_has_changed(change: Callable[[np.ndarray], np.ndarray], alarms: tuple[str, ...]) -> None:
    generator = np.random.default_rng(1)
    (found,) = watched(_reference(generator), {"lot": Lot(change(generator.lognormal(size=80)))}, _LEVEL)
    assert found.alarms == alarms
    assert found.share_interval[0] <= found.share <= found.share_interval[1]


def test_scores_of_other_detectors_raise_no_alarm_of_shift() -> None:
    generator = np.random.default_rng(1)
    reference = dataclasses.replace(_reference(generator), same_detector=False)
    (found,) = watched(reference, {"lot": Lot(generator.lognormal(size=80) / 3)}, _LEVEL)
    assert found.alarms == ()
    assert found.shift_p < 1e-6


@pytest.mark.parametrize(
    ("move", "alarms"),
    [
        (lambda feature_NS: feature_NS + 1.5 * np.arange(64) % 3, (FEATURES,)),
        (lambda feature_NS: feature_NS * 1.3, (FEATURES,)),
        (lambda feature_NS: np.concatenate([feature_NS[1:], 1e6 * feature_NS[:1]]), ()),  # a picture of something else
        (lambda feature_NS: feature_NS[:4] + 50, ()),  # too few images
    ],
    ids=["moved", "stretched", "one odd image", "four images"],
)
def test_a_shift_of_features_is_an_alarm_by_itself(
    move: Callable[[np.ndarray], np.ndarray], alarms: tuple[str, ...]
) -> None:
    generator = np.random.default_rng(1)
    reference, lot = _reference(generator), _lot(generator, 60)
    feature_NS = move(lot.feature_NS)
    (found,) = watched(reference, {"lot": Lot(lot.score_N[: len(feature_NS)], feature_NS)}, _LEVEL)
    assert found.alarms == alarms
    moved = found.feature_shift
    assert moved is None or (moved.distance > moved.limit) == bool(alarms)


def test_images_that_are_all_alike_have_not_moved() -> None:
    found = feature_shift(np.ones((9, 64)), np.ones((7, 64)), 0.01)
    assert found is not None
    assert found.p == 1


@pytest.fixture(scope="module")
def predicted(finished: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """Predictions of a run on its test images: as they are in ``same``, changed in ``bright`` and ``blurred``."""
    out = tmp_path_factory.mktemp("drift")
    changes: dict[str, Callable[[Image.Image], Image.Image]] = {
        "same": lambda image: image,
        "bright": lambda image: ImageEnhance.Brightness(image).enhance(1.5),
        "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    }
    for name, change in changes.items():
        for split in ("train", "test"):
            (out / "images" / name / split).mkdir(parents=True)
            for path in sorted((photos / split / "good").glob("*.png")):
                change(Image.open(path).convert("RGB")).save(out / "images" / name / split / path.name)
        llb_ray.predict(finished, out / "images" / name, out=out / name, overlays="none")
    return out


@pytest.mark.parametrize(("lot", "alarm"), [("same", False), ("bright", True), ("blurred", True)])
def test_another_light_and_another_focus_raise_an_alarm(finished: Path, predicted: Path, lot: str, alarm: bool) -> None:
    words = ["drift", finished, predicted / lot, "--reference", predicted / "same", "--json"]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == (3 if alarm else 0), result.output
    (found,) = json.loads(result.output)["lots"]
    assert bool(found["alarms"]) == alarm


@pytest.mark.parametrize(("lot", "status"), [("same", 0), ("bright", 3)])
def test_predict_monitors_what_it_judges(
    lot: str, status: int, finished: Path, predicted: Path, tmp_path: Path
) -> None:
    words = ["predict", finished, predicted / "images" / lot, "--out", tmp_path / "out", "--overlays", "none"]
    result = CliRunner().invoke(main, [*map(str, words), "--monitor", str(predicted / "same")])
    assert result.exit_code == status, result.output
    assert f"{int(status == 3)} of 1 lots raise an alarm" in result.output


def test_features_are_compared_with_the_runs_own_images(finished: Path, predicted: Path) -> None:
    def moved(where: Path, **options: Any) -> list[bool | None]:
        found = llb_ray.drift(finished, [where], **options)
        shifts = [lot.feature_shift for lot in found.watched]
        assert [FEATURES in lot.alarms for lot in found.watched] == [bool(s and s.distance > s.limit) for s in shifts]
        return [None if one is None else one.distance > one.limit for one in shifts]

    assert moved(predicted / "same") == [False]
    assert moved(predicted / "bright") == [True]
    assert moved(predicted / "same" / "scores.csv", reference=predicted / "same" / "scores.parquet") == [False]


def test_a_prediction_of_an_earlier_version_has_no_features_to_compare(
    finished: Path, predicted: Path, tmp_path: Path
) -> None:
    shutil.copy(predicted / "bright" / "scores.parquet", tmp_path / "scores.parquet")
    found = llb_ray.drift(finished, [tmp_path], out=tmp_path / "drift.html")
    assert found.watched[0].feature_shift is None
    one = parquet.read_table(predicted / "same" / "scores.parquet").slice(0, 1)
    parquet.write_table(one, tmp_path / "scores.parquet")
    shutil.copy(predicted / "same" / "features.parquet", tmp_path / "features.parquet")
    (single,) = llb_ray.drift(finished, [tmp_path], out=tmp_path / "drift.html").watched
    assert (single.num_images, single.feature_shift, single.alarms) == (1, None, ())


def test_lots_are_predictions_folders_or_values_of_a_column(finished: Path, predicted: Path, tmp_path: Path) -> None:
    rows = parquet.read_table(predicted / "same" / "scores.parquet").to_pylist()
    by_path, by_id = tmp_path / "paths.csv", tmp_path / "ids.csv"
    by_path.write_text("path,day\n" + "".join(f"{row['path']},first\n" for row in rows))
    days = [f"elsewhere.png,{row['image_id']},{'odd' if number % 2 else 'even'}" for number, row in enumerate(rows)]
    by_id.write_text("path,image_id,day\n" + "\n".join(days) + "\n")

    def names(**options: Any) -> list[str]:
        found = llb_ray.drift(finished, [predicted / "same"], **options)
        assert sum(lot.num_images for lot in found.watched) == len(rows)
        return [lot.lot for lot in found.watched]

    assert names() == [str(predicted / "same")]
    assert names(by="folder") == ["test", "train"]
    assert names(by="day", table=by_path) == ["first"]
    assert names(by="day", table=by_id) == ["even", "odd"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["SAME", "--by", "day"], "a column needs --table"),
        (["SAME", "--by", "day", "--table", "TABLE"], "has no column 'day'; its columns are path, lot"),
        (["SAME", "--by", "lot", "--table", "TABLE"], "has no row for"),
        (["IMAGES"], "no prediction here (no scores.parquet)"),
        (["TABLE"], "not the scores of llb-ray predict"),
        (["OTHER"], "was not predicted with this run"),
        (["missing"], "no prediction here"),
        (["EMPTY"], "no image; give the folder"),
        (["DAMAGED"], "features.parquet: not readable"),
        (["SAME", "--reference", "missing"], "no prediction here"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    finished: Path, predicted: Path, tmp_path: Path, words: list[str], reason: str
) -> None:
    table, other = tmp_path / "lots.csv", tmp_path / "scores.csv"
    table.write_text("path,lot\nx.png,1\n")
    other.write_text("path,image_id,score,decision,quantile\nx.png,00,1.5,normal,0.123\ny.png,01,1.6,normal,0.9\n")
    places = {"SAME": predicted / "same", "IMAGES": predicted / "images", "TABLE": table, "OTHER": other}
    places |= {"EMPTY": tmp_path / "empty.csv", "DAMAGED": tmp_path / "damaged"}
    places["EMPTY"].write_text(other.read_text().splitlines()[0] + "\n")
    shutil.copytree(predicted / "same", places["DAMAGED"])
    (places["DAMAGED"] / "features.parquet").write_bytes(b"PAR1 and nothing more")
    result = CliRunner().invoke(main, ["drift", str(finished), *(str(places.get(word, word)) for word in words)])
    assert result.exit_code == 1, result.output
    assert reason in result.output
    assert result.output.count("\n") == 1


_HEAD = "path,image_id,score,decision,quantile"
_GOOD = "x.png,00,1.5,normal,1.0"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{_HEAD}\n{_GOOD}\ny.png,01,nan,normal,1.0\n", "not finite"),
        (f"{_HEAD}\n{_GOOD}\ny.png,01,inf,normal,1.0\n", "not finite"),
        (f"{_HEAD}\n{_GOOD}\ny.png,01,,normal,1.0\n", "not the scores of llb-ray predict"),
        (f"{_HEAD}\n{_GOOD}\n,01,1.5,normal,1.0\n", "not the scores of llb-ray predict"),
        (f"{_HEAD}\n{_GOOD}\ny.png,,1.5,normal,1.0\n", "not the scores of llb-ray predict"),
        (f"{_HEAD}\n{_GOOD}\ny.png,01,1.5\n", "line 3 has 3 fields"),
        (f"{_HEAD}\n{_GOOD}\ny.png,01,high,normal,1.0\n", "not the scores of llb-ray predict"),
        ("", "names the columns|has to name the columns"),
        ("\x00\x01\x02", "no list of images|not a CSV"),
    ],
    ids=["nan", "inf", "no score", "no path", "no id", "short row", "a word", "nothing", "bytes"],
)
def test_scores_that_no_test_could_count_are_refused(finished: Path, tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "scores.csv").write_text(text)
    for words in (["SCORES"], ["SCORES", "--by", "folder"], ["SCORES", "--reference", "SCORES"]):
        said = [str(tmp_path / "scores.csv") if word == "SCORES" else word for word in words]
        result = CliRunner().invoke(main, ["drift", str(finished), *said])
        assert result.exit_code == 1, result.output
        assert re.search(reason, result.output)
        assert result.output.count("\n") == 1


@pytest.mark.parametrize("number", [np.nan, np.inf, None])
def test_features_that_no_test_could_count_are_refused(
    finished: Path, predicted: Path, tmp_path: Path, number: float | None
) -> None:
    shutil.copy(predicted / "same" / "scores.parquet", tmp_path)
    features = parquet.read_table(predicted / "same" / "features.parquet")
    rows = features["features"].to_pylist()
    rows[0][3] = number
    parquet.write_table(set_column(features, "features", rows), tmp_path / "features.parquet")
    with pytest.raises(DataError, match=r"features.parquet: has numbers that are not finite"):
        llb_ray.drift(finished, [tmp_path])


def test_an_image_in_two_lots_is_refused(finished: Path, predicted: Path, tmp_path: Path) -> None:
    (path, *_) = parquet.read_table(predicted / "same" / "scores.parquet")["path"].to_pylist()
    table = tmp_path / "lots.csv"
    table.write_text(f"path,lot\n{path},1\n{path},1\n{path},2\n")
    with pytest.raises(DataError, match=f"{path} is in two lots, 1 and 2"):
        llb_ray.drift(finished, [predicted / "same"], by="lot", table=table)


def test_a_lot_may_have_as_many_above_the_threshold_as_the_reference_has(finished: Path, predicted: Path) -> None:
    own = llb_ray.drift(finished, [predicted / "same"]).reference
    above = int((own.score_M > own.threshold).sum())
    assert own.max_share == interval_of(above, len(own.score_M))[1]
    assert llb_ray.drift(finished, [predicted / "same"], max_share=0.3).reference.max_share == 0.3


def test_the_page_fits_a_telephone_and_runs_no_name(finished: Path, predicted: Path, tmp_path: Path) -> None:
    table, page = tmp_path / "lots.csv", tmp_path / "drift.html"
    rows = parquet.read_table(predicted / "same" / "scores.parquet").to_pylist()
    lots = ["<script>document.title=1</script>", "second"]
    table.write_text("path,lot\n" + "".join(f"{row['path']},{lots[at % 2]}\n" for at, row in enumerate(rows)))
    llb_ray.drift(finished, [predicted / "same"], by="lot", table=table, out=page)
    with chromium(tmp_path) as browser:
        for width in (1280, 400):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get(page.as_uri())
            assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert browser.title.endswith("llb-ray drift")
        assert lots[0] in browser.find_element("tag name", "table").text
        assert len(browser.find_elements("css selector", ".chart")) == 4
        assert complaints(browser) == []
