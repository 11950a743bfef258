"""Comparison of new images with a run's own."""

import sys
from pathlib import Path
from typing import Any

import click

from llb_ray.cli.common import FOLDER, json_option, main, no_verify_option, print_json, refusals

_ALARM = 3  # exit status
_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


@main.command()
@click.argument("run_folder", metavar="RUN")
@click.argument("predictions", nargs=-1, required=True, type=FOLDER)
@click.option("--out", type=FOLDER, help="The page to write, such as drift.html.")
@click.option("--by", help="What a lot is: 'folder', or a column of --table; default: each of PREDICTIONS.")
@click.option("--table", type=FOLDER, help="CSV or Parquet: path, image_id if known, and the column.")
@click.option("--reference", type=FOLDER, help="A prediction to compare with; default: the run's held-out images.")
@click.option("--max-share", type=_SHARE, help="What share may be above the threshold; default: what the run expects.")
@click.option(
    "--level",
    type=_SHARE,
    default=0.01,
    show_default=True,
    help="Probability of any false alarm, of all lots together.",
)
@json_option
@no_verify_option
def drift(run_folder: str, predictions: tuple[Path, ...], out: Path | None, as_json: bool, **choices: Any) -> None:
    """Compare the scores of new images with those that a run's threshold is for; exit with 3 for an alarm.

    \b
    llb-ray drift runs/photos predictions/monday predictions/tuesday --out drift.html
    llb-ray drift runs/photos predictions --by lot --table lots.csv --reference predictions/accepted
    """
    with refusals() as console:
        from llb_ray import api
        from llb_ray.report.drift_table import drift_object, show_drift

        found = api.drift(run_folder, predictions, out=out, **choices)
        if as_json:
            print_json(drift_object(found))
        else:
            show_drift(console, found, out)
    if found.num_alarms:
        sys.exit(_ALARM)
