"""Commands on a run's report, and on decisions made by hand."""

from pathlib import Path
from typing import Any

import click

from llb_ray.cli.common import (
    FOLDER,
    address_option,
    executor_option,
    main,
    no_verify_option,
    refusals,
    report_option,
    send_to_trackers,
    write_page,
)


@main.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--data", type=FOLDER, help="Where the images are now, if they have moved.")
@no_verify_option
def report(run_folder: str, data: Path | None) -> None:
    """Write a finished run's report.html again: one page, to be opened in a browser; no server, no network.

    \b
    llb-ray report runs/photos
    """
    with refusals() as console:
        from llb_ray import api
        from llb_ray.engine.rundir.run_folder import RunFolder
        from llb_ray.remote import locate
        from llb_ray.report.console import show_report
        from llb_ray.report.progress_bars import watching

        folder = RunFolder.at(locate(run_folder))
        with watching(console) as watch:
            page = api.report(run_folder, data=data, progress=watch.counting("report"))
        show_report(console, page, folder.where)


@main.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--overrides", type=FOLDER, required=True, help="The overrides.csv exported from RUN/report.html.")
@click.option("--out", required=True, help="Where the new run goes, a folder or a URI; an unfinished one is resumed.")
@click.option("--by", default="", metavar="NAME", help="Author of the decisions, recorded with each.")
@click.option("--data", type=FOLDER, help="Where the images are now, if they have moved.")
@report_option
@executor_option
@address_option
@no_verify_option
def repurify(run_folder: str, overrides: Path, out: str, data: Path | None, no_report: bool, **choices: Any) -> None:
    """Make a finished run once more with decisions by hand; only what depends on them is done.

    \b
    llb-ray repurify runs/photos --overrides overrides.csv --by Ada --out runs/photos-2
    """
    with refusals() as console:
        from llb_ray import api
        from llb_ray.engine.rundir.run_folder import RunFolder
        from llb_ray.remote import locate
        from llb_ray.report.console import show_report, show_result
        from llb_ray.report.progress_bars import watching

        with watching(console, RunFolder.at(locate(out)).progress) as watch:
            result = api.repurify(run_folder, overrides, out=out, data=data, tell=watch.tell, **choices)
            page = None if no_report else write_page(watch, result, out, data)
        send_to_trackers(console, out, RunFolder.open(locate(out)).config().tracking)
        show_result(console, result)
        if page is not None:
            show_report(console, page, result.where)
