"""Runs that share a store make what they have in common once, even at the same time, and stay whole runs."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import with_overrides
from llb_ray.detectors.base import Report
from llb_ray.engine.workers import fitter
from tests.support import final_files


def _published(run: Path) -> dict[str, str]:
    return {name: digest for name, digest in final_files(run).items() if "artifacts" not in name}


def test_runs_at_the_same_time_train_a_common_member_once(
    photos: Path, tiny: RunConfig, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[str] = []
    fit = fitter.Member._fitted

    def counted(self: fitter.Member, report: Report) -> Any:
        fitted.append(self._spec.name)
        return fit(self, report)

    monkeypatch.setattr(fitter.Member, "_fitted", counted)
    manifest = llb_ray.read_folder(photos, tiny)

    def trial(number: int) -> Path:
        config = with_overrides(tiny, [f"purify.keep_ratio={(0.75, 0.9, 0.5, 0.75)[number]}"])
        out = tmp_path / "trials" / str(number)
        return llb_ray.run(config, manifest, out=out, executor="serial", store=tmp_path / "store").path

    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(trial, range(4)))
    # Three members, and a final detector for each of three keep ratios; 0.9 rejects too few to do without folds.
    folds, members = [f"fold-{index:03d}" for index in range(5)], [f"member-{index:03d}" for index in range(3)]
    assert sorted(fitted) == [*["final"] * 3, *folds, *members]
    for run in runs:
        assert llb_ray.audit(run)
        assert not (run / "artifacts").exists()
    alone, shared = _published(finished), _published(runs[0])
    assert alone.pop("run.json") != shared.pop("run.json")
    assert alone == shared


def test_a_run_and_its_store_may_move_together(photos: Path, tiny: RunConfig, tmp_path: Path) -> None:
    manifest = llb_ray.read_folder(photos, tiny)
    llb_ray.run(tiny, manifest, out=tmp_path / "old" / "run", executor="serial", store=tmp_path / "old" / "store")
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert llb_ray.audit(tmp_path / "new" / "run")
    assert llb_ray.predict(tmp_path / "new" / "run", photos / "test", out=tmp_path / "scores").num_scored


def test_runs_of_one_store_go_different_ways(
    photos: Path, tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that went the same way would wait for each other at every member."""
    config = with_overrides(tiny, ["members.count=6", "detector.member_steps=1", "detector.final_steps=1"])
    manifest, began = llb_ray.read_folder(photos, config), list[str]()
    fit = fitter.Member._fitted

    def noted(self: fitter.Member, report: Report) -> Any:
        began.append(self._spec.name)
        return fit(self, report)

    def members_of(out: str, store: str | None) -> list[str]:
        began.clear()
        shared = None if store is None else tmp_path / store
        llb_ray.run(config, manifest, out=tmp_path / out, executor="serial", store=shared)
        return began[:6]

    monkeypatch.setattr(fitter.Member, "_fitted", noted)
    alone = members_of("alone", None)
    ways = [members_of(out, f"store of {out}") for out in ("one", "another", "a third")]
    assert alone == sorted(alone)
    assert all(sorted(way) == alone for way in ways)
    assert len(set(map(tuple, ways))) > 1
