"""The table of a scan as files: CSV for programs, Markdown and LaTeX for papers."""

import csv
import io
import re
from collections.abc import Sequence

from llb_ray.names import cell as csv_cell
from llb_ray.scans.benchmark_table import MEAN, Line, cell, columns, title

_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}
_MARKDOWN = re.compile(r"([\\|<>*_`\[\]])")


def grid(made: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """Human-readable header and cells; columns that are the same in every line are left out."""
    shown = columns(made)
    total = len({line.category for line in made if line.category != MEAN})
    several = any(line.num_categories < total for line in made if line.category == MEAN)
    header = ["alpha", "filter", "category", *["categories"] * several, "seeds", *map(title, shown)]
    body = [
        [
            "-" if line.alpha is None else f"{line.alpha:g}",
            line.filter,
            line.category,
            *[f"{line.num_categories}"] * several,
            f"{line.num_seeds}",
            *(cell(line, column) for column in shown),
        ]
        for line in made
    ]
    return header, body


def as_csv(made: Sequence[Line]) -> str:
    """Every figure in full, as shares of one: a column for the mean over seeds and one for the deviation."""
    shown = columns(made)
    file = io.StringIO()
    writer = csv.writer(file)
    names = [name for column in shown for name in (column, f"{column}_sd")]
    writer.writerow(["alpha", "filter", "category", "categories", "seeds", *names])
    for line in made:
        values = [value for column in shown for value in (line.figures[column] or ("", ""))]
        alpha = "" if line.alpha is None else line.alpha
        writer.writerow([alpha, line.filter, csv_cell(line.category), line.num_categories, line.num_seeds, *values])
    return file.getvalue()


def as_bullets(notes: Sequence[str]) -> str:
    """A Markdown list; user-chosen names cannot break it."""
    return "".join(f"- {_escaped(note)}\n" for note in notes)


def as_markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table; user-chosen names cannot break it."""
    rows = [header, ["---"] * len(header), *(map(_escaped, row) for row in body)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def as_latex(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A LaTeX ``tabular`` with booktabs' rules; user-chosen names cannot break it."""
    lines = [" & ".join(map(_latex, row)) + r" \\" for row in (header, *body)]
    rules = [rf"\begin{{tabular}}{{lll{'r' * (len(header) - 3)}}}", r"\toprule", lines[0], r"\midrule", *lines[1:]]
    return "\n".join([*rules, r"\bottomrule", r"\end{tabular}", ""])


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)
