"""Finished runs, scans and searches in experiment trackers."""

from typing import Any

import click

from llb_ray.cli.common import main, no_verify_option, refusals, send_to_trackers


@main.command()
@click.argument("folder", metavar="FOLDER")
@click.option(
    "--tracker",
    "trackers",
    type=click.Choice(["mlflow", "wandb", "tensorboard"]),
    multiple=True,
    required=True,
    help="May be given several times.",
)
@no_verify_option
def track(folder: str, trackers: Any) -> None:
    """Send a finished run, scan or search to MLflow, Weights & Biases or TensorBoard.

    The setting tracking=[mlflow] does the same at the end of `run`, `scan`, `certify` and `tune`. Jobs of a scan and
    trials of a search become runs of their own below it.

    \b
    llb-ray track runs/photos --tracker tensorboard
    MLFLOW_TRACKING_URI=http://127.0.0.1:5000 llb-ray track runs/photos --tracker mlflow
    """
    with refusals() as console:
        send_to_trackers(console, folder, trackers)
