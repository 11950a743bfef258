"""The metrics of metrics.json that tables show: one line each.

Here and not beside the functions that compute them, so that reading a finished run does not import scikit-learn.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Level = Literal["training", "image", "object", "pixel", "region"]  # in the order of a run's closing table


class Metric(NamedTuple):
    """A metric for people: a share of one."""

    title: str
    level: Level
    place: int | None  # in the tables of a scan, by what people ask first; None: not there


METRICS: Mapping[str, Metric] = {  # in the order of the columns of a scan's results, which are in its files
    "i_auroc": Metric("I-AUROC", "image", 0),
    "s_auroc": Metric("S-AUROC", "object", 1),
    "p_auroc": Metric("P-AUROC", "pixel", 3),
    "aupro": Metric("AUPRO", "region", 2),
    "i_ap": Metric("I-AP", "image", 6),
    "p_ap": Metric("P-AP", "pixel", 8),
    "i_f1_max": Metric("I-F1-max", "image", 7),
    "p_f1_max": Metric("P-F1-max", "pixel", 9),
    "contamination": Metric("contamination before", "training", None),
    "residual_contamination": Metric("residual contamination", "training", 4),
    "normals_lost": Metric("normals lost", "training", 5),
}
_LEVELS: tuple[Level, ...] = ("training", "image", "object", "pixel", "region")


def of_run() -> dict[str, str]:
    """The title of each metric, by its key, in the order of a run's closing table."""
    return {name: one.title for level in _LEVELS for name, one in METRICS.items() if one.level == level}


def of_scan() -> dict[str, str]:
    """The titles of those that the tables of a scan show, the most asked for first: a terminal shows what fits."""
    shown = [(one.place, name, one.title) for name, one in METRICS.items() if one.place is not None]
    return {name: title for _, name, title in sorted(shown)}


def of_detection() -> tuple[str, ...]:
    """The keys of those that measure the final detector."""
    return tuple(name for name, one in METRICS.items() if one.level != "training")
