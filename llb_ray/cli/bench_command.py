"""Speed, memory and size of a run's detector."""

from pathlib import Path
from typing import Any

import click

from llb_ray.cli.common import FOLDER, json_option, main, no_verify_option, print_json, refusals


@main.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--data", type=FOLDER, help="Where the run's images are now, if they have moved.")
@click.option("--images", type=click.IntRange(min=1), default=64, show_default=True, help="Images to judge.")
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, help="Images at once for images/s.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default: resources.num_cpus of the run.")
@json_option
@no_verify_option
def bench(run_folder: str, data: Path | None, as_json: bool, **choices: Any) -> None:
    """Measure images/s, latency, memory and size of a run's detector: torch, and ONNX where that is installed.

    \b
    llb-ray bench runs/photos
    llb-ray bench runs/photos --threads 4 --batch 8 --json
    """
    with refusals(stderr=as_json) as console:
        from llb_ray import api
        from llb_ray.report.speed_table import show_speed, speed_object

        speed = api.bench(run_folder, data=data, **choices)
        if as_json:
            print_json(speed_object(speed))
        else:
            show_speed(console, speed)
