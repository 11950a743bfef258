"""What a finished run is good for."""

from pathlib import Path

import click

from llb_ray.cli.common import FOLDER, main, refusals


@main.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--data", type=FOLDER, required=True, help="A folder of new images.")
@click.option("--out", required=True, help="The folder where scores and overlays go.")
def predict(run_folder: str, data: Path, out: str) -> None:
    """Score new images with a run's final detector: Parquet, CSV and heatmap overlays.

    \b
    llb-ray predict runs/photos --data new_photos --out predictions
    """
    with refusals() as console:
        from llb_ray import api

        prediction = api.predict(run_folder, data, out=out)
        console.print(prediction.sentence(), soft_wrap=True, highlight=False, markup=False)
