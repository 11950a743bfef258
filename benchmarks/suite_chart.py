"""The README's chart of what the default is worth, from suite_rivals.parquet: `python benchmarks/suite_chart.py`.

Lines are means over sets; a dot is one set at one alpha, of the default.
"""

import statistics
from pathlib import Path

import pyarrow.parquet as pq
from matplotlib.figure import Figure
from suite import PATCHCORE, Cell, means_by_filter

HERE = Path(__file__).parent
LABELS = {
    "oracle": "oracle, knows the labels",
    "llb": "llb, the default",
    "none": "the default, no filter",
    "softpatch": "softpatch",
    "srr": "srr",
}
COLOURS = {
    "oracle": "#888888",
    "llb": "#0066aa",
    "none": "#66aadd",
    "softpatch": "#b34700",
    "srr": "#dd9955",
}


def main() -> None:
    by_filter = means_by_filter(pq.read_table(HERE / "suite_rivals.parquet").to_pylist(), "i_auroc")
    base = by_filter[PATCHCORE]
    figure = Figure(figsize=(7.4, 3.4), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(0, color="black", linewidth=0.8)
    axes.annotate("plain PatchCore", (0.4, 0), xytext=(0, -11), textcoords="offset points", fontsize=8, ha="right")
    for name, label in LABELS.items():
        gain = {cell: 100 * (area - base[cell]) for cell, area in by_filter[name].items()}
        alphas = sorted({alpha for _, alpha in gain})
        means = [statistics.mean(_at(gain, alpha)) for alpha in alphas]
        axes.plot(
            alphas, means, marker="o", color=COLOURS[name], label=label, linestyle="--" if name == "oracle" else "-"
        )
        if name == "llb":
            axes.scatter([alpha for _, alpha in gain], list(gain.values()), s=9, color=COLOURS[name], alpha=0.4)
    axes.set(xlabel="alpha, share of anomalies among training images", ylabel="gain in image AUROC, points")
    axes.set_xticks(alphas)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(HERE.parent / "docs" / "worth.png")


def _at(gain: dict[Cell, float], alpha: float) -> list[float]:
    return [points for (_, at), points in gain.items() if at == alpha]


if __name__ == "__main__":
    main()
