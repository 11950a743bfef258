"""The table of a scan: what is averaged over what, and what each format makes of strange names."""

import csv
import io
from typing import Any

import pyarrow as pa
import pytest

from llb_ray.scans import published_results
from llb_ray.scans.benchmark_table import MEAN, Line, lines, notes
from llb_ray.scans.job_results import ROWS
from llb_ray.scans.table_export import as_csv, as_latex, as_markdown, grid


def row(category: str, alpha: float | None, name: str, seed: int, i_auroc: float | None, **more: Any) -> dict[str, Any]:
    job = {"category": category, "alpha": alpha, "filter": name, "seed": seed}
    return {**job, "status": "done", "setting": "s", "i_auroc": i_auroc, "seconds": 2.0, **more}


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), ROWS)


ROWS_OF_TWO_SEEDS = [
    row("cap", 0.1, "llb", 0, 0.90),
    row("cap", 0.1, "llb", 1, 0.94),
    row("usb", 0.1, "llb", 0, 0.80),
    row("usb", 0.1, "llb", 1, 0.80),
    row("cap", 0.1, "none", 0, 0.70),
    row("usb", 0.0, "none", 0, 0.75),
    row("usb", 0.1, "none", 0, None, status="failed", reason="lost"),
]


def _line(made: list[Line], *wanted: Any) -> Line:
    (found,) = [line for line in made if (line.alpha, line.filter, line.category) == wanted]
    return found


def test_a_line_is_the_mean_over_seeds_and_its_sample_deviation() -> None:
    line = _line(lines(table(*ROWS_OF_TWO_SEEDS)), 0.1, "llb", "cap")
    assert line.figures["i_auroc"] == pytest.approx((0.92, 0.02 * 2**0.5))
    assert (line.num_seeds, line.num_categories) == (2, 1)


def test_the_mean_of_categories_is_taken_for_each_seed_first() -> None:
    line = _line(lines(table(*ROWS_OF_TWO_SEEDS[:4])), 0.1, "llb", MEAN)
    assert line.figures["i_auroc"] == pytest.approx((0.86, 0.01 * 2**0.5))
    assert line.num_categories == 2


HARD = [
    row(c, 0.1, f, s, figure) for c, figure in (("cap", 0.9), ("usb", 0.5)) for f in ("llb", "none") for s in (0, 1)
]


@pytest.mark.parametrize("lost", [("llb", 0), ("llb", 1), ("none", 1)])
def test_the_filter_whose_hard_job_failed_has_no_better_mean(lost: tuple[str, int]) -> None:
    rows = table(*(row for row in HARD if (row["category"], row["filter"], row["seed"]) != ("usb", *lost)))
    means = [line for line in lines(rows) if line.category == MEAN]
    assert [line.figures["i_auroc"] for line in means] == [pytest.approx((0.9, 0))] * 2
    assert [line.num_categories for line in means] == [1, 1]
    assert notes(rows) == ["alpha 0.1: the means leave out usb, for which not every filter and seed has a figure"]
    assert "categories" in grid(lines(rows))[0]


def test_nothing_is_left_out_of_a_whole_scan_and_no_mean_is_over_nothing() -> None:
    assert notes(table(*HARD)) == []
    assert _line(lines(table(*HARD)), 0.1, "llb", MEAN).figures["i_auroc"] == pytest.approx((0.7, 0))
    disjoint = table(row("cap", 0.1, "llb", 0, 0.9), row("usb", 0.1, "none", 0, 0.5))
    assert [line.category for line in lines(disjoint)] == ["usb", "cap"]
    assert len(notes(disjoint)) == 1


def test_a_figure_that_one_filter_lacks_is_in_no_mean() -> None:
    rows = table(*HARD[:-1], {**HARD[-1], "i_auroc": None})
    assert [line.figures["i_auroc"] for line in lines(rows) if line.category == MEAN] == [pytest.approx((0.9, 0))] * 2
    (note,) = notes(rows)
    assert note.startswith("alpha 0.1: the means of I-AUROC leave out usb")


def test_alphas_rise_and_filters_go_from_none_to_oracle_whatever_the_order_of_rows() -> None:
    more = [row("cap", None, "oracle", 0, 1.0), row("cap", None, "srr", 0, 1.0), row("cap", None, "llb", 0, 1.0)]
    made = lines(table(*reversed(ROWS_OF_TWO_SEEDS), *more))
    blocks = list(dict.fromkeys((line.alpha, line.filter) for line in made))
    assert blocks == [(None, "srr"), (None, "llb"), (None, "oracle"), (0.0, "none"), (0.1, "none"), (0.1, "llb")]


def test_a_failed_job_is_in_no_figure() -> None:
    made = lines(table(*ROWS_OF_TWO_SEEDS))
    assert [line.category for line in made if (line.alpha, line.filter) == (0.1, "none")] == ["cap", MEAN]


def test_a_column_nobody_has_is_left_out_and_a_gap_is_a_dash() -> None:
    header, body = grid(lines(table(row("a", 0.1, "llb", 0, 0.5, aupro=0.25), row("b", 0.1, "llb", 0, 0.5))))
    assert header == ["alpha", "filter", "category", "seeds", "I-AUROC", "AUPRO", "seconds"]
    assert body == [
        ["0.1", "llb", "a", "1", "50.0", "25.0", "2.0"],
        ["0.1", "llb", "b", "1", "50.0", "-", "2.0"],
        ["0.1", "llb", "mean", "1", "50.0", "25.0", "2.0"],
    ]


def test_csv_holds_every_figure_in_full() -> None:
    (first, *_) = csv.DictReader(io.StringIO(as_csv(lines(table(row("a,b", 0.1, "llb", 0, 1 / 3))))))
    assert first["category"] == "a,b"
    assert float(first["i_auroc"]) == 1 / 3
    assert float(first["i_auroc_sd"]) == 0


def test_names_break_neither_markdown_nor_latex() -> None:
    grid_of = grid(lines(table(row("a|b_c&d%<img>\\", 0.1, "llb", 0, 0.5))))
    (_, _, line) = as_markdown(*grid_of).splitlines()
    assert line.replace(r"\|", "").count("|") == len(grid_of[0]) + 1
    assert "<img>" not in line.replace(r"\<", "").replace(r"\>", "")
    latex = as_latex(*grid_of)
    assert r"a|b\_c\&d\%<img>\textbackslash{}" in latex
    assert latex.count(" & ") == 2 * (len(grid_of[0]) - 1)


def test_published_rows_say_that_they_are() -> None:
    assert "published, not measured here" in published_results.SOURCE
    assert ["0.2", "SoftPatch", "90.5", "92.9"] in published_results.BODY
    assert len(published_results.BODY) == 4 * 5
