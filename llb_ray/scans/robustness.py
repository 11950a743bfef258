"""Share of the harm by anomalies that a filter undoes: the figures behind `llb-ray certify`.

Share of the oracle gap closed = (filter - none) / (oracle - none), of the means over seeds; 1 is as good as knowing the
labels, 0 as good as nothing, below 0 is harm.  It is undefined where the gap is no more than `LEAST_GAP`: noise over
noise.  Intervals are 95 % bootstrap intervals over seeds, which all filters of a seed share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.config import filter_traits
from llb_ray.scans.benchmark_table import filter_place
from llb_ray.scans.comparable import Row
from llb_ray.scans.job_results import DONE
from llb_ray.seeding import stream

LEAST_GAP = 0.005  # of AUROC between no filter and the oracle
_RESAMPLES = 2000
Interval = tuple[float, float, float]  # the figure itself, and the ends of its interval
Cell = tuple[str, float]  # category and alpha


@dataclass(frozen=True)
class Robustness:
    """Effect of a filter on a category at one noise level, over seeds; None where it is unknown."""

    category: str
    alpha: float
    filter: str
    num_seeds: int
    i_auroc: Interval | None
    aupro: Interval | None
    gap_closed: Interval | None  # of I-AUROC
    harm: float | None  # I-AUROC lost against no filter, at least 0
    residual_contamination: float | None
    normals_lost: float | None
    estimate_error: float | None  # |estimated contamination - alpha|
    seconds: float
    images_per_second: float
    seeds: frozenset[int]  # that have an I-AUROC


def robustness(rows: pa.Table) -> list[Robustness]:
    """A line for each category, alpha and filter of results (schema `results.ROWS`), in that order.

    A gap is taken over the seeds that the filter, ``none`` and ``oracle`` all have.
    """
    done = [row for row in rows.filter(pc.equal(rows["status"], DONE)).to_pylist() if row["alpha"] is not None]
    cells: dict[Cell, dict[str, dict[int, Row]]] = {}
    for row in sorted(done, key=lambda row: (row["category"], row["alpha"])):
        cells.setdefault((row["category"], row["alpha"]), {}).setdefault(row["filter"], {})[row["seed"]] = row
    return [
        _line(category, alpha, name, by_filter)
        for (category, alpha), by_filter in cells.items()
        for name in sorted(by_filter, key=filter_place)
    ]


def mean_gap_closed(made: Sequence[Robustness], name: str) -> float | None:
    """The share of the gap that a filter closes, averaged over `comparable_cells`; None if there is none."""
    cells = comparable_cells(made)
    known = [line.gap_closed[0] for line in made if line.filter == name and _cell(line) in cells and line.gap_closed]
    return mean(known) if known else None


def comparable_cells(made: Sequence[Robustness]) -> set[Cell]:
    """The categories and alphas above 0 that have a gap and that every filter has with the same seeds."""
    names = {line.filter for line in made}
    return {cell for cell in _with_gap(made) if _is_whole([line for line in made if _cell(line) == cell], names)}


def missing_cells(made: Sequence[Robustness]) -> list[str]:
    """One sentence if there are cells with a gap that no mean is over, because a filter or seed is missing there."""
    lacking = sorted(_with_gap(made) - comparable_cells(made))
    listed = ", ".join(f"{category} at alpha {alpha:g}" for category, alpha in lacking)
    return [f"averages leave out {listed}, where not every filter and seed has a figure"] if lacking else []


def _with_gap(made: Sequence[Robustness]) -> set[Cell]:
    return {_cell(line) for line in made if line.alpha > 0 and line.gap_closed}


def _is_whole(lines: Sequence[Robustness], names: set[str]) -> bool:
    return {line.filter for line in lines} == names and len({line.seeds for line in lines}) == 1


def _cell(line: Robustness) -> Cell:
    return line.category, line.alpha


def _line(category: str, alpha: float, name: str, by_filter: Mapping[str, Mapping[int, Row]]) -> Robustness:
    mine = by_filter[name]
    rows = list(mine.values())
    return Robustness(
        category=category,
        alpha=alpha,
        filter=name,
        num_seeds=len(rows),
        i_auroc=_interval(_known(rows, "i_auroc")),
        aupro=_interval(_known(rows, "aupro")),
        gap_closed=_gap_closed(mine, _bound(by_filter, "lower"), _bound(by_filter, "upper")),
        harm=_harm(mine, _bound(by_filter, "lower")),
        residual_contamination=_mean(_known(rows, "residual_contamination")),
        normals_lost=_mean(_known(rows, "normals_lost")),
        estimate_error=_mean([abs(value - alpha) for value in _known(rows, "estimated_contamination")]),
        seconds=mean(row["seconds"] for row in rows),
        images_per_second=mean(row["images_per_second"] for row in rows),
        seeds=frozenset(row["seed"] for row in rows if row["i_auroc"] is not None),
    )


def _bound(by_filter: Mapping[str, Mapping[int, Row]], which: Literal["lower", "upper"]) -> Mapping[int, Row]:
    """The rows, by seed, of no filter at all, or of the one that knows the labels."""
    return next((rows for name, rows in by_filter.items() if filter_traits(name).bound == which), {})


def _gap_closed(mine: Mapping[int, Row], none: Mapping[int, Row], oracle: Mapping[int, Row]) -> Interval | None:
    score_S3 = _paired([mine, none, oracle])
    if score_S3 is None:
        return None
    share = _share(score_S3.mean(axis=0))
    if share is None:
        return None
    shares = [_share(score_S3[rows].mean(axis=0)) for rows in _resampled(len(score_S3))]
    known = [value for value in shares if value is not None]
    return share, *_ends(known)


def _share(score_3: npt.NDArray[np.float64]) -> float | None:
    mine, none, oracle = score_3
    return float((mine - none) / (oracle - none)) if oracle - none > LEAST_GAP else None


def _harm(mine: Mapping[int, Row], none: Mapping[int, Row]) -> float | None:
    score_S2 = _paired([mine, none])
    return None if score_S2 is None else max(0.0, float((score_S2[:, 1] - score_S2[:, 0]).mean()))


def _paired(runs: Sequence[Mapping[int, Row]]) -> npt.NDArray[np.float64] | None:
    """I-AUROC by seed and run, of the seeds that all runs have; None if there are none."""
    seeds = sorted(set.intersection(*(set(run) for run in runs)))
    score_SR = np.array([[run[seed]["i_auroc"] for run in runs] for seed in seeds], dtype=float)
    score_SR = score_SR[~np.isnan(score_SR).any(axis=1)] if len(seeds) else score_SR
    return score_SR if len(score_SR) else None


def _interval(values: Sequence[float]) -> Interval | None:
    if not values:
        return None
    value_S = np.array(values)
    return float(value_S.mean()), *_ends([float(value_S[rows].mean()) for rows in _resampled(len(value_S))])


def _resampled(num_seeds: int) -> npt.NDArray[np.int64]:
    """Rows of seeds drawn with replacement, the same for every figure of as many seeds."""
    return stream(0, "robustness", num_seeds).integers(num_seeds, size=(_RESAMPLES, num_seeds))


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def _known(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows if row[name] is not None]


def _mean(values: Sequence[float]) -> float | None:
    return mean(values) if values else None
