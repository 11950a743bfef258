"""Scans of whole benchmarks, and their tables."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llb_ray.cli.common import (
    FOLDER,
    address_option,
    executor_option,
    main,
    no_verify_option,
    override_option,
    refusals,
    send_to_trackers,
)
from llb_ray.extensions import DATASETS, FILTERS

if TYPE_CHECKING:
    from pyarrow import Table
    from rich.console import Console

    from llb_ray.config import ScanConfig

Command = Callable[..., Any]
_CHOICES: Sequence[Callable[[Command], Command]] = (
    click.option("--config", "config_path", type=FOLDER, help="YAML file of a scan, or of the runs it is made of."),
    click.option("--dataset", help=f"{', '.join(DATASETS.names())} (scan.dataset.kind)."),
    click.option("--root", help="Where the data set is (scan.dataset.root)."),
    click.option("--categories", help="all, or names with commas between them (scan.dataset.categories)."),
    click.option("--alphas", help="Anomalous shares, with commas (scan.alphas)."),
    click.option("--filters", help="With commas (scan.filters)."),
    click.option("--seeds", help="With commas (scan.seeds)."),
    click.option("--out", required=True, help="Folder of the results; an unfinished scan is resumed."),
    override_option,
    executor_option,
    address_option,
    no_verify_option,
)


def _scanning(command: Command) -> Command:
    """The options of every command that scans."""
    for option in reversed(_CHOICES):
        command = option(command)
    return command


@main.command()
@_scanning
def scan(
    config_path: Path | None,
    out: str,
    overrides: tuple[str, ...],
    executor: str,
    ray_address: str | None,
    **chosen: str,
) -> None:
    """Run every category, noise level, filter and seed of a benchmark, and make one table of them.

    \b
    llb-ray scan --dataset mvtec --root mvtec --categories bottle,cable --filters none,llb --out runs/scan
    llb-ray scan --config configs/real_iad_fuiad.yaml --root /data/real_iad --out runs/fuiad
    """
    with refusals() as console:
        from llb_ray import config
        from llb_ray.report.scan_tables import show_scan

        settings = config.load_scan(config_path, [*overrides, *_scanned(chosen)])
        _scan(console, show_scan, settings, out, executor, ray_address)


@main.command()
@_scanning
def certify(
    config_path: Path | None,
    out: str,
    overrides: tuple[str, ...],
    executor: str,
    ray_address: str | None,
    **chosen: str | None,
) -> None:
    """Measure on labelled data how well filters undo the harm of anomalies: a scan, shown as a robustness curve.

    By default: alphas 0, 0.1, 0.2 and 0.4, five seeds, and all filters.

    \b
    llb-ray certify --config configs/demo.yaml --dataset mvtec --root photos --out runs/certify
    """
    with refusals() as console:
        from llb_ray import config
        from llb_ray.report.robustness_table import show_robustness

        usual = {"alphas": [0, 0.1, 0.2, 0.4], "seeds": [0, 1, 2, 3, 4], "filters": FILTERS.names()}
        settings = config.load_scan(config_path, [*overrides, *_scanned(chosen)], usual)
        _scan(console, show_robustness, settings, out, executor, ray_address)


@main.command()
@click.argument("run_folder", metavar="SCAN")
@click.option("--published", is_flag=True, help="Print what others have published on Real-IAD beside it.")
def table(run_folder: str, published: bool) -> None:
    """Print the table of a scan, with the rows available so far, and write it as CSV, Markdown and LaTeX.

    \b
    llb-ray table runs/fuiad --published
    """
    with refusals() as console:
        from llb_ray import api
        from llb_ray.report.scan_tables import show_scan

        show_scan(console, api.table(run_folder), Path(run_folder), published)


def _scan(
    console: "Console",
    show: "Callable[[Console, Table, Path], None]",
    settings: "ScanConfig",
    out: str,
    executor: str,
    ray_address: str | None,
) -> None:
    """Scan, show what came of it, and end with exit status 1 where a job failed."""
    from llb_ray import api
    from llb_ray.remote import local_folder
    from llb_ray.report.progress_bars import watching
    from llb_ray.scans.job_results import failures

    folder = local_folder("--out", out)
    with watching(console, folder / "progress") as watch:
        rows = api.scan(settings, out=folder, executor=executor, ray_address=ray_address, tell=watch.tell)
    show(console, rows, folder)
    send_to_trackers(console, folder, settings.tracking)
    if failures(rows).num_rows:
        sys.exit(1)


def _scanned(chosen: Mapping[str, str | None]) -> list[str]:
    """The options of a scan as overrides; lists are typed with commas, and all categories is no choice of any."""
    keys = {"dataset": "dataset.kind", "root": "dataset.root", "categories": "dataset.categories"}
    given = {name: text for name, text in chosen.items() if text is not None}
    values = {name: text if name in ("dataset", "root") else f"[{text}]" for name, text in given.items()}
    return [f"scan.{keys.get(name, name)}={'[]' if text == '[all]' else text}" for name, text in values.items()]
