"""Figures of a run's detector in each runtime, on the terminal and as JSON."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from llb_ray.exporting.speed import RuntimeSpeed, Speed

ROWS = (
    "device",
    "images/s",
    "latency, median",
    "latency, p95",
    "load",
    "memory of the process",
    "model",
    "difference from torch",
    "other decisions",
)


def show_speed(console: Console, speed: Speed) -> None:
    """A column for each runtime, and what was measured."""
    table = Table("", *(f"{one.runtime} {one.version}" for one in speed.runtimes), box=None, pad_edge=False)
    for row in zip(ROWS, *(figures(one, speed.scale) for one in speed.runtimes), strict=True):
        table.add_row(*row)
    console.print(table)
    for name, reason in speed.unavailable.items():
        console.print(f"{name}: {reason}", soft_wrap=True)
    console.print(
        f"{speed.detector} of {speed.run}: {speed.num_images} images, CPU threads: {speed.threads}; images/s in "
        f"batches of {speed.batch}, latency of one image; reading and resizing one takes {_ms(speed.read_s)} more",
        soft_wrap=True,
    )


def figures(one: RuntimeSpeed, scale: float) -> list[str]:
    """The cells of a column, beside `ROWS`; the difference is the largest of scores and maps, as a share of `scale`."""
    difference = max(one.score_difference, one.map_difference) / scale if scale else 0.0
    sizes = [f"{size / 2**20:,.0f} MiB" for size in (one.peak_bytes, one.model_bytes)]
    times = [_ms(one.p50_s), _ms(one.p95_s), f"{one.load_s:.1f} s"]
    return [one.device, f"{one.images_per_s:.1f}", *times, *sizes, f"{difference:.0e}", str(one.num_other_decisions)]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def speed_object(speed: Speed) -> dict[str, Any]:
    """The same, JSON-ready."""
    return asdict(speed)
