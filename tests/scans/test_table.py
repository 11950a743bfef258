"""The table of a scan: what is averaged over what, and what each format makes of strange names."""

import csv
import io
from typing import Any

import pyarrow as pa
import pytest

from llb_ray.scans import published
from llb_ray.scans.formats import as_csv, as_latex, as_markdown, grid
from llb_ray.scans.results import ROWS
from llb_ray.scans.table import MEAN, Line, lines


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
    line = _line(lines(table(*ROWS_OF_TWO_SEEDS)), 0.1, "llb", MEAN)
    assert line.figures["i_auroc"] == pytest.approx((0.86, 0.01 * 2**0.5))
    assert line.num_categories == 2


def test_alphas_rise_and_filters_go_from_none_to_oracle_whatever_the_order_of_rows() -> None:
    more = [row("cap", None, "oracle", 0, 1.0), row("cap", None, "srr", 0, 1.0), row("cap", None, "llb", 0, 1.0)]
    made = lines(table(*reversed(ROWS_OF_TWO_SEEDS), *more))
    blocks = list(dict.fromkeys((line.alpha, line.filter) for line in made))
    assert blocks == [(None, "srr"), (None, "llb"), (None, "oracle"), (0.0, "none"), (0.1, "none"), (0.1, "llb")]


def test_a_failed_job_is_in_no_figure() -> None:
    made = lines(table(*ROWS_OF_TWO_SEEDS))
    assert [line.category for line in made if (line.alpha, line.filter) == (0.1, "none")] == ["cap"]


def test_a_column_nobody_has_is_left_out_and_a_gap_is_a_dash() -> None:
    header, body = grid(lines(table(row("a", 0.1, "llb", 0, 0.5, aupro=0.25), row("b", 0.1, "llb", 0, 0.5))))
    assert header == ["alpha", "filter", "category", "seeds", "I-AUROC", "AUPRO", "seconds"]
    assert body == [
        ["0.1", "llb", "a", "1", "50.0", "25.0", "2.0"],
        ["0.1", "llb", "b", "1", "50.0", "-", "2.0"],
        ["0.1", "llb", "mean", "1", "50.0", "25.0", "2.0"],
    ]


def test_means_over_different_numbers_of_categories_say_so() -> None:
    header, body = grid(
        lines(table(*(row(c, 0.1, "llb", 0, 0.5) for c in "abc"), *(row(c, 0.1, "none", 0, 0.5) for c in "ab")))
    )
    of_means = [line[header.index("categories")] for line in body if line[2] == MEAN]
    assert of_means == ["2", "3"]


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
    assert "published, not measured here" in published.SOURCE
    assert ["0.2", "SoftPatch", "90.5", "92.9"] in published.BODY
    assert len(published.BODY) == 4 * 5
