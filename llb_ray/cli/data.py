"""Commands that make training sets and list them."""

from pathlib import Path
from typing import Any

import click

from llb_ray.cli.common import FOLDER, main, refusals

_KINDS = ["folder", "mvtec", "visa", "real_iad", "table", "arrays"]


@main.command()
@click.argument("kind", type=click.Choice(_KINDS))
@click.argument("root", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="The manifest file to write, for llb-ray run --manifest.")
@click.option("--category", "categories", multiple=True, help="Repeat for several; default: all that are there.")
@click.option("--table", type=FOLDER, help="table: the CSV or Parquet file; visa: a split of your own.")
@click.option("--columns", type=FOLDER, help="CSV or Parquet: `path`, without its suffix, and columns to add.")
@click.option("--group-pattern", help="Searched in the path; its first group names the object (folder, mvtec, visa).")
@click.option("--views", type=click.Choice(["multi", "single"]), help="real_iad: five views, or the top one alone.")
@click.option("--images", type=click.Choice(["realiad_1024", "realiad_raw"]), help="real_iad: where the images lie.")
@click.option("--alpha", type=float, help="real_iad: the official contaminated lists of this share.")
@click.option("--write-to", type=FOLDER, help="arrays: the folder that the images are written to.")
@click.option("--check/--no-check", "check_files", default=True, help="Look for every image and mask.")
@click.option("--skip-bad", is_flag=True, help="Leave out images with a problem instead of refusing all.")
def manifest(kind: str, root: Path, out: Path, **options: Any) -> None:
    """List the images of a data set, by its own layout and tables, in one Arrow file.

    \b
    llb-ray manifest mvtec mvtec_ad --out mvtec.arrow
    llb-ray manifest real_iad Real-IAD --alpha 0.1 --out fuiad.arrow
    llb-ray manifest table photos --table lots.csv --out photos.arrow
    """
    with refusals() as console:
        from llb_ray import api
        from llb_ray.config import DatasetOptions, parse_as
        from llb_ray.report.listing import show_listing

        # A path that is typed is relative to where it is typed; one in a recipe, to the data set.
        said = {
            name: value.absolute() if isinstance(value, Path) else value
            for name, value in options.items()
            if value not in (None, ())
        }
        listing = api.manifest(kind, root, out=out, options=parse_as(DatasetOptions, said, "llb-ray manifest"))
        show_listing(console, listing, out)


@main.command()
@click.argument("folder")
@click.option("--category", "categories", multiple=True, help="Repeat for several; default: all.")
@click.option("--alpha", type=float, default=0.2, show_default=True, help="Anomalous share of the training objects.")
@click.option("--seed", type=int, default=0, show_default=True)
def synth(folder: str, categories: tuple[str, ...], alpha: float, seed: int) -> None:
    """Write a contaminated synthetic data set with known truth.

    \b
    llb-ray synth photos --category gear --alpha 0.2
    """
    with refusals() as console:
        from llb_ray import api

        for root in api.synth(folder, categories=categories, alpha=alpha, seed=seed):
            console.print(str(root), soft_wrap=True, highlight=False, markup=False)
