"""The README's chart of what the default is worth, from suite_rivals.parquet: `python benchmarks/suite_chart.py`.

Lines are means over sets; a dot is one set at one alpha, of the default.
"""

import statistics
from pathlib import Path

import pyarrow.parquet as pq
from matplotlib.figure import Figure
from suite import ALL, PATCHCORE, means_by_filter, points_at, points_gained

HERE = Path(__file__).parent
LINES = {  # label, colour and style by filter
    "oracle": ("oracle, knows the labels", "#888888", "--"),
    "llb": ("llb, the default", "#0066aa", "-"),
    "none": ("the default, no filter", "#66aadd", "-"),
    "softpatch": ("softpatch", "#b34700", "-"),
    "srr": ("srr", "#dd9955", "-"),
}


def main() -> None:
    figures = means_by_filter(pq.read_table(HERE / "suite_rivals.parquet").to_pylist(), "i_auroc")
    figure = Figure(figsize=(7.4, 3.4), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(0, color="black", linewidth=0.8)
    axes.annotate("plain PatchCore", (0.4, 0), xytext=(0, -11), textcoords="offset points", fontsize=8, ha="right")
    for name, (label, colour, style) in LINES.items():
        gain = points_gained(figures, name, PATCHCORE)
        means = [statistics.mean(points_at(gain, alpha)) for alpha in ALL]
        axes.plot(ALL, means, marker="o", color=colour, label=label, linestyle=style)
        if name == "llb":
            axes.scatter([alpha for _, alpha in gain], list(gain.values()), s=9, color=colour, alpha=0.4)
    axes.set(xlabel="alpha, share of anomalies among training images", ylabel="gain in image AUROC, points")
    axes.set_xticks(ALL)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(HERE.parent / "docs" / "worth.png")


if __name__ == "__main__":
    main()
