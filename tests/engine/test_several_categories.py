"""Several categories in one run: one detector, and a threshold for each of them."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from click.testing import CliRunner, Result

import llb_ray
from llb_ray import RunConfig
from llb_ray.cli import main
from llb_ray.config import with_overrides
from llb_ray.data.synthetic import SyntheticConfig, write_synthetic
from llb_ray.data.tables import read_table
from llb_ray.engine import filenames
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.errors import ConfigError, DataError
from llb_ray.search.search_plan import trial_images
from llb_ray.serving.answer import run_version

NAMES = ["gear", "weave"]


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trees of two products, and the manifest file of both."""
    root = tmp_path_factory.mktemp("products")
    recipe = SyntheticConfig(("weave", "gear"), train_objects=24, test_objects=12, alpha=0.125, size_px=48, views=1)
    write_synthetic(root / "trees", recipe)
    llb_ray.manifest("mvtec", root / "trees", out=root / "products.arrow")
    return root


@pytest.fixture(scope="module")
def config(tiny: RunConfig) -> RunConfig:
    return with_overrides(tiny, ["data.group_pattern=null", "threshold.folds=2"])


@pytest.fixture(scope="module")
def run(products: Path, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("several") / "run"
    images = llb_ray.read_manifest(products / "products.arrow", config=config)
    llb_ray.run(config, images, out=out, executor="serial")
    return out


def _llb(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def _thresholds(run: Path) -> dict[str, float]:
    facts = json.loads((run / "threshold.json").read_text())
    return {name: own["threshold"] for name, own in facts["by_category"].items()}


def test_every_category_has_a_threshold_from_its_own_held_out_scores(run: Path) -> None:
    facts = json.loads((run / "threshold.json").read_text())
    assert "threshold" not in facts
    assert list(facts["by_category"]) == NAMES
    made = RunFolder.open(run).made().threshold
    assert made is not None
    category = {row["image_id"]: row["category"] for row in read_table(run / "purified" / "part-0.arrow").to_pylist()}
    held_out = read_table(made.file(filenames.HELD_OUT)).to_pylist()
    assert [row["category"] for row in held_out] == [category[row["image_id"]] for row in held_out]
    assert facts["num_held_out"] == len(held_out) == sum(one["num_held_out"] for one in facts["by_category"].values())
    assert set(read_table(made.file(filenames.PIXEL_LEVELS))["category"].to_pylist()) == set(NAMES)
    assert all(one["pixel_threshold"] > 0 for one in facts["by_category"].values())


def test_metrics_are_those_of_each_and_their_means(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert list(metrics["by_category"]) == NAMES
    for name in ("i_auroc", "aupro"):
        assert metrics[name] == pytest.approx(np.mean([one[name] for one in metrics["by_category"].values()]))
    assert metrics["num_test"] == sum(one["num_test"] for one in metrics["by_category"].values())
    assert all(kind.partition(": ")[0] in NAMES for kind in metrics["by_type"])


def test_such_a_run_is_audited_shown_and_given_another_rate(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    before = _thresholds(copy)
    result = _llb("threshold", copy, "--false-alarm-rate", "0.2")
    assert result.exit_code == 0, result.output
    assert all(f"threshold, {name}" in result.output for name in NAMES)
    assert all(after <= before[name] for name, after in _thresholds(copy).items())
    assert _thresholds(copy) != before
    assert all(f"threshold, {name}" in (copy / "report.html").read_text() for name in NAMES)
    assert all(f"score, {name}" in (copy / "card.md").read_text() for name in NAMES)
    llb_ray.audit(copy, rescore=4)


def test_images_are_judged_by_the_threshold_of_their_category(run: Path, products: Path, tmp_path: Path) -> None:
    prediction = llb_ray.predict(run, products / "trees" / "gear" / "test", out=tmp_path / "folder", overlays="none")
    assert prediction.threshold is None
    features = parquet.read_table(tmp_path / "folder" / "features.parquet")
    assert features["image_id"].to_pylist() == [row["image_id"] for row in _rows(tmp_path / "folder" / "scores.csv")]
    rows, threshold = _rows(tmp_path / "folder" / "scores.csv"), _thresholds(run)["gear"]
    assert {row["category"] for row in rows} == {"gear"}
    assert [row["decision"] == "anomalous" for row in rows] == [float(row["score"]) > threshold for row in rows]
    assert "score above the threshold of its category" in prediction.sentence()


@pytest.mark.parametrize("way", ["list", "option", "python"])
def test_a_category_is_said_in_a_list_and_by_an_option(way: str, run: Path, products: Path, tmp_path: Path) -> None:
    paths = sorted((products / "trees" / "gear" / "test" / "good").iterdir())
    if way == "python":
        verdicts = llb_ray.Detector.load(run).predict(paths, category="weave")
        assert {one.threshold for one in verdicts.calibrations} == {_thresholds(run)["weave"]}
        return
    listed = tmp_path / "list.csv"
    listed.write_text("path,category\n" + "".join(f"{path},weave\n" for path in paths))
    given = [listed] if way == "list" else [*paths, "--category", "weave", "--threshold", _thresholds(run)["weave"]]
    arguments = ["predict", run, *given, "--out", tmp_path / "out", "--overlays", "none", "--masks"]
    result = _llb(*map(str, arguments))
    assert result.exit_code == 0, result.output
    assert {row["category"] for row in _rows(tmp_path / "out" / "scores.csv")} == {"weave"}


@pytest.mark.parametrize(
    ("category", "reason"),
    [
        ("", "its category is not known; put it in a folder named like one (gear, weave)"),
        ("gaer", "did you mean 'gear'"),
    ],
)
def test_an_image_without_a_known_category_is_not_judged(
    category: str, reason: str, run: Path, products: Path, tmp_path: Path
) -> None:
    good = sorted((products / "trees" / "gear" / "test" / "good").iterdir())
    for number, path in enumerate(good[:2]):
        shutil.copy(path, tmp_path / f"{number}.png")
    (tmp_path / "list.csv").write_text(f"path,category\n0.png,gear\n1.png,{category}\n")
    prediction = llb_ray.predict(run, tmp_path / "list.csv", out=tmp_path / "out", overlays="none")
    assert (prediction.num_scored, prediction.num_quarantined) == (1, 1)
    assert reason in (tmp_path / "out" / "quarantine.csv").read_text()
    (tmp_path / "list.csv").write_text(f"path,category\n1.png,{category}\n")
    with pytest.raises(DataError, match="none of the 1 files found"):
        llb_ray.predict(run, tmp_path / "list.csv", out=tmp_path / "none", overlays="none")


def test_what_knows_one_threshold_refuses(run: Path, products: Path, config: RunConfig, tmp_path: Path) -> None:
    images = llb_ray.read_manifest(products / "products.arrow", config=config)
    with pytest.raises(ConfigError, match="has 2 categories, each with a threshold of its own, and serve takes"):
        run_version(str(run))
    with pytest.raises(ConfigError, match="and drift takes runs of one"):
        llb_ray.drift(run, [tmp_path])
    with pytest.raises(ConfigError, match="and bench takes runs of one"):
        llb_ray.bench(run)
    with pytest.raises(ConfigError, match=r"a threshold for several categories \(gear, weave\)"):
        llb_ray.Detector.load(run, threshold=1)
    with pytest.raises(ConfigError, match=r"the run is of several categories \(gear, weave\)"):
        llb_ray.export(run, "onnx", out=tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match="category 'gaer': the run has none of that name; did you mean 'gear'"):
        llb_ray.Detector.load(run, category="gaer")
    with pytest.raises(DataError, match="is of several categories, and an update knows one"):
        llb_ray.update(run, products / "trees" / "gear" / "train", out=tmp_path / "new", executor="serial")
    with pytest.raises(ConfigError, match="a search is about one category, and 2 are given"):
        trial_images("separation", images, None, tmp_path, config)


def test_a_run_of_one_category_takes_no_name(finished: Path) -> None:
    with pytest.raises(ConfigError, match="the run is of one category, whose images need no name"):
        llb_ray.Detector.load(finished, category="weave")


def test_a_category_with_too_few_images_is_refused_at_once(products: Path, config: RunConfig, tmp_path: Path) -> None:
    images = llb_ray.read_manifest(products / "products.arrow", config=config)
    table = images.table
    gears = [number for number, name in enumerate(table["category"].to_pylist()) if name == "gear"]
    few = [*gears[:9], *(number for number in range(len(table)) if number not in gears)]
    images = llb_ray.Manifest.of(images.root, table.take(sorted(few)))
    with pytest.raises(DataError, match="category gear: has [0-9] training images, and one of several needs 10"):
        llb_ray.run(config, images, out=tmp_path / "run", executor="serial")


def test_a_category_is_named_where_only_some_are_meant(products: Path, config: RunConfig) -> None:
    path = products / "products.arrow"
    assert set(llb_ray.read_manifest(path, "gear", config).table["category"].to_pylist()) == {"gear"}
    assert set(llb_ray.read_manifest(path, NAMES, config).table["category"].to_pylist()) == set(NAMES)
    with pytest.raises(DataError, match="did you mean 'gear'"):
        llb_ray.read_manifest(path, ["weave", "gaer"], config)


def test_rounds_judge_all_categories_on_one_scale(products: Path, tiny_bank: RunConfig, tmp_path: Path) -> None:
    settings = ["purify.rounds=2", "threshold.folds=2", "purify.keep_ratio=auto", "data.group_pattern=null"]
    config = with_overrides(tiny_bank, settings)
    images = llb_ray.read_manifest(products / "products.arrow", config=config)
    llb_ray.run(config, images, out=tmp_path / "run", executor="serial")
    llb_ray.audit(tmp_path / "run", rescore=None)
