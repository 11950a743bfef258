"""Changes of decisions from one run to another, on the terminal and as JSON."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from llb_ray.engine.inspection.changes import Changes

_MOST = 20


def show_changes(console: Console, changes: Changes) -> None:
    """Counts, and a line for each of the first images whose decision changed."""
    before, after = (None if value is None else f"{value:.4g}" for value in changes.thresholds)
    new = f"{changes.num_new} new images: {changes.num_new_kept} kept"
    console.print(
        f"{new}, {changes.num_new - changes.num_new_kept} rejected; of {changes.num_known} known ones the decision "
        f"changed for {len(changes.changed)}; threshold {before or 'none'} before, {after or 'none'} now",
        soft_wrap=True,
    )
    if changes.changed:
        table = Table("image", "before", "now", "reason", box=None, pad_edge=False)
        for one in changes.changed[:_MOST]:
            table.add_row(one.path, one.before, one.after, one.reason)
        console.print(table)
    if len(changes.changed) > _MOST:
        console.print(f"... and {len(changes.changed) - _MOST} more: purified/ of both runs has all")


def changes_object(changes: Changes) -> dict[str, Any]:
    """The same, JSON-ready, with all images."""
    return asdict(changes)
