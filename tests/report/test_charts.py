"""Charts: nothing that is counted gets lost, and the cut parts the colours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb_ray.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, curves, histogram

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
    chart = curves("t", "step", "loss", np.arange(count, dtype=float), {"loss": np.ones(count)})
    assert 1 <= len(chart.lines["loss"].split()) <= 400
