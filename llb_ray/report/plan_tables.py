"""Output of `llb-ray doctor` and `llb-ray plan`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console

from llb_ray.engine.rundir.stage_timer import duration

if TYPE_CHECKING:  # a forecast imports torch
    from llb_ray.planning.doctor import Check
    from llb_ray.planning.forecast import Forecast

_GIB = 2**30


def show_check(console: Console, check: "Check") -> None:
    """One line, and a second that says what to do unless all is well."""
    console.print(f"{check.state:4}  {check.name:13}  {check.found}", soft_wrap=True, highlight=False, markup=False)
    if check.fix:
        console.print(f"      {'':13}  -> {check.fix}", soft_wrap=True, highlight=False, markup=False)


def checks_json(checks: "Sequence[Check]") -> dict[str, Any]:
    """The same for programs: docs/file-formats.md."""
    return {"ok": all(check.state != "fail" for check in checks), "checks": [asdict(check) for check in checks]}


def show_forecast(console: Console, forecast: "Forecast") -> None:
    """Time by stage, what it goes into, what a run needs of the machine, and what takes longest."""
    rows = [(f"stage {stage.stage}", duration(stage.seconds), stage.what) for stage in forecast.stages]
    rows.append(("all", duration(forecast.seconds), f"workers at once: {forecast.cluster.slots}"))
    rows += [
        (need.name, _size(need.needed_bytes), f"of {_size(need.free_bytes)} free; {need.what}")
        for need in forecast.needs
    ]
    longest = forecast.bottleneck
    share = longest.seconds / forecast.seconds
    lines = ["llb-ray plan", *(f"{name:19}  {amount:>11}  {what}" for name, amount, what in rows)]
    lines += [*(f"note: {note}" for note in forecast.notes), f"bottleneck: {longest.stage}, {share:.0%} of the time"]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def forecast_json(forecast: "Forecast") -> dict[str, Any]:
    """The same for programs: docs/file-formats.md."""
    return {
        "seconds": forecast.seconds,
        "stages": [asdict(stage) for stage in forecast.stages],
        "needs": [{**asdict(need), "fits": not need.refusal} for need in forecast.needs],
        "workers_at_once": forecast.cluster.slots,
        "bottleneck": forecast.bottleneck.stage,
        "notes": forecast.notes,
        "refusals": forecast.refusals,
        "calibration_s": forecast.calibration_s,
    }


def _size(num_bytes: int) -> str:
    """Human-readable: ``512 MiB``, ``3.25 GiB``."""
    return f"{num_bytes / _GIB:.3g} GiB" if num_bytes >= _GIB else f"{num_bytes / 2**20:.3g} MiB"
