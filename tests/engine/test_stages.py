"""Which change reruns which stage, and that a folder with a history publishes what a new folder would."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow.compute as pc
import pytest
import safetensors.torch
import torch
from PIL import Image

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import with_overrides
from llb_ray.data.tables import read_table
from llb_ray.detectors.base import Detector, Layers, Scores
from llb_ray.engine.evaluation import evaluate
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.pipeline.pipeline import Result
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.engine.workers.scorer import map_batch, score_batch
from llb_ray.errors import MemberError
from tests.support import final_files

ALL = (
    "manifest labels partition features members member-scores scores purify "
    "final final-scores held-out-maps threshold evaluate"
)

FOLDS = "folds fold-scores"  # where there are no members whose held-out scores the threshold could come from

# `final?` is expected exactly where the kept set changed.
SETTINGS = [
    ("seed=1", "partition members member-scores scores purify final final-scores held-out-maps threshold evaluate"),
    ("members.count=4", "partition members member-scores scores purify final? held-out-maps threshold evaluate"),
    ("detector.member_steps=30", "members member-scores scores purify final? held-out-maps threshold evaluate"),
    ("detector.final_steps=25", "final final-scores threshold evaluate"),
    (
        "detector.image_size_px=48",
        "features members member-scores scores purify final final-scores held-out-maps threshold evaluate",
    ),
    ("threshold.false_alarm_rate=0.05", "threshold"),
    ("threshold.normals=all", "threshold"),
    ("threshold.normals=bulk", "threshold"),
    ("threshold.method=none", ""),
    ("threshold.method=folds", f"{FOLDS} held-out-maps threshold"),
    ("threshold.folds=3", ""),
    ("evaluation.sigma_px=2.5", "threshold evaluate"),
    ("evaluation.fpr_limit=0.1", "evaluate"),
    ("purify.keep_ratio=0.5", "purify final final-scores held-out-maps threshold evaluate"),
    ("purify.filter=none", f"purify {FOLDS} final final-scores held-out-maps threshold evaluate"),
    ("purify.filter=random", f"purify {FOLDS} final final-scores held-out-maps threshold evaluate"),
    ("purify.filter=oracle", f"purify {FOLDS} final final-scores held-out-maps threshold evaluate"),
    # Without it the views of an object are near duplicates, which are named.
    (
        "data.group_pattern=null",
        "manifest near-duplicates partition members member-scores scores purify final? "
        "held-out-maps threshold evaluate",
    ),
    (r"data.group_pattern=obj(\d+)", "manifest partition purify threshold evaluate"),
]
RESOURCES = ["resources.num_cpus=2", "resources.batch_size=5", "resources.max_restarts=0"]


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def moved(photos: Path, tmp_path: Path) -> Path:
    """The photographs in a folder that may be changed; its name stays, because it names the category."""
    return Path(shutil.copytree(photos, tmp_path / "photos" / photos.name))


def _again(config: RunConfig, photos: Path, out: Path) -> Result:
    return llb_ray.run(config, llb_ray.read_folder(photos, config), out=out, executor="serial")


def _rerun(result: Result) -> list[str]:
    return [time.stage for time in result.times if not time.reused]


def _kept(run: Path) -> list[str]:
    purified = read_table(run / "purified" / "part-0.arrow")
    kept: list[str] = purified.filter(pc.equal(purified["decision"], "kept"))["image_id"].to_pylist()
    return kept


def _published(run: Path) -> dict[str, str]:
    return {
        name: digest
        for name, digest in final_files(run).items()
        if name != "config.yaml" and not name.startswith("artifacts/")
    }


@pytest.mark.parametrize(("setting", "stages"), SETTINGS, ids=[setting for setting, _ in SETTINGS])
def test_a_setting_reruns_what_it_needs_and_gives_what_a_fresh_run_gives(
    setting: str, stages: str, run: Path, finished: Path, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    config = with_overrides(tiny, [setting])
    result = _again(config, photos, run)
    final = "final final-scores" if _kept(run) != _kept(finished) else ""
    assert _rerun(result) == stages.replace("final?", final).split()
    _again(config, photos, tmp_path / "fresh")
    assert _published(run) == _published(tmp_path / "fresh")
    assert llb_ray.audit(run)


@pytest.mark.parametrize("setting", RESOURCES)
def test_a_machine_with_other_resources_keeps_what_is_finished(
    setting: str, run: Path, finished: Path, photos: Path, tiny: RunConfig
) -> None:
    assert _rerun(_again(with_overrides(tiny, [setting]), photos, run)) == []
    assert _published(run) == _published(finished)


def test_the_seed_alone_trains_the_final_detector_anew(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    config = with_overrides(tiny, ["purify.filter=none"])
    first = _again(config, photos, tmp_path)
    again = f"purify {FOLDS} final final-scores held-out-maps threshold evaluate".split()
    assert _rerun(first) == ["manifest", "labels", "features", *again]
    assert _rerun(_again(with_overrides(config, ["seed=1"]), photos, tmp_path)) == again


def test_going_back_to_an_earlier_setting_does_nothing(
    run: Path, finished: Path, photos: Path, tiny: RunConfig
) -> None:
    _again(with_overrides(tiny, ["seed=1"]), photos, run)
    _again(with_overrides(tiny, ["purify.filter=none"]), photos, run)
    assert not (run / "scores.arrow").exists()
    assert _rerun(_again(tiny, photos, run)) == []
    assert _published(run) == _published(finished)


def _edit_a_mask(photos: Path) -> None:
    image = min(path for path in (photos / "test").rglob("*.png") if path.parent.name != "good")
    mask = photos / "ground_truth" / image.parent.name / f"{image.stem}_mask.png"
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)


def _rename(image: Path) -> None:
    image.rename(image.with_name(f"{image.stem}_again.png"))


def _add_a_training_image(photos: Path) -> None:
    Image.new("RGB", (48, 48), "grey").save(photos / "train" / "good" / "obj9999_view0.png")


CHANGES: list[tuple[str, Callable[[Path], None], str]] = [
    ("a copied folder", lambda photos: None, ""),
    ("an edited test mask", _edit_a_mask, "evaluate"),
    ("a renamed test image", lambda photos: _rename(_first(photos, "test")), "manifest purify evaluate"),
    ("a renamed training image", lambda photos: _rename(_first(photos, "train")), "manifest purify threshold evaluate"),
    ("an added training image", _add_a_training_image, ALL),
]


def _first(photos: Path, split: str) -> Path:
    return min((photos / split / "good").glob("*.png"))


@pytest.mark.parametrize(("change", "stages"), [change[1:] for change in CHANGES], ids=[what for what, *_ in CHANGES])
def test_changed_images_rerun_what_they_change(
    change: Callable[[Path], None], stages: str, run: Path, moved: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    change(moved)
    assert _rerun(_again(tiny, moved, run)) == stages.split()
    _again(tiny, moved, tmp_path / "fresh")
    assert _published(run) == _published(tmp_path / "fresh")
    assert llb_ray.audit(run)


def test_an_edited_mask_changes_the_pixel_metrics(run: Path, finished: Path, moved: Path, tiny: RunConfig) -> None:
    _edit_a_mask(moved)
    _again(tiny, moved, run)
    assert (run / "metrics.json").read_bytes() != (finished / "metrics.json").read_bytes()


def test_weights_enter_by_content_and_not_by_path(
    finished_bank: Path, photos: Path, tiny_bank: RunConfig, bank_weights: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_bank, tmp_path / "run"))
    elsewhere = Path(shutil.copy(bank_weights, tmp_path / "elsewhere.safetensors"))
    config = with_overrides(tiny_bank, [f"detector.backbone.weights={elsewhere}"])
    assert _rerun(_again(config, photos, run)) == []
    state = safetensors.torch.load_file(elsewhere)
    generator = torch.Generator().manual_seed(9)
    name = next(name for name, tensor in state.items() if tensor.ndim == 4)
    state[name] = torch.randn(state[name].shape, generator=generator)
    safetensors.torch.save_file(state, elsewhere)
    assert _rerun(_again(config, photos, run)) == ALL.split()[3:]
    _again(config, photos, tmp_path / "fresh")
    assert _published(run) == _published(tmp_path / "fresh")


class Says:
    """A detector with an opinion that does not depend on the picture."""

    def __init__(self, *scores: float) -> None:
        self.scores = Scores(
            np.array(scores, np.float32), np.arange(16 * len(scores), dtype=np.float32).reshape(-1, 4, 4)
        )

    def score(self, layers: Layers) -> Scores:
        return self.scores


def _detectors(**says: Says) -> dict[str, Detector]:
    return cast(dict[str, Detector], says)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused_with_the_image_it_is_of(value: float) -> None:
    detectors = _detectors(first=Says(1, 2, 3), second=Says(1, value, 2))
    with pytest.raises(MemberError, match="^second gave image b the score .*(nan|inf)"):
        score_batch(detectors, ["a", "b", "c"], ())


def test_every_detector_scores_every_image_of_a_batch() -> None:
    batch = score_batch(_detectors(first=Says(1, 2), second=Says(3, 4)), ["a", "b"], ())
    assert batch.to_pydict() == {"image_id": ["a", "b"], "scores": [[1, 3], [2, 4]]}


def test_the_final_detector_keeps_its_maps() -> None:
    final = Says(0, 1)
    batch = map_batch("final", cast(Detector, final), ["a", "b"], (torch.ones(2, 3, 4, 4),))
    assert np.array_equal(batch.column("map").to_numpy_ndarray(), final.scores.map_NHW)
    assert batch.column("score").to_pylist() == [0, 1]


def test_an_estimated_keep_ratio_leaves_what_it_was_estimated_from(
    photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    config = with_overrides(tiny, ["purify.keep_ratio=auto"])
    result = llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path, executor="serial")
    found = json.loads((tmp_path / "contamination.json").read_text())
    assert 0 <= found["low"] <= found["high"] <= 0.5
    assert result.num_rejected == round(found["share"] * 48)
    assert read_table(tmp_path / "what_if.arrow")["num_kept"][-1].as_py() == 48
    assert llb_ray.audit(tmp_path)


@pytest.mark.parametrize(("rival", "num_members"), [("softpatch", 0), ("srr", 3), ("memory_ensemble", 4)])
def test_a_rival_is_one_word(photos: Path, tiny_bank: RunConfig, tmp_path: Path, rival: str, num_members: int) -> None:
    config = with_overrides(tiny_bank, [f"purify.filter={rival}", "purify.memories=4"])
    result = llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path, executor="serial")
    assert llb_ray.audit(tmp_path)
    finished = FinishedRun(RunFolder.open(tmp_path), None).made
    members = finished.by_number()
    assert len(members) == num_members
    kind = "plain" if rival == "memory_ensemble" else "placed"
    assert all(fitted.settings["detector"]["memory"] == kind for fitted in members.values())
    assert finished.final.settings["detector"]["memory"] == ("softpatch" if rival == "softpatch" else "placed")
    assert 24 <= result.num_kept <= 48


def test_members_may_screen_with_another_detector_than_the_final_one(
    photos: Path, tiny_bank: RunConfig, tmp_path: Path
) -> None:
    config = with_overrides(tiny_bank, ["members.detector=density", "purify.keep_ratio=auto"])
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path, executor="serial")
    assert llb_ray.audit(tmp_path)
    finished = FinishedRun(RunFolder.open(tmp_path), None).made
    kinds = [fitted.settings["detector"]["name"] for fitted in (*finished.by_number().values(), finished.final)]
    assert kinds == ["density"] * 3 + ["memory_bank"]


def test_counted_pixels_are_among_what_a_run_is_made_of(
    photos: Path, tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "EXACT_PIXELS", 0)
    llb_ray.run(tiny, llb_ray.read_folder(photos, tiny), out=tmp_path, executor="serial")
    assert FinishedRun(RunFolder.open(tmp_path), None).made.pixel_counts
    assert llb_ray.audit(tmp_path)
