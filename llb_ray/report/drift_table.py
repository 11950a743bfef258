"""A drift comparison on the terminal, and as JSON."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llb_ray.engine.drift.alarms import Watched
from llb_ray.engine.drift.watch import Drift

_COLUMNS = ("lot", "images", "above (95 % interval)", "distance", "features", "alarm")


def show_drift(console: Console, drift: Drift, page: Path | None) -> None:
    """A line for each lot, and what they were compared with."""
    table = Table(box=None, pad_edge=False)
    for name in _COLUMNS:
        is_text = name in ("lot", "alarm")
        table.add_column(name, overflow="fold", no_wrap=not is_text, justify="left" if is_text else "right")
    for lot in drift.watched:
        table.add_row(*_cells(lot))
    console.print(table)
    reference = drift.reference
    console.print(
        f"compared with {reference.name} ({len(reference.score_M)} images); {drift.num_alarms} of {len(drift.watched)} "
        f"lots raise an alarm (threshold {reference.threshold:.4g}, at most {reference.max_share:.2%} above it)",
        soft_wrap=True,
    )
    if page is not None:
        console.print(str(page), soft_wrap=True)


def drift_object(drift: Drift) -> dict[str, Any]:
    """The same, JSON-ready."""
    reference = drift.reference
    num_features = 0 if reference.feature_MS is None else len(reference.feature_MS)
    return {
        "run": drift.run,
        "reference": {"name": reference.name, "num_images": len(reference.score_M), "num_features": num_features},
        "threshold": reference.threshold,
        "max_share": reference.max_share,
        "level": drift.level,
        "num_alarms": drift.num_alarms,
        "lots": [asdict(lot) for lot in drift.watched],
    }


def _cells(lot: Watched) -> list[str]:
    low, high = lot.share_interval
    return [
        lot.lot,
        f"{lot.num_images:,}",
        f"{lot.share:.1%} ({low:.1%} to {high:.1%})",
        f"{lot.distance:.3f}",
        "-" if lot.feature_shift is None else f"{lot.feature_shift.distance:.2f} of {lot.feature_shift.limit:.2f}",
        ", ".join(lot.alarms),
    ]
