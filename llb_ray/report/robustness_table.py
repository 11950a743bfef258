"""Output of `llb-ray certify`: the robustness curve, and a table of what each filter does at each noise level."""

import csv
import io
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from llb_ray.config import filter_traits
from llb_ray.disk import write_atomic
from llb_ray.names import cell
from llb_ray.report.scan_tables import failed_lines, print_table, say
from llb_ray.scans.robustness import Interval, Robustness, mean_gap_closed, missing_cells, robustness
from llb_ray.scans.table_export import as_markdown

_HEADER = ["category", "alpha", "filter", "seeds", "I-AUROC", "AUPRO", "gap closed", "harm", "residual contamination"]
_HEADER += ["normals lost", "alpha-hat error", "seconds", "images/s"]
_STYLES = ("o-", "s--", "^-.", "D:", "v-", "P--", "X-.", "*:")
# Okabe and Ito's, which the colour-blind can tell apart; black is the oracle's or the last one's.
_COLOURS = ("#555555", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def show_robustness(console: Console, rows: pa.Table, out: Path) -> None:
    """The table on the terminal, and robustness.{csv,md,png} beside the results; then what failed and why."""
    made = robustness(rows)
    body = [_cells(line) for line in made]
    write_atomic(out / "robustness.csv", _as_csv(made).encode())
    write_atomic(out / "robustness.md", as_markdown(_HEADER, body).encode())
    plot_robustness(made, out / "robustness.png")
    print_table(console, "llb-ray certify (AUROC and shares in percent, 95 % intervals over seeds)", _HEADER, body, 3)
    names = [name for name in dict.fromkeys(line.filter for line in made) if filter_traits(name).bound is None]
    gaps = {name: gap for name in names if (gap := mean_gap_closed(made, name)) is not None}
    say(
        console,
        (f"{name} closes {100 * gap:.0f} % of the oracle gap on average over alpha > 0" for name, gap in gaps.items()),
    )
    say(console, missing_cells(made))
    say(console, failed_lines(rows))
    say(console, [f"curve    {out / 'robustness.png'}", f"table    {out / 'robustness.csv'}, robustness.md"])


def plot_robustness(made: Sequence[Robustness], path: Path) -> None:
    """One panel per category: I-AUROC against the noise level, a line per filter, its 95 % interval shaded."""
    categories = list(dict.fromkeys(line.category for line in made))
    figure = Figure(figsize=(4.5 * len(categories) + 1.5, 4), layout="constrained")
    for number, category in enumerate(categories):
        axes = figure.add_subplot(1, len(categories), number + 1)
        _panel(axes, [line for line in made if line.category == category])
        axes.set_title(category, parse_math=False)
    if categories:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_atomic(path, image.getvalue())


def _panel(axes: Axes, made: Sequence[Robustness]) -> None:
    for number, name in enumerate(dict.fromkeys(line.filter for line in made)):
        mine = [(line.alpha, *line.i_auroc) for line in made if line.filter == name and line.i_auroc is not None]
        if mine:
            alpha, middle, low, high = zip(*mine, strict=True)
            colour = _COLOURS[number % len(_COLOURS)]
            axes.plot(alpha, middle, _STYLES[number % len(_STYLES)], color=colour, label=name, markersize=5)
            axes.fill_between(alpha, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xticks(sorted({line.alpha for line in made}))
    axes.set_xlabel("alpha, anomalous share of the training objects")
    axes.set_ylabel("I-AUROC")
    axes.grid(alpha=0.3)


def _cells(line: Robustness) -> list[str]:
    return [
        line.category,
        f"{line.alpha:g}",
        line.filter,
        f"{line.num_seeds}",
        _interval(line.i_auroc),
        _interval(line.aupro),
        _interval(line.gap_closed),
        *map(_percent, (line.harm, line.residual_contamination, line.normals_lost, line.estimate_error)),
        f"{line.seconds:.1f}",
        f"{line.images_per_second:.1f}",
    ]


def _interval(figure: Interval | None) -> str:
    if figure is None:
        return "-"
    middle, low, high = (f"{100 * value:.1f}" for value in figure)
    return middle if low == high else f"{middle} [{low}, {high}]"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _as_csv(made: Sequence[Robustness]) -> str:
    """Every figure in full, as shares of one; intervals as three columns."""
    names = [spec.name for spec in fields(Robustness) if spec.name != "seeds"]  # num_seeds says how many
    wide = {"i_auroc", "aupro", "gap_closed"}
    header = [
        column for name in names for column in ([name, f"{name}_low", f"{name}_high"] if name in wide else [name])
    ]
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(header)
    for line in made:
        values = ((getattr(line, name) or ("", "", "")) if name in wide else (getattr(line, name),) for name in names)
        row = [value for group in values for value in group]
        writer.writerow([cell(value) if isinstance(value, str) else value for value in row])
    return file.getvalue()
