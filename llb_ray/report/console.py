"""The terminal: the closing table of a run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from llb_ray.ensemble.threshold import threshold_titles
from llb_ray.metrics.metric_names import of_run

if TYPE_CHECKING:  # some of it imports torch
    from llb_ray.engine.features.cache_budget import EncoderPasses
    from llb_ray.engine.inspection.run_status import Outcome, Status
    from llb_ray.engine.pipeline.pipeline import Result
    from llb_ray.engine.rundir.stage_timer import StageTime

_FEW_ABOVE = 0.5  # of the rejected images, below which a threshold misses more anomalies than it finds
_WORTH_A_ROW_S = 0.1
_NORMALS = {"bulk": "the bulk of the kept", "kept": "the kept", "all": "all"}


def show_result(console: Console, result: "Result") -> None:
    """The closing table: images, metrics, encoder passes, seconds per stage, and where the files are."""
    found = (_image_rows(result), _threshold_rows(result.threshold), _metric_rows(result.metrics))
    _show_table(console, result.where, chain(*found, _encoder_rows(result.passes), _time_rows(result.times)))


def show_threshold(console: Console, threshold: dict[str, Any]) -> None:
    """The threshold that a run has now, by its facts (threshold.json)."""
    console.print(_table("llb-ray threshold", _threshold_rows(threshold)))


def show_report(console: Console, page: Path, where: str) -> None:
    """Print the report's path; of a run at a URI, also the copy on this machine, which a browser can open."""
    copy = f", here {page}" if not Path(where).is_absolute() else ""
    console.print(f"report            {where}/{page.name}{copy}", soft_wrap=True, highlight=False, markup=False)


def show_outcome(console: Console, status: "Status", outcome: "Outcome") -> None:
    """The same of a run that another process made, which kept its encoder passes to itself."""
    found = (_image_rows(outcome), _threshold_rows(outcome.threshold), _metric_rows(outcome.metrics))
    _show_table(console, status.where, chain(*found, _time_rows(status.times)))


def _show_table(console: Console, where: str, rows: Iterable[tuple[str, str]]) -> None:
    console.print(_table("llb-ray run", rows))
    # Not in the table: a path that is folded or cut cannot be copied.
    console.print(f"purified dataset  {where}/purified", soft_wrap=True, highlight=False, markup=False)
    console.print(f"all files         {where}", soft_wrap=True, highlight=False, markup=False)


def _table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    for name, value in rows:
        table.add_row(name, value)
    return table


def _image_rows(result: "Result | Outcome") -> Iterator[tuple[str, str]]:
    yield "training images", f"{result.num_input}"
    yield "  kept", f"{result.num_kept}"
    yield "  rejected", f"{result.num_rejected}"
    yield "  quarantined", f"{result.num_quarantined}"
    if said := result.contamination:
        yield "anomalous, estimated", f"{said['share']:.3f} ({said['low']:.3f} to {said['high']:.3f})"
    for name, reason in result.missing.items():
        yield "missing", reason if reason.startswith(name) else f"{name}: {reason}"


def _threshold_rows(threshold: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for title, facts in threshold_titles(threshold).items():
        yield from _rows_of_threshold(title, facts)


def _rows_of_threshold(title: str, threshold: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    low, high = threshold["threshold_interval"]
    yield title, f"{threshold['threshold']:.4g} ({low:.4g} to {high:.4g})"
    rate, (low, high) = threshold["false_alarm_rate"], threshold["false_alarm_interval"]
    normals, count = threshold["normals"], threshold["num_standing_out"]
    yield "  false alarms", f"{rate:.3f} ({low:.3f} to {high:.3f}) of images like {_NORMALS[normals]}"
    if normals != "all":
        yield "  upper bound", f"about {threshold['rate_if_all_are_normal']:.3f}, if every other image was normal"
    above, rejected = threshold["num_rejected_above"], threshold["num_rejected"]
    if rejected:
        few = "; warning: few, anomalies like these pass as normal" if above < _FEW_ABOVE * rejected else ""
        yield "  rejected, above", f"{above} of {rejected}{few}"
    if normals == "kept" and count > rate * threshold["num_held_out"]:
        lower = threshold["threshold_if_bulk_is_normal"]
        kept = threshold.get("num_standing_out_kept", count)  # a file of an older version does not say
        some = "" if kept == count else f" ({kept} kept)"
        yield "  without suspects", f"{lower:.4g}, if the {count} outliers{some} are anomalous"


def _encoder_rows(passes: "EncoderPasses") -> Iterator[tuple[str, str]]:
    yield "encoder passes", f"{passes.done:,} images"
    yield "  without a cache", f"{passes.recomputing:,} images"
    yield "features cached", f"{passes.cached_bytes / 2**20:,.1f} MiB"


def _time_rows(times: "Sequence[StageTime]") -> Iterator[tuple[str, str]]:
    reused = [stage.stage for stage in times if stage.reused]
    if reused:
        yield "up to date", ", ".join(reused)
    fresh = [stage for stage in times if not stage.reused]
    for stage in fresh:
        if stage.seconds >= _WORTH_A_ROW_S:
            yield f"stage {stage.stage}", f"{stage.seconds:.2f} s"
    others = [stage.seconds for stage in fresh if stage.seconds < _WORTH_A_ROW_S]
    if others:
        yield "other stages", f"{sum(others):.2f} s"


def _metric_rows(metrics: dict[str, Any]) -> Iterator[tuple[str, str]]:
    known = [(title, metrics[name]) for name, title in of_run().items() if name in metrics]
    if not known:
        yield "metrics", "skipped: no labels"
    for title, value in known:
        yield title, _figure(value)
    if metrics.get("pixel_mode") == "streaming":
        bound = max((bound for bound in metrics["pixel_error_bound"].values() if bound is not None), default=0.0)
        yield "pixels counted", f"pixel metrics are exact within {bound:.0e}"
    for name, own in metrics.get("by_category", {}).items():
        said = (f"{title} {_figure(own[key])}" for key, title in of_run().items() if key in own)
        yield f"  {name}", ", ".join(said)
    left_out = metrics.get("num_left_out_of_pixel_metrics")
    if left_out:
        yield "left out of pixel metrics", f"{left_out} anomalous test images without a usable mask"


def _figure(value: float | None) -> str:
    return "undefined here" if value is None else f"{value:.3f}"
