"""The figures behind `llb-ray certify`, on rows made by hand."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from rich.console import Console

from llb_ray.report.robustness_table import show_robustness
from llb_ray.scans.job_results import ROWS
from llb_ray.scans.robustness import Robustness, mean_gap_closed, missing_cells, robustness


def row(alpha: float | None, name: str, seed: int, i_auroc: float | None, **more: Any) -> dict[str, Any]:
    job = {"category": "cap", "alpha": alpha, "filter": name, "seed": seed}
    return {
        **job,
        "status": "done",
        "setting": "s",
        "i_auroc": i_auroc,
        "seconds": 2.0,
        "images_per_second": 5.0,
        **more,
    }


def _made(*rows: dict[str, Any]) -> list[Robustness]:
    return robustness(pa.Table.from_pylist(list(rows), ROWS))


def _one(made: list[Robustness], alpha: float, name: str) -> Robustness:
    (found,) = [line for line in made if (line.alpha, line.filter) == (alpha, name)]
    return found


NOISY = [
    *(row(0.2, "none", seed, 0.70 + shift) for seed, shift in enumerate((0.02, -0.02))),
    *(row(0.2, "oracle", seed, 0.90 + shift) for seed, shift in enumerate((0.02, -0.02))),
    *(
        row(0.2, "llb", seed, 0.85 + shift, estimated_contamination=0.2 + shift)
        for seed, shift in enumerate((0.02, -0.02))
    ),
]


def test_the_share_of_the_gap_is_that_of_the_means() -> None:
    made = _made(*NOISY)
    assert _one(made, 0.2, "llb").gap_closed == pytest.approx((0.75, 0.75, 0.75)), "what all filters share cancels"
    assert _one(made, 0.2, "none").gap_closed == pytest.approx((0, 0, 0))
    assert _one(made, 0.2, "oracle").gap_closed == pytest.approx((1, 1, 1))
    assert mean_gap_closed(made, "llb") == pytest.approx(0.75)


def test_an_interval_holds_the_seeds_mean_and_no_more_than_their_range() -> None:
    figure = _one(_made(*NOISY), 0.2, "llb").i_auroc
    assert figure is not None
    assert figure == pytest.approx((0.85, 0.83, 0.87))


def test_a_gap_that_is_noise_is_undefined_and_harm_is_told_all_the_same() -> None:
    made = _made(row(0.0, "none", 0, 0.9), row(0.0, "oracle", 0, 0.9), row(0.0, "llb", 0, 0.88))
    line = _one(made, 0.0, "llb")
    assert line.gap_closed is None
    assert line.harm == pytest.approx(0.02)
    assert mean_gap_closed(made, "llb") is None


def test_gaps_are_taken_over_common_seeds_only() -> None:
    made = _made(*NOISY, row(0.2, "llb", 7, 0.1))
    assert _one(made, 0.2, "llb").gap_closed == pytest.approx((0.75, 0.75, 0.75))
    assert _one(made, 0.2, "llb").num_seeds == 3


HARD = [
    row(0.2, name, seed, figure, category=category)
    for category, figures in (("cap", (0.7, 0.9, 0.9)), ("usb", (0.5, 0.5, 0.9)))
    for name, figure in zip(("none", "llb", "oracle"), figures, strict=True)
    for seed in (0, 1)
]


@pytest.mark.parametrize("lost", [("llb", 0), ("oracle", 1), ("none", 1)])
def test_a_filter_whose_hard_job_failed_has_no_better_mean(lost: tuple[str, int]) -> None:
    rivals = [{**line, "filter": "srr"} for line in HARD if line["filter"] == "llb"]
    rows = [line for line in [*HARD, *rivals] if (line["category"], line["filter"], line["seed"]) != ("usb", *lost)]
    made = _made(*rows)
    assert mean_gap_closed(made, "llb") == mean_gap_closed(made, "srr") == pytest.approx(1)
    assert missing_cells(made) == ["averages leave out usb at alpha 0.2, where not every filter and seed has a figure"]
    whole = _made(*HARD, *rivals)
    assert mean_gap_closed(whole, "llb") == pytest.approx(0.5)
    assert missing_cells(whole) == []


def test_the_estimates_error_is_absolute() -> None:
    assert _one(_made(*NOISY), 0.2, "llb").estimate_error == pytest.approx(0.02)
    assert _one(_made(*NOISY), 0.2, "none").estimate_error is None


def test_unlabelled_unfinished_and_unmixed_rows_are_no_evidence() -> None:
    made = _made(row(None, "llb", 0, 0.5), row(0.2, "llb", 0, None), row(0.2, "srr", 0, 0.5, status="failed"))
    assert [line.filter for line in made] == ["llb"]
    assert made[0].i_auroc is None
    assert made[0].gap_closed is None


def test_what_is_shown_can_be_looked_at(tmp_path: Path) -> None:
    console = Console(record=True, width=250)
    show_robustness(console, pa.Table.from_pylist([*NOISY, row(0.4, "llb", 0, 0.6)], ROWS), tmp_path)
    said = console.export_text()
    assert "llb closes 75 % of the oracle gap" in said
    assert "85.0 [83.0, 87.0]" in said
    assert Image.open(tmp_path / "robustness.png").size[0] > 300
    assert (tmp_path / "robustness.csv").read_text().count("\n") == 5
    assert (tmp_path / "robustness.md").read_text().count("\n") == 6
