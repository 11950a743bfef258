"""Reasons: which round, by how much, where; and the counts of a page are those of its run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import llb_ray
from llb_ray import RunConfig
from llb_ray.config import with_overrides
from llb_ray.data.tables import read_table


def _columns(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="columns">(.*?)</script>', page)
    columns: dict[str, Any] = json.loads(text)
    return columns


@pytest.fixture(scope="module")
def two_rounds(photos: Path, tiny: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rounds") / "run"
    config = with_overrides(tiny, ["purify.rounds=2"])
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=out, executor="serial")
    return out


def test_a_page_of_one_round_says_where_and_by_how_much(finished: Path) -> None:
    columns = _columns(llb_ray.write_report(finished).read_text())
    assert len(columns["rounds"]) == 1
    for kept, value, reason in zip(columns["kept"], columns["aggregate"], columns["reason"], strict=True):
        decided, place, members = reason.splitlines()
        side = "within" if kept else "above"
        start = f"{'Kept' if kept else 'Rejected'} by the filter: its mean rank over the members is {value:.4g}"
        assert decided.startswith(f"{start[:-1]}"), decided
        assert f", {side} the cut at {columns['cut']:.4g} (rank " in decided
        assert place.startswith(("Most unusual ", "Nowhere above the range"))
        assert re.fullmatch(r"\d of the 2 members asked would reject it alone; .* than \d.* % of the images\.", members)


def test_each_round_says_what_it_decided_and_the_last_one_first(two_rounds: Path) -> None:
    page = llb_ray.write_report(two_rounds).read_text()
    columns = _columns(page)
    first, last = columns["rounds"]
    assert last == columns["kept"]
    for before, kept, reason in zip(first, last, columns["reason"], strict=True):
        lines = reason.splitlines()
        assert lines[0].startswith(f"{'Kept' if kept else 'Rejected'} by round 2: its score by a detector that had not")
        assert lines[1].startswith(f"Round 1 had {'kept' if before else 'rejected'} it: its mean rank over the members")
        assert lines[-1].startswith("In round 1, ")
    assert "Members decide in round 1 and in no other" in page


@pytest.mark.parametrize("overridden", [False, True])
def test_the_first_sentence_has_the_counts_of_the_tiles(overridden: bool, two_rounds: Path, tmp_path: Path) -> None:
    run = two_rounds
    if overridden:
        rows = read_table(run / "purified" / "part-0.arrow").to_pylist()
        rejected = [row["image_id"] for row in rows if row["decision"] == "rejected"][:2]
        words = "image_id,decision\n" + "".join(f"{one},keep\n" for one in rejected)
        (tmp_path / "o.csv").write_text(words)
        run = llb_ray.repurify(run, tmp_path / "o.csv", out=tmp_path / "run", by="Ada", executor="serial").path
    page = llb_ray.write_report(run).read_text()
    kept = sum(_columns(page)["kept"])
    assert f"Of 48 training images, {kept} are kept and {48 - kept} rejected. Round 1 kept the 36 most" in page
    assert f"<b>{kept}</b><span>kept</span>" in page
    by_hand = [reason for reason in _columns(page)["reason"] if reason.startswith("Kept by hand (Ada). Without that: ")]
    assert len(by_hand) == (2 if overridden else 0)


@pytest.mark.parametrize("name", ["none", "random", "oracle"])
def test_a_filter_without_scores_says_its_own_reason_and_where(
    name: str, photos: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    config = with_overrides(tiny, [f"purify.filter={name}", "threshold.method=none"])
    llb_ray.run(config, llb_ray.read_folder(photos, config), out=tmp_path / "run", executor="serial")
    for reason in _columns(llb_ray.write_report(tmp_path / "run").read_text())["reason"]:
        decided, place = reason.splitlines()
        assert re.match(rf"(Kept|Rejected) by the filter: (filter )?{name}", decided)
        assert place.startswith(("Most unusual ", "Nowhere above the range"))
