"""A review in the browser."""

from pathlib import Path

import click

from llb_ray.cli.common import FOLDER, executor_option, main, no_verify_option, refusals


@main.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--out", help="Where the button's repurify writes the new run; default: RUN-reviewed.")
@click.option("--decisions", type=FOLDER, help="The CSV file that decisions are saved in; default: RUN-overrides.csv.")
@click.option("--by", default="", metavar="NAME", help="The reviewer; the new run has the name beside each decision.")
@click.option("--data", type=FOLDER, help="Where the images are now, if they have moved.")
@click.option("--port", type=click.IntRange(1, 65535), default=8010, show_default=True)
@executor_option
@no_verify_option
def review(
    run_folder: str, out: str | None, decisions: Path | None, by: str, data: Path | None, port: int, executor: str
) -> None:
    """Serve a run's report on this machine: decisions are saved as they are made, and a button runs repurify.

    \b
    llb-ray review runs/photos
    llb-ray review runs/photos --out runs/photos-2 --by Ada
    """
    with refusals() as console:
        from llb_ray import api

        options, files = ["--executor", executor, "--by", by], {"out": out, "decisions": decisions, "data": data}
        with api.review(run_folder, port=port, options=options, **files) as (address, run):
            console.print(f"{address} is the review, for this machine only; Ctrl-C ends it", soft_wrap=True)
            run()
