"""Small charts for the report, as plain geometry that its template draws as SVG: they take the page's own colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import LogLocator, MaxNLocator

Floats = npt.NDArray[np.float64]
WIDTH, HEIGHT = 640, 252
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 22, 52  # margins, in the same units as all places
_TICKS = 5
_MOST_BINS = 50
_LONG_TAIL = 10  # times the median
_LEAST = 1e-300  # that has a place on a logarithmic axis
_MOST_POINTS = 400  # of a line: more cannot be seen
_WIDE_DECADE = 80  # has room for marks at 1, 2 and 5; a narrower one has its 1 alone


@dataclass(frozen=True)
class Bar:
    """A part of a stacked bar; `kind` is its class in the style sheet."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


@dataclass(frozen=True)
class Line:
    """A curve's points, their places rising; `kind` is its class in the style sheet, and its name in the legend."""

    kind: str
    place_N: Floats
    value_N: Floats


@dataclass(frozen=True)
class Polyline:
    """A curve as SVG has it."""

    kind: str
    points: str


@dataclass(frozen=True)
class Mark:
    """A tick, or the cut, and what is written beside it."""

    place: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Bars or lines between two axes."""

    title: str
    x_label: str
    y_label: str
    x_marks: Sequence[Mark]
    y_marks: Sequence[Mark]
    kinds: Sequence[str]  # in the legend
    bars: Sequence[Bar] = ()
    lines: Sequence[Polyline] = ()
    cut: Mark | None = None


@dataclass(frozen=True)
class Axis:
    """From values to places."""

    low: float
    high: float
    start: float  # where `low` is
    end: float

    def at(self, value: float) -> float:
        """Drawn place of the value."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)

    def marks(self, whole: bool = False) -> list[Mark]:
        """A few round values, whole ones if asked for."""
        ticks = MaxNLocator(_TICKS, integer=whole).tick_values(self.low, self.high)
        inside = [float(tick) for tick in ticks if self.low <= tick <= self.high]
        return [Mark(self.at(tick), f"{tick:,.6g}" if abs(tick) >= 1e-9 else "0") for tick in inside]


class LogAxis(Axis):
    """The same for values above zero, a decade as long as any other."""

    def at(self, value: float) -> float:
        """Drawn place of the value."""
        return Axis(np.log10(self.low), np.log10(self.high), self.start, self.end).at(np.log10(value))

    def marks(self, whole: bool = False) -> list[Mark]:
        """At 1, 2, 5, 10 and so on, or where that would be crowded at 1, 10, 100."""
        crowded = abs(self.end - self.start) < _WIDE_DECADE * np.log10(self.high / self.low)
        ticks = LogLocator(subs=(1,) if crowded else (1, 2, 5)).tick_values(self.low, self.high)
        return [Mark(self.at(tick), f"{tick:,.6g}") for tick in ticks if self.low <= tick <= self.high]


def histogram(
    title: str,
    x_label: str,
    values: Mapping[str, Floats],
    cut: float | None = None,
    edges: Floats | None = None,
    of_cut: str = "cut",
) -> Chart:
    """Stacked histogram of each kind's values; the cut falls between two bins, and is always shown.

    Where `edges` are given, the values are whole numbers.  Values with a long tail are shown on a logarithmic axis.
    """
    whole, everything = edges is not None, np.concatenate([*values.values(), [] if cut is None else [cut]])
    if edges is None and _has_long_tail(everything):
        edges, x = _logarithmic(everything, cut)
    else:
        edges = _edges(everything, cut) if edges is None else edges
        x = Axis(float(edges[0]), float(edges[-1]), LEFT, WIDTH - RIGHT)
    counts = {kind: np.histogram(some, edges)[0] for kind, some in values.items()}
    y = Axis(0, float(max(1, np.sum(list(counts.values()), axis=0).max())), HEIGHT - BOTTOM, TOP)
    return Chart(
        title,
        x_label,
        "images",
        x.marks(whole),
        y.marks(whole=True),
        [kind for kind, some in values.items() if len(some)],
        bars=_stacked(counts, edges, x, y),
        cut=None if cut is None else Mark(x.at(cut), f"{of_cut} {cut:.4g}"),
    )


def curves(title: str, x_label: str, y_label: str, lines: Sequence[Line]) -> Chart:
    """Each line's values over its places, both from zero on, or from the lowest where that is below.

    Values with a long tail are shown on a logarithmic axis.
    """
    x = _from_zero(np.concatenate([line.place_N for line in lines]), LEFT, WIDTH - RIGHT)
    y = _high(np.concatenate([line.value_N for line in lines]))
    kinds = list(dict.fromkeys(line.kind for line in lines))
    return Chart(title, x_label, y_label, x.marks(), y.marks(), kinds, lines=[_drawn(line, x, y) for line in lines])


def _high(value_N: Floats) -> Axis:
    if _has_long_tail(value_N):
        return LogAxis(float(value_N.min()), float(value_N.max()), HEIGHT - BOTTOM, TOP)
    return _from_zero(value_N, HEIGHT - BOTTOM, TOP)


def _from_zero(number_N: Floats, start: float, end: float) -> Axis:
    low, high = min(0.0, float(number_N.min())), float(number_N.max())
    return Axis(low, high if high > low else low + 1, start, end)


def _drawn(line: Line, x: Axis, y: Axis) -> Polyline:
    shown = np.unique(np.linspace(0, len(line.place_N) - 1, _MOST_POINTS).round().astype(int))
    points = (f"{x.at(float(line.place_N[i]))},{y.at(float(line.value_N[i]))}" for i in shown)
    return Polyline(line.kind, " ".join(points))


def _has_long_tail(value_N: Floats) -> bool:
    return bool(value_N.min() > _LEAST and value_N.max() > _LONG_TAIL * np.median(value_N))


def _logarithmic(value_N: Floats, cut: float | None) -> tuple[Floats, Axis]:
    edges = _covering(10 ** _edges(np.log10(value_N), None if cut is None else float(np.log10(cut))), value_N)
    if cut is not None:
        edges[np.abs(edges - cut).argmin()] = cut  # a logarithm and back is off by a rounding
    return edges, LogAxis(float(edges[0]), float(edges[-1]), LEFT, WIDTH - RIGHT)


def _edges(value_N: Floats, cut: float | None) -> Floats:
    """Of equal bins that cover all values, the cut among them, with an edge at the cut."""
    low, high = float(value_N.min()), float(value_N.max())
    width = max((high - low) / min(_MOST_BINS, max(10, 2 * np.sqrt(len(value_N)))), 1e-9 * max(1, abs(high)))
    below = 0.0 if cut is None else np.ceil((cut - low) / width)
    middle = low if cut is None else cut  # exactly an edge; the others may be off by a rounding
    edges: Floats = middle + width * np.arange(-below, np.floor((high - middle) / width) + 2)
    return _covering(edges, value_N)


def _covering(edges: Floats, value_N: Floats) -> Floats:
    """The edges, the outermost moved by a rounding if a value is beyond."""
    edges[0], edges[-1] = min(edges[0], value_N.min()), max(edges[-1], value_N.max())
    return edges


def _stacked(counts: Mapping[str, npt.NDArray[np.int64]], edges: Floats, x: Axis, y: Axis) -> list[Bar]:
    bars, below = [], np.zeros(len(edges) - 1)
    for kind, count in counts.items():
        for index in np.flatnonzero(count):
            left, right = float(edges[index]), float(edges[index + 1])
            top, bottom = y.at(below[index] + count[index]), y.at(below[index])
            title = f"{left:.4g} to {right:.4g}: {count[index]} {kind}"
            width = max(0.5, x.at(right) - x.at(left) - 1)
            bars.append(Bar(x.at(left), top, round(width, 2), round(bottom - top, 2), kind, title))
        below += count
    return bars
