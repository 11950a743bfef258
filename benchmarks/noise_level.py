"""How many images are anomalous?  The estimator behind ``keep_ratio=auto`` beside others, at known shares.

    python benchmarks/noise_level.py runs/certify_tile/scan runs/certify_juice/scan runs/certify_synthetic/scan

Reads the `llb` jobs of scans that benchmarks/certify.py made with a memory bank and ``--set purify.rounds=2``.
Evidence is what the two rounds judge by: the members' held-out scores in robust z (round 1), and the scores of folds by
detectors like the final one (round 2).  Every estimator sees the same numbers, no label, and is capped at one half.
Writes benchmarks/noise_level.md and the raw rows beside it.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
from harness import Row, llb_runs, setting, write_rows
from scipy import stats
from sklearn.mixture import GaussianMixture

from llb_ray.engine.workers.scorer import read_scores
from llb_ray.ensemble.contamination import anomalous_share, bulk
from llb_ray.ensemble.held_out_scores import by_folds
from llb_ray.ensemble.purify import anomaly_evidence
from llb_ray.ensemble.score_matrix import dense

Floats = npt.NDArray[np.float64]
HERE = Path(__file__).parent
_TAIL = 0.1  # of the mirrored scores: what a Pareto tail is fitted to


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--result", type=Path, default=HERE / "noise_level.md")
    arguments = parser.parse_args()
    rows = [row for scan in arguments.scans for row in measured(scan)]
    write_rows(rows, arguments.result.with_suffix(".csv"))
    seeds = len({row["seed"] for row in rows})
    command = "python benchmarks/noise_level.py " + " ".join(sys.argv[1:])
    arguments.result.write_text(
        f"# Estimates of the anomalous share, {date.today()}\n\n{setting(command)}\n\n"
        f"Mean estimate of {seeds} seeds, and the mean absolute error, at the end over all sets.  *apart*: what a run "
        "uses, `contamination.anomalous_share`.  *mad3*: beyond median + 3 MAD.  *mixture*: weight of the upper of two "
        "Gaussians where BIC prefers two.  *knee*: where the sorted scores are furthest from their chord.  *tail*: "
        "what is beyond a generalised Pareto tail of the scores below the mode, mirrored.\n\n"
        f"{table(rows)}\n\nRaw rows: {arguments.result.stem}.csv\n"
    )
    print(arguments.result.read_text())


def measured(scan: Path) -> Iterator[Row]:
    """A row per job, round and estimator."""
    for job, run in llb_runs(scan):
        assert run.matrix is not None, "filter llb has one"
        evidence = {
            1: anomaly_evidence(run.config.purify, dense(run.matrix)),
            2: by_folds(read_scores(run.made.round_scores[-1]))["score"].to_numpy(),
        }
        for number, score_N in evidence.items():
            for estimator, estimate in ESTIMATORS.items():
                known = {name: job[name] for name in ("category", "alpha", "seed")}
                yield known | {"round": number, "estimator": estimator, "estimate": min(0.5, estimate(score_N))}


def mad3(score_N: Floats) -> float:
    """Share beyond three median absolute deviations (as Gaussian standard deviations)."""
    spread = stats.median_abs_deviation(score_N, scale="normal")
    return float(np.mean(score_N > np.median(score_N) + 3 * spread))


def mixture(score_N: Floats) -> float:
    """Weight of the upper of two Gaussians, 0 where the Bayesian information criterion prefers one."""
    column_N1 = score_N[:, None]
    one, two = (GaussianMixture(count, n_init=3, random_state=0).fit(column_N1) for count in (1, 2))
    return 0.0 if one.bic(column_N1) <= two.bic(column_N1) else float(two.weights_[two.means_.ravel().argmax()])


def knee(score_N: Floats) -> float:
    """Share above the point of the sorted scores that is furthest below the chord from first to last."""
    sorted_N = np.sort(score_N)
    chord_N = np.linspace(sorted_N[0], sorted_N[-1], len(sorted_N))
    return float(1 - (chord_N - sorted_N).argmax() / len(sorted_N))


def tail(score_N: Floats) -> float:
    """More than expected beyond the start of a generalised Pareto tail of the lower scores, mirrored at the mode.

    At the point where the excess over what that tail predicts is largest.
    """
    mode = bulk(score_N).mode
    below_M = np.sort(mode - score_N[score_N <= mode])
    start = np.quantile(below_M, 1 - _TAIL)
    shape, _, scale = stats.genpareto.fit(below_M[below_M > start] - start, floc=0)
    above_N = np.sort(score_N[score_N > mode + start] - mode - start)
    expected_N = len(below_M) * _TAIL * stats.genpareto.sf(above_N, shape, scale=scale)
    excess_N = np.arange(len(above_N), 0, -1) - expected_N
    return float(max(0.0, excess_N.max(initial=0.0)) / len(score_N))


ESTIMATORS: dict[str, Callable[[Floats], float]] = {
    "apart": anomalous_share,
    "mad3": mad3,
    "mixture": mixture,
    "knee": knee,
    "tail": tail,
}


def table(rows: list[Row]) -> str:
    """Markdown: a line per set, round and estimator, and the mean errors at the end."""
    alphas = sorted({row["alpha"] for row in rows})
    lines = [
        "| set | round | estimator | " + " | ".join(f"alpha {alpha:g}" for alpha in alphas) + " | mean error |",
        "|---|---|---|" + "---|" * (len(alphas) + 1),
    ]
    everywhere: dict[tuple[int, str], list[float]] = {}
    for category in dict.fromkeys(row["category"] for row in rows):
        for number in (1, 2):
            for name in ESTIMATORS:
                mine = [r for r in rows if (r["category"], r["round"], r["estimator"]) == (category, number, name)]
                means = [statistics.mean(r["estimate"] for r in mine if r["alpha"] == alpha) for alpha in alphas]
                error = statistics.mean(abs(r["estimate"] - r["alpha"]) for r in mine)
                everywhere.setdefault((number, name), []).append(error)
                cells = " | ".join(f"{mean:.3f}" for mean in means)
                lines.append(f"| {category} | {number} | {name} | {cells} | {error:.3f} |")
    blank = " |" * len(alphas)
    lines += [
        f"| all | {number} | {name} |{blank} {statistics.mean(errors):.3f} |"
        for (number, name), errors in everywhere.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
