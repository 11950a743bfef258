"""A search on a real Ray: trials share their work, a refused one is listed, an interrupted one goes on."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import llb_ray
from llb_ray import Manifest, RunConfig
from llb_ray.config import load, parse, with_overrides
from llb_ray.data.synthetic import SyntheticConfig, write_synthetic
from llb_ray.distributed import tuning
from llb_ray.errors import ConfigError
from llb_ray.search.search_plan import Search, trial_images
from llb_ray.search.search_record import record_search, refuse_another
from llb_ray.search.space import Choice, Integer, Space, Uniform, read_space, trial_config

SPACES = Path(__file__).parents[2] / "configs" / "spaces"
pytestmark = pytest.mark.ray
GRID = Space({"members.count": Choice((2, 3)), "purify.keep_ratio": Choice((0.6, 0.8)), "purify.trim": Choice((0.25,))})


@pytest.fixture(scope="module")
def many(tiny: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Enough images to hold some back."""
    root = tmp_path_factory.mktemp("many")
    write_synthetic(root, SyntheticConfig(("weave",), train_objects=64, test_objects=8, alpha=0.25, size_px=48))
    return llb_ray.read_folder(root / "weave", tiny)


@pytest.fixture
def manifest(photos: Path, tiny: RunConfig) -> Manifest:
    return llb_ray.read_folder(photos, tiny)


def _fits(out: Path) -> list[str]:
    records = (json.loads(record.read_text()) for record in (out / "artifacts" / "fit").glob("*/record.json"))
    return sorted(record["settings"]["role"] for record in records)


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_local")
def test_a_search_trains_what_trials_share_once_and_goes_on_after_a_stop(
    manifest: Manifest, tiny: RunConfig, tmp_path: Path
) -> None:
    lines: list[str] = []
    trials = llb_ray.tune(tiny, manifest, GRID, out=tmp_path, objective="separation", tell=lines.append)
    assert trials.num_rows == 4
    assert set(trials["status"].to_pylist()) == {"finished"}
    assert len([line for line in lines if line.startswith("trial")]) == 4
    assert _fits(tmp_path) == ["final"] * 4 + ["member"] * (2 + 3)
    assert {path.name for path in tmp_path.iterdir()} >= {"best.yaml", "trials.parquet", "trials.png"}
    best = load(tmp_path / "best.yaml")
    winner = max(trials.to_pylist(), key=lambda row: row["objective"])
    assert (best.members.count, best.purify.keep_ratio) == (winner["members.count"], winner["purify.keep_ratio"])
    assert pq.read_table(tmp_path / "trials.parquet").equals(trials)
    for run in trials["run"].to_pylist():
        assert llb_ray.audit(run)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("artifacts/fit/*/record.json")}
    shutil.rmtree(next(iter(before)).parent)
    again = llb_ray.tune(tiny, manifest, GRID, out=tmp_path, objective="separation", resume=True)
    assert again["objective"].to_pylist() == trials["objective"].to_pylist()


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_local")
def test_a_trial_of_several_workers_and_one_that_is_refused(many: Manifest, tiny: RunConfig, tmp_path: Path) -> None:
    # Three held-out scores are enough to trim a third of, one is not.
    base = with_overrides(tiny, ["purify.aggregate=mean"])
    space = Space(
        {"members.count": Choice((4, 2)), "purify.aggregate": Choice(("trimmed_mean",)), "purify.trim": Choice((0.4,))}
    )
    trials = llb_ray.tune(base, many, space, out=tmp_path, workers_per_trial=2)
    good, refused = sorted(trials.to_pylist(), key=lambda row: -row["members.count"])
    assert good["status"] == "finished"
    assert refused["objective"] is None
    assert "cuts none; raise it or members.count" in refused["reason"]


def test_no_trial_sees_a_label_or_the_test_split(many: Manifest, tiny: RunConfig, tmp_path: Path) -> None:
    test = set(many.image_ids("test"))
    for objective in ("canary", "split_half", "separation"):
        judged = trial_images(objective, many, None, tmp_path, tiny)
        assert not test & set(judged.table["image_id"].to_pylist())
        assert judged.table["label"].null_count == judged.table["mask_path"].null_count == judged.table.num_rows


def test_a_validation_folder_and_its_objective_belong_together(
    manifest: Manifest, tiny: RunConfig, tmp_path: Path
) -> None:
    for objective, folder in (("canary", tmp_path), ("val_auroc", None)):
        with pytest.raises(ConfigError, match="belong together"):
            trial_images(objective, manifest, folder, tmp_path, tiny)


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"objective": "test_auroc"}, "objective 'test_auroc' is unknown; choose one of canary"),
        ({"trials": 3}, "a grid has as many trials as it has points"),
        ({"searcher": "random"}, "searcher random needs to know how many trials"),
        ({"space": Space({"purify.keep_ratio": Uniform(0.5, 1)})}, "has no end of values"),
        (
            {"base": parse({"final": {"num_workers": 2}, "detector": {"name": "autoencoder"}})},
            "a trial of a search trains its final detector in one worker",
        ),
        ({"early_stopping": True, "base": parse({"detector": {"name": "memory_bank"}})}, "memory_bank takes none"),
    ],
)
def test_a_search_that_cannot_be_is_refused(
    choices: dict[str, object], sentence: str, manifest: Manifest, tiny: RunConfig, tmp_path: Path
) -> None:
    given = {"base": tiny, "space": GRID, "manifest": manifest, "out": tmp_path} | choices
    with pytest.raises(ConfigError, match=sentence):
        Search(**given)  # type: ignore[arg-type]


def test_a_trial_has_a_folder_of_its_own_named_for_people(manifest: Manifest, tiny: RunConfig, tmp_path: Path) -> None:
    plan = Search(tiny, GRID, manifest, tmp_path)
    names = [plan.folder(values).name for values in GRID.grid()]
    assert names[0].startswith("count=2_keep_ratio=0.6_trim=0.25_")
    odd = {"detector.backbone.layers": (1, "/.."), "detector.name": "x" * 300}
    assert plan.folder(odd).parent == tmp_path / "trials"
    assert len({*names, plan.folder(odd).name}) == len(names) + 1
    assert len(plan.folder(odd).name) < 100


@pytest.mark.usefixtures("ray_local")
def test_optuna_that_is_not_there_is_named(
    manifest: Manifest, tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.tune.search.optuna.optuna_search.ot", None)
    plan = Search(tiny, GRID, manifest, tmp_path, searcher="optuna", trials=2)
    with pytest.raises(ConfigError, match=r"optuna package is not installed; pip install 'llb-ray\[optuna\]'"):
        tuning.run_trials(plan, print)


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_local")
def test_optuna_searches_ranges(many: Manifest, tiny: RunConfig, tmp_path: Path) -> None:
    space = Space({"members.count": Integer(2, 3), "purify.keep_ratio": Uniform(0.6, 0.9)})
    trials = llb_ray.tune(tiny, many, space, out=tmp_path, searcher="optuna", trials=3, early_stopping=True)
    assert set(trials["status"].to_pylist()) <= {"finished", "stopped early"}
    assert "finished" in trials["status"].to_pylist()
    assert len(set(trials["purify.keep_ratio"].to_pylist())) == 3


@pytest.mark.usefixtures("ray_local")
def test_there_is_nothing_to_resume(manifest: Manifest, tiny: RunConfig, tmp_path: Path) -> None:
    plan = Search(tiny, GRID, manifest, tmp_path)
    with pytest.raises(ConfigError, match="no interrupted search to resume here"):
        tuning.run_trials(plan, print, resume=True)


@pytest.mark.usefixtures("ray_local")
def test_a_search_that_was_stopped_before_its_first_trial_starts_again(
    manifest: Manifest, tiny: RunConfig, tmp_path: Path
) -> None:
    plan, lines = Search(tiny, GRID, manifest, tmp_path), list[str]()
    record_search(plan)
    (tmp_path / "tune").mkdir()
    (tmp_path / "tune" / "tuner.pkl").touch()  # Tune writes it first, and then waits for resources
    tuning._tuner(plan, lines.append, resume=True)  # unpickles nothing, or the empty file would raise
    assert lines == ["the search was stopped before its first trial; starting it again"]


@pytest.mark.parametrize("error", [None, RuntimeError("its process died")])
def test_a_trial_that_reported_nothing_has_its_values_or_had_not_begun(error: Exception | None, tmp_path: Path) -> None:
    result = SimpleNamespace(config=None, metrics={}, error=error, path=str(tmp_path))
    assert tuning._values_of(result) is None
    (tmp_path / "params.json").write_text('{"purify.keep_ratio": 0.7}')
    assert tuning._values_of(result) == {"purify.keep_ratio": 0.7}


@pytest.mark.parametrize("metrics", [None, {}, {"trial_id": "a"}, {"config": {"members.count": 2}}])
@pytest.mark.usefixtures("ray_local")
def test_a_search_that_was_stopped_before_any_trial_ended_is_an_interruption(
    metrics: dict[str, Any] | None, manifest: Manifest, tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = (metrics or {}).get("config")
    results = [SimpleNamespace(config=config, metrics=metrics, error=None, path=str(tmp_path))]
    monkeypatch.setattr(tuning, "_tuner", lambda *_: SimpleNamespace(fit=lambda: results))
    with pytest.raises(KeyboardInterrupt):
        tuning.run_trials(Search(tiny, GRID, manifest, tmp_path), print)


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_local")
def test_the_mission_is_searched_end_to_end(many: Manifest, tiny: RunConfig, tmp_path: Path) -> None:
    base = with_overrides(tiny, ["detector.final_steps=20"])
    space = read_space(SPACES / "mission.yaml", base)
    trials = llb_ray.tune(base, many, space, out=tmp_path, searcher="random", trials=2)
    assert trials["status"].to_pylist() == ["finished"] * 2, trials["reason"].to_pylist()
    assert all(0 <= share <= 1 for share in trials["fell_back"].to_pylist())
    best = load(tmp_path / "best.yaml")
    assert best.importance.mode == "moments"
    assert 0.7 <= best.purify.keep_ratio <= 1
    for run in trials["run"].to_pylist():
        assert (Path(run) / "importance.arrow").exists()
        assert llb_ray.audit(run)


@pytest.mark.parametrize(
    "config", ["reconstruction_cnn.yaml", "autoencoder.yaml", "dinomaly.yaml"], ids=lambda name: name.split(".")[0]
)
def test_the_mission_names_partitions_keep_ratio_and_target(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SPACES.parent)
    space = read_space(SPACES / "mission.yaml", load(SPACES.parent / config))
    assert {"members.count", "purify.keep_ratio", "importance.mu_scale", "importance.sigma_scale"} < set(space.domains)
    draws = [
        trial_config(load(SPACES.parent / config), space.sample(np.random.default_rng(seed))) for seed in range(20)
    ]
    assert not [notice for config in draws for notice in config.notices()]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"objective": "split_half"}, "objective was 'canary', is 'split_half'"),
        ({"space": Space({"members.count": Choice((2, 4))})}, r"space.members.count was .*2, 3.* is .*2, 4"),
        ({"searcher": "random", "trials": 3}, "searcher was 'grid', is 'random'"),
        ({"early_stopping": True}, "early_stopping was 'False', is 'True'"),
        ({"base": ["detector.final_steps=77"]}, "detector.final_steps was '.*', is '77'"),
        ({"base": ["seed=9"]}, "seed was '0', is '9'"),
    ],
)
def test_another_search_is_not_resumed_as_this_one(
    other: dict[str, Any], says: str, manifest: Manifest, tiny: RunConfig, tmp_path: Path
) -> None:
    given = {"base": tiny, "space": Space({"members.count": Choice((2, 3))}), "manifest": manifest, "out": tmp_path}
    record_search(Search(**given))
    refuse_another(Search(**given, max_concurrent=2, workers_per_trial=2))
    changed = other | ({"base": with_overrides(tiny, other["base"])} if "base" in other else {})
    with pytest.raises(ConfigError, match=f"the search to resume had other settings: .*{says}") as refused:
        refuse_another(Search(**{**given, **changed}))
    assert "\n" not in str(refused.value)


def test_a_search_of_other_images_is_another(
    manifest: Manifest, many: Manifest, tiny: RunConfig, tmp_path: Path
) -> None:
    record_search(Search(tiny, GRID, manifest, tmp_path))
    with pytest.raises(ConfigError, match="images was"):
        refuse_another(Search(tiny, GRID, many, tmp_path))
    (tmp_path / "search.json").write_text("[1")
    with pytest.raises(ConfigError, match="search.json: damaged; leave --resume out"):
        refuse_another(Search(tiny, GRID, manifest, tmp_path))
    (tmp_path / "search.json").unlink()
    with pytest.raises(ConfigError, match="no interrupted search to resume here"):
        refuse_another(Search(tiny, GRID, manifest, tmp_path))
