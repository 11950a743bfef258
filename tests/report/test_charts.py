"""Charts: nothing that is counted gets lost, and the cut parts the colours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb_ray.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, Line, curves, histogram

finite = st.floats(-1e6, 1e6, allow_nan=False, width=32)


def _count(chart: Chart, kind: str) -> int:
    return sum(int(bar.title.split(": ")[1].split()[0]) for bar in chart.bars if bar.kind == kind)


def _inside(chart: Chart) -> bool:
    right, bottom = WIDTH - RIGHT + 1, HEIGHT - BOTTOM + 0.1
    bars = all(bar.x >= LEFT and bar.x + bar.width <= right for bar in chart.bars)
    return bars and all(bar.y >= TOP - 0.1 and bar.y + bar.height <= bottom for bar in chart.bars)


@given(st.lists(finite, min_size=1, max_size=60), st.lists(finite, max_size=60))
def test_every_value_is_in_a_bar(some: list[float], others: list[float]) -> None:
    chart = histogram("t", "x", {"kept": np.array(some), "rejected": np.array(others)})
    assert (_count(chart, "kept"), _count(chart, "rejected")) == (len(some), len(others))
    assert _inside(chart)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=80, unique=True), st.data())
def test_the_cut_parts_the_colours(values: list[float], data: st.DataObject) -> None:
    ordered = sorted(values)
    place = data.draw(st.integers(1, len(ordered) - 1))
    cut = (ordered[place - 1] + ordered[place]) / 2
    if not ordered[place - 1] < cut < ordered[place]:
        return  # too close for a number between them
    chart = histogram("t", "x", {"kept": np.array(ordered[:place]), "rejected": np.array(ordered[place:])}, cut)
    assert chart.cut is not None
    assert _count(chart, "kept") == place
    for bar in chart.bars:
        side = chart.cut.place - bar.x if bar.kind == "kept" else bar.x + bar.width - chart.cut.place
        assert side >= -0.1, bar


def test_a_long_tail_is_shown_by_decades() -> None:
    value_N = np.concatenate([np.linspace(1, 3, 100), [50.0, 900.0]])
    chart = histogram("t", "x", {"kept": value_N})
    assert [mark.text for mark in chart.x_marks][:9] == ["1", "2", "5", "10", "20", "50", "100", "200", "500"]
    assert _count(chart, "kept") == 102


@pytest.mark.parametrize("cut", [0.5, 20.0, 3000.0])
def test_a_threshold_is_shown_among_a_long_tail_and_beyond_all_values(cut: float) -> None:
    value_N = np.concatenate([np.linspace(1, 3, 100), [50.0, 900.0]])
    chart = histogram("t", "x", {"kept": value_N}, cut, of_cut="threshold")
    assert chart.cut is not None
    assert chart.cut.text == f"threshold {cut:.4g}"
    assert LEFT <= chart.cut.place <= WIDTH - RIGHT
    left = sum(int(bar.title.split(": ")[1].split()[0]) for bar in chart.bars if bar.x < chart.cut.place - 0.1)
    assert left == (value_N < cut).sum()
    assert _inside(chart)


def test_whole_numbers_have_whole_ticks() -> None:
    chart = histogram("t", "x", {"kept": np.array([0.0, 1, 1, 3])}, edges=np.arange(5) - 0.5)
    assert [mark.text for mark in chart.x_marks] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("count", [1, 2, 5000])
def test_curves_have_a_bounded_number_of_points(count: int) -> None:
    chart = curves("t", "step", "loss", [Line("loss", np.arange(count, dtype=float), np.ones(count))])
    assert 1 <= len(chart.lines[0].points.split()) <= 400


def _points(chart: Chart) -> list[list[list[float]]]:
    return [[[float(one) for one in point.split(",")] for point in line.points.split()] for line in chart.lines]


def test_lines_of_any_length_share_both_axes_and_lines_of_one_kind_a_key() -> None:
    ends = [(4, 8.0), (9, 2.0), (4, 6.0)]
    kinds = ["member", "final", "member"]
    lines = [Line(kind, np.arange(n, dtype=float), np.full(n, v)) for kind, (n, v) in zip(kinds, ends, strict=True)]
    chart = curves("t", "step", "loss", lines)
    assert chart.kinds == ["member", "final"]
    first, second, third = _points(chart)
    assert first[-1] == [LEFT + 3 / 8 * (WIDTH - RIGHT - LEFT), TOP]
    assert second[-1][0] == WIDTH - RIGHT
    assert TOP < third[0][1] < second[0][1] < HEIGHT - BOTTOM, "zero is at the bottom"


def test_a_loss_that_falls_by_decades_is_seen_to_fall_all_the_way() -> None:
    step_N = np.arange(100, dtype=float)
    chart = curves("t", "step", "loss", [Line("loss", step_N, 10 ** (-step_N / 33))])
    (points,) = _points(chart)
    falls = np.diff([y for _, y in points])
    assert falls.min() > 0.9 * falls.max(), "as far in the last steps as in the first"
    assert [mark.text for mark in chart.y_marks] == ["0.001", "0.01", "0.1", "1"]
