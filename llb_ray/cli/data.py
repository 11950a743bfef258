"""Data to try things on."""

import click

from llb_ray.cli.common import main, refusals


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
