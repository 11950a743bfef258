"""False alarms and found defects at the default's threshold, on the real sets of `suite.py`, whose labels no run reads.

    OMP_NUM_THREADS=1 python benchmarks/thresholds.py --out runs/thresholds

Asks for 1 % and 5 %.  *had*: share of the normal test images above the threshold.  *found*: that of the anomalous.
*true rate*: share that the same scores find at the threshold that exactly the rate asked for of the normal test images
exceeds, which only labels know.  Other ways from the same held-out scores to a threshold stand beside the default.
Data is looked for under LLB_DATA (default ../shared/data).  What is there already is
not run again.  Writes benchmarks/thresholds.md and the raw rows beside it.
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from certify import HERE
from harness import Row, setting, write_rows
from scipy import stats
from suite import SETS, suite_root

import llb_ray
from llb_ray import Manifest
from llb_ray.config import load, with_overrides
from llb_ray.data.contaminate import contaminate_manifest
from llb_ray.data.tables import join_by_image, read_table
from llb_ray.engine.inference.calibrated_run import CalibratedRun
from llb_ray.engine.pipeline.pipeline import Result
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.ensemble.threshold import threshold_at

RATES, ALPHAS = (0.01, 0.05), (0, 0.1, 0.2)
Floats = npt.NDArray[np.float64]
Way = Callable[[Floats, float], float]


def order_statistic(score_N: Floats, rate: float) -> float:
    """The quantile of the held-out scores themselves."""
    return float(np.quantile(score_N, 1 - rate))


def both_halves(score_N: Floats, rate: float, freedom: int = 8) -> float:
    """The tail of a Student distribution that has the median and the median absolute deviation of the log scores."""
    log_N = np.log(score_N)
    middle = np.median(log_N)
    spread = np.median(np.abs(log_N - middle)) / stats.t.ppf(0.75, freedom)
    return float(np.exp(min(middle + stats.t.isf(rate, freedom) * spread, log_N.max())))


def lower_tail(score_N: Floats, rate: float, lower: tuple[float, float], freedom: int) -> float:
    """The default with other constants."""
    log_N = np.log(score_N)
    (low, high), (t_low, t_high) = np.quantile(log_N, lower), stats.t.ppf(lower, freedom)
    spread = (high - low) / (t_high - t_low)
    return float(np.exp(min(high + (stats.t.isf(rate, freedom) - t_high) * spread, log_N.max())))


DEFAULT = "lower quantiles"
WAYS: Mapping[str, Way] = {
    DEFAULT: lambda score_N, rate: threshold_at(score_N, rate).value,
    "median and deviation": both_halves,
    "order statistic": order_statistic,
}
PAIRS, FREEDOMS = ((0.1, 0.4), (0.1, 0.5), (0.15, 0.45), (0.2, 0.45), (0.2, 0.5), (0.25, 0.5)), (5, 8)
CANDIDATES: Mapping[str, Way] = {  # what LOWER and FREEDOM were chosen among
    f"{lower[0]:g} {lower[1]:g} t{freedom}": partial(lower_tail, lower=lower, freedom=freedom)
    for lower, freedom in itertools.product(PAIRS, FREEDOMS)
}
LEFT_OUT = "left out"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--result", type=Path, default=HERE / "thresholds.md")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for name in arguments.sets:
        rows += _measured(name, arguments.seeds, arguments.out)
        write_rows(rows, arguments.result.with_suffix(".csv"))
    command = "python benchmarks/thresholds.py " + " ".join(sys.argv[1:])
    arguments.result.write_text(
        f"# False alarms asked for and had, ten real sets, {date.today()}\n\n{setting(command)}\n\n"
        f"The default configuration, {arguments.seeds} seeds.  *had*: share of the normal test images above the "
        "threshold; *found*: share of the anomalous ones; *true rate*: share of these that the same scores find where "
        "exactly the rate asked for of the normal test images is above.  *Ways* from the same held-out scores of kept "
        "images to a threshold: the tail of a Student distribution fitted to their lower quantiles (the default) or to "
        "median and median absolute deviation (the default before), and their own quantile.\n\n"
        f"## Over the sets, medians (means)\n\n{_summary(rows, WAYS)}\n\n"
        f"## Constants chosen on the other sets\n\n{_summary(_left_out(rows), [LEFT_OUT])}\n\n"
        f"Chosen among {', '.join(CANDIDATES)} (quantiles and degrees of freedom) by the squared logarithms of false "
        "alarms on clean sets to those asked for, and of found on contaminated ones to the true rate's, where they are "
        f"on the wrong side: {_choices(rows)}.\n\n"
        f"## Every set with the default, means of the seeds\n\n{_table(rows)}\n\n"
        f"Raw rows: {arguments.result.stem}.csv\n"
    )
    print(arguments.result.read_text())


def _measured(name: str, seeds: int, out: Path) -> Iterator[Row]:
    """A row for each alpha, seed and rate; the rates share one run's work."""
    num_objects, alphas = SETS[name]
    config = load(HERE.parent / "configs" / "memory_bank.yaml", ["resources.num_cpus=1"])
    everything = llb_ray.read_folder(suite_root(name), config)
    for alpha in (alpha for alpha in ALPHAS if alpha in alphas):
        for seed in range(seeds):
            manifest = contaminate_manifest(everything, num_objects, alpha, seed, max(alphas))
            chosen = with_overrides(config, [f"seed={seed}"])
            result = llb_ray.run(chosen, manifest, out=out / f"{name}-{alpha:g}-{seed}", executor="serial")
            for rate, (way, threshold_of) in itertools.product(RATES, (WAYS | CANDIDATES).items()):
                row = {"set": name, "alpha": alpha, "seed": seed, "asked": rate, "way": way}
                yield row | _achieved(result, manifest, rate, threshold_of)


def _achieved(result: Result, manifest: Manifest, rate: float, threshold_of: Way) -> Row:
    """What the labels of the test images say of a threshold."""
    scores = join_by_image(read_table(result.path / "image_scores.arrow"), manifest.table)
    test = scores.filter((pc.field("split") == "test") & pc.field("label").is_valid())
    normal, anomalous = (
        test.filter(pc.field("label") == label)["score"].to_numpy().astype(np.float64) for label in (0, 1)
    )
    threshold = threshold_of(CalibratedRun.of(RunFolder.open(result.path)).calibration.held_out_N, rate)
    return {
        "had": float((normal > threshold).mean()),
        "found": float((anomalous > threshold).mean()),
        "found_at_true_rate": float((anomalous > np.quantile(normal, 1 - rate, method="higher")).mean()),
        "num_normal": len(normal),
        "residual": result.metrics["residual_contamination"],
    }


def _summary(rows: Sequence[Row], ways: Iterable[str]) -> str:
    lines = ["| way | alpha | asked | had | found | true rate | found / true rate |", "|---|---|---|---|---|---|---|"]
    for way, alpha, asked in itertools.product(ways, ALPHAS, RATES):
        mine = [row for row in _over_seeds(rows) if (row["way"], row["alpha"], row["asked"]) == (way, alpha, asked)]
        had, found, true = ([float(row[key]) for row in mine] for key in ("had", "found", "found_at_true_rate"))
        cells = " | ".join(f"{statistics.median(one):.3f} ({statistics.mean(one):.3f})" for one in (had, found, true))
        lines.append(f"| {way} | {alpha:g} | {asked:.2f} | {cells} | {sum(found) / sum(true):.2f} |")
    return "\n".join(lines)


def _left_out(rows: Sequence[Row]) -> list[Row]:
    """Every set's rows with the constants that the other sets choose."""
    chosen = _chosen(rows)
    return [row | {"way": LEFT_OUT} for row in rows if row["way"] == chosen[row["set"]]]


def _choices(rows: Sequence[Row]) -> str:
    return ", ".join(f"{name} {way}" for name, way in _chosen(rows).items())


def _chosen(rows: Sequence[Row]) -> dict[str, str]:
    """What the other sets choose, by set."""
    names = dict.fromkeys(row["set"] for row in rows)
    return {name: _best([row for row in rows if row["set"] != name]) for name in names}


def _best(rows: Sequence[Row]) -> str:
    return min(CANDIDATES, key=lambda way: _loss([row for row in _over_seeds(rows) if row["way"] == way]))


def _loss(rows: Sequence[Row]) -> float:
    """Squared logarithms of false alarms over those asked for, and of found over what the true rate finds."""
    total = 0.0
    for rate in RATES:
        mine = [row for row in rows if row["asked"] == rate]
        had = statistics.mean(row["had"] for row in mine if row["alpha"] == 0) / rate
        found, true = (sum(row[key] for row in mine if row["alpha"] > 0) for key in ("found", "found_at_true_rate"))
        total += np.log(max(1, had)) ** 2 + np.log(min(1, found / true)) ** 2
    return total


def _table(rows: Sequence[Row]) -> str:
    lines = ["| set | alpha | kept anomalous | asked | had | found | true rate |", "|---|---|---|---|---|---|---|"]
    for row in (row for row in _over_seeds(rows) if row["way"] == DEFAULT):
        lines.append(
            f"| {row['set']} | {row['alpha']:g} | {row['residual']:.3f} | {row['asked']:.2f} | {row['had']:.3f} | "
            f"{row['found']:.2f} | {row['found_at_true_rate']:.2f} |"
        )
    return "\n".join(lines)


def _over_seeds(rows: Sequence[Row]) -> Iterator[Row]:
    """Means over the seeds of each set, alpha, rate and way."""
    keys, figures = ("set", "alpha", "asked", "way"), ("had", "found", "found_at_true_rate", "residual")
    for cell in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        mine = [row for row in rows if tuple(row[key] for key in keys) == cell]
        yield dict(zip(keys, cell, strict=True)) | {key: statistics.mean(row[key] for row in mine) for key in figures}


if __name__ == "__main__":
    main()
