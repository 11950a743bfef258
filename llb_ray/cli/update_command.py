"""A finished run with further images."""

from pathlib import Path
from typing import Any

import click

from llb_ray.cli.common import (
    FOLDER,
    address_option,
    executor_option,
    json_option,
    main,
    no_verify_option,
    print_json,
    refusals,
    report_option,
    send_to_trackers,
    write_page,
)


@main.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--data", type=FOLDER, required=True, help="The folder of further images, of the same product.")
@click.option("--out", required=True, help="Where the new run goes, a folder or a URI; an unfinished one is resumed.")
@click.option("--corrected", type=FOLDER, help="A folder of predict in whose scores.csv you corrected decisions.")
@click.option("--by", default="", metavar="NAME", help="Author of the corrections, recorded with each.")
@report_option
@executor_option
@address_option
@json_option
@no_verify_option
def update(run_folder: str, data: Path, out: str, no_report: bool, as_json: bool, **choices: Any) -> None:
    """Make a finished run once more with further images: only these are encoded, and no sub-model is trained.

    \b
    llb-ray update runs/photos --data new_photos --out runs/photos-2
    llb-ray update runs/photos --data new_photos --out runs/photos-2 --corrected predictions --by Ada
    """
    with refusals(stderr=as_json) as console:
        from llb_ray import api
        from llb_ray.engine.inspection.changes import changes_between
        from llb_ray.engine.inspection.finished_run import FinishedRun
        from llb_ray.engine.rundir.run_folder import RunFolder
        from llb_ray.remote import locate
        from llb_ray.report.changes_table import changes_object, show_changes
        from llb_ray.report.console import show_report, show_result
        from llb_ray.report.json_output import result_object
        from llb_ray.report.progress_bars import watching

        with watching(console, RunFolder.at(locate(out)).progress) as watch:
            reading = watch.counting("reading", "files")
            result = api.update(run_folder, data, out=out, tell=watch.tell, progress=reading, **choices)
            page = None if no_report else write_page(watch, result, out)
        before, after = (FinishedRun(RunFolder.open(locate(where)), None) for where in (run_folder, out))
        send_to_trackers(console, out, after.config.tracking)
        changes = changes_between(before, after)
        if as_json:
            print_json(result_object(result) | {"changes": changes_object(changes)})
            return
        show_result(console, result)
        show_changes(console, changes)
        if page is not None:
            show_report(console, page, result.where)
