"""Commands that make training sets and list them."""

from pathlib import Path
from typing import Any

import click

from llb_ray.cli.common import FOLDER, main, refusals
from llb_ray.extensions import DATASETS

_REALIAD = ["realiad_1024", "realiad_512", "realiad_256", "realiad_raw"]


@main.command()
@click.argument("kind", type=click.Choice(DATASETS.names()))
@click.argument("root", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="The manifest file to write, for llb-ray run --manifest.")
@click.option("--category", "categories", multiple=True, help="Repeat for several; default: all that are there.")
@click.option(
    "--table",
    type=FOLDER,
    help="table: the list (.csv, .tsv, .parquet, .txt); visa: a split of your own; coco, cvat: the file of labels.",
)
@click.option("--columns", type=FOLDER, help="CSV or Parquet: `path`, without its suffix, and columns to add.")
@click.option("--group-pattern", help="Searched in the path; its first group names the object (folder, mvtec, visa).")
@click.option("--views", type=click.Choice(["multi", "single"]), help="real_iad: five views, or the top one alone.")
@click.option(
    "--images",
    type=click.Choice(_REALIAD),
    help="real_iad: the folder of the images.",
)
@click.option("--alpha", type=float, help="real_iad: the official contaminated lists of this share.")
@click.option("--write-to", type=FOLDER, help="arrays, huggingface: the folder that the images are written to.")
@click.option("--check/--no-check", "check_files", default=True, help="Look for every image and mask.")
@click.option("--skip-bad", is_flag=True, help="Leave out images with a problem instead of refusing all.")
def manifest(kind: str, root: Path, out: Path, **options: Any) -> None:
    """List the images of a data set, by its own layout and tables, in one Arrow file.

    \b
    llb-ray manifest mvtec mvtec_ad --out mvtec.arrow
    llb-ray manifest real_iad Real-IAD --alpha 0.1 --out fuiad.arrow
    llb-ray manifest coco photos --table instances.json --out photos.arrow
    llb-ray manifest huggingface downloaded --write-to photos --out photos.arrow
    llb-ray manifest table photos --table lots.csv --out photos.arrow
    """
    with refusals() as console:
        from llb_ray import api
        from llb_ray.config import DatasetOptions, parse_as
        from llb_ray.report.listing_table import show_listing

        # A path that is typed is relative to where it is typed; one in a recipe, to the data set.
        said = {
            name: value.absolute() if isinstance(value, Path) else value
            for name, value in options.items()
            if value not in (None, ())
        }
        listing = api.manifest(kind, root, out=out, options=parse_as(DatasetOptions, said, "llb-ray manifest"))
        show_listing(console, listing, out)


@main.command()
@click.option("--recipe", type=FOLDER, help="YAML file such as configs/contaminate/magnetic_tile.yaml.")
@click.option(
    "--root", type=FOLDER, help="The folder of the recipe's data set (default: this one), or of moved images."
)
@click.option("--manifest", "listing", type=FOLDER, help="A labelled manifest file, instead of the recipe's data set.")
@click.option("--out", required=True, help="The folder for the manifest files, one for each alpha and seed.")
@click.option("--alpha", "alphas", type=float, multiple=True, help="Anomalous share of the training objects; repeat.")
@click.option("--seed", "seeds", type=int, multiple=True, help="Repeat for several.")
@click.option("--objects", "num_objects", type=int, help="Training objects; default: as many as possible.")
@click.option("--max-alpha", type=float, help="The test set is the same up to here; default: the largest alpha.")
@click.option("--tail", help="Normals by pattern: pattern=112:20:4 (numbers, rotating with the seed) or a=1,b=0.05.")
@click.option("--given", is_flag=True, default=None, help="Real-IAD: the official contaminated lists, not drawn ones.")
def contaminate(recipe: Path | None, root: Path | None, listing: Path | None, out: str, **options: Any) -> None:
    """Make contaminated training sets of a labelled data set: reproducible, with one test set for every alpha.

    \b
    llb-ray contaminate --recipe configs/contaminate/magnetic_tile.yaml --root data --out sets
    llb-ray contaminate --manifest mvtec.arrow --alpha 0 --alpha 0.2 --seed 0 --out sets
    llb-ray run --manifest sets/alpha0.2-seed0.arrow --out runs/alpha0.2
    """
    if recipe is None and listing is None:
        raise click.UsageError("give a --recipe, a --manifest, or a recipe without a data set and a manifest.")
    with refusals() as console:
        from llb_ray import api
        from llb_ray.config import ContaminateConfig, TailConfig, parse_as, read_yaml
        from llb_ray.data.listing import Listing
        from llb_ray.report.listing_table import show_training_sets

        typed = {name: value for name, value in options.items() if value not in (None, ())}
        if "tail" in typed:
            typed["tail"] = TailConfig.typed(typed["tail"])
        tree = {} if recipe is None else read_yaml(recipe)
        config = parse_as(ContaminateConfig, {**tree, **typed}, str(recipe or "llb-ray contaminate"))
        where = None if root is None else root.absolute()
        images = None if listing is None else Listing.load(listing, where)
        show_training_sets(console, api.contaminate(config, out=out, listing=images, root=where))


@main.command()
@click.argument("folder")
@click.option("--category", "categories", multiple=True, help="Repeat for several; default: all.")
@click.option("--alpha", type=float, default=0.2, show_default=True, help="Anomalous share of the training objects.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--size", "size_px", type=int, default=96, show_default=True, help="Side of the photographs, in pixels.")
def synth(folder: str, categories: tuple[str, ...], alpha: float, seed: int, size_px: int) -> None:
    """Write a contaminated synthetic data set with known truth.

    \b
    llb-ray synth photos --category weave --alpha 0.2 --size 224
    """
    with refusals() as console:
        from llb_ray import api

        for root in api.synth(folder, categories=categories, alpha=alpha, seed=seed, size_px=size_px):
            console.print(str(root), soft_wrap=True, highlight=False, markup=False)
