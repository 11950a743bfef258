"""Votes: a member objects to what it would have thrown out, and is not asked about what it trained on."""

from pathlib import Path

import numpy as np
import pytest

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import with_overrides
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.report.member_agreement import Votes, agreements


def _votes(run: Path) -> tuple[FinishedRun, Votes]:
    finished = FinishedRun(RunFolder.open(run), None)
    votes = Votes.of(finished)
    assert votes is not None
    return finished, votes


def test_each_member_objects_to_as_large_a_share_as_was_rejected(finished: Path) -> None:
    run, votes = _votes(finished)
    assert votes.objects_NK.sum(axis=0).tolist() == [8, 8, 8]  # a quarter of the 32 that each was asked about
    assert not votes.objects_NK[votes.in_fold_NK].any()
    assert (votes.asked_NK == ~votes.in_fold_NK).all()
    assert run.matrix is not None
    for row in run.matrix.to_pylist():
        n = votes.image_ids.index(row["image_id"])
        for member in range(3):
            asked = [other["scores"][member] for other in run.matrix.to_pylist() if other["in_fold"] != member]
            higher = sum(score >= row["scores"][member] for score in asked)
            assert votes.objects_NK[n, member] == (row["in_fold"] != member and higher <= 8)


def test_codes_hold_percentile_and_objection(finished: Path) -> None:
    _, votes = _votes(finished)
    codes = votes.codes()
    assert (codes[~votes.asked_NK] == 255).all()
    assert ((codes >= 128) & (codes < 255) == votes.objects_NK).all()
    asked = codes[votes.asked_NK] % 128
    assert (asked.min(), asked.max()) == (4, 100)


def test_with_all_members_asked_the_trained_one_votes_too(
    finished: Path, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    config = with_overrides(tiny, ["purify.members=all"])
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path, executor="serial")
    _, votes = _votes(tmp_path)
    assert votes.asked_NK.all()
    assert votes.in_fold_NK.sum() == 48


def test_agreement_is_with_the_others_and_with_the_decision(finished: Path) -> None:
    run, votes = _votes(finished)
    found = agreements(votes, run.purified)
    assert [(row.member, row.num_trained_on, row.num_asked, row.num_objections) for row in found] == [
        (member, 16, 32, 8) for member in range(3)
    ]
    rejected_N = np.array([decision == "rejected" for decision in run.purified["decision"].to_pylist()])
    for row in found:
        asked_N = votes.asked_NK[:, row.member]
        agreed = (votes.objects_NK[:, row.member] == rejected_N)[asked_N].mean()
        assert row.with_decision == pytest.approx(agreed)
        assert row.with_others is not None
        assert -1 <= row.with_others <= 1
