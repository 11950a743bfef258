"""The search for settings."""

from pathlib import Path
from typing import Any

import click

from llb_ray.cli.common import (
    FOLDER,
    address_option,
    json_option,
    main,
    no_verify_option,
    override_option,
    print_json,
    refusals,
    send_to_trackers,
)
from llb_ray.cli.image_arguments import Images, images_options


@main.command()
@click.option("--config", "config_path", type=FOLDER, help="YAML file of the settings that are not searched.")
@images_options
@click.option("--space", "space_path", type=FOLDER, required=True, help="YAML file: dotted setting to its values.")
@click.option("--out", required=True, help="The folder where everything goes; trials share their work there.")
@override_option
@click.option(
    "--objective",
    type=click.Choice(["canary", "split_half", "separation", "val_auroc"]),
    default="canary",
    show_default=True,
    help="What is maximised; none reads a test label.",
)
@click.option("--validation", type=FOLDER, help="Labelled images, good/ and others beside it, for val_auroc.")
@click.option("--searcher", type=click.Choice(["grid", "random", "optuna"]), default="grid", show_default=True)
@click.option("--trials", type=click.IntRange(min=1), help="How many; a grid has as many as it has points.")
@click.option("--early-stopping", is_flag=True, help="Stop hopeless trials at a quarter and half of the steps (ASHA).")
@click.option("--workers-per-trial", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--max-concurrent", type=click.IntRange(min=1), help="Default: as many trials as the cluster holds.")
@click.option("--resume", is_flag=True, help="Resume the interrupted search in --out.")
@address_option
@json_option
@no_verify_option
def tune(
    config_path: Path | None,
    images: Images,
    space_path: Path,
    out: str,
    overrides: tuple[str, ...],
    as_json: bool,
    **choices: Any,
) -> None:
    """Search settings without labels: each trial is a run, and trials share their work.

    \b
    llb-ray tune --config configs/demo.yaml --data photos --space configs/spaces/demo.yaml --out runs/tune
    llb-ray tune --manifest mvtec.arrow --category screw --space space.yaml --out runs/screw-tune
    """
    with refusals(stderr=as_json) as console:
        from llb_ray import api, config
        from llb_ray.remote import local_folder
        from llb_ray.report.json_output import trials_object
        from llb_ray.report.progress_bars import watching
        from llb_ray.report.trial_table import show_trials
        from llb_ray.search.space import read_space

        settings = config.load(config_path, overrides)
        space = read_space(space_path, settings)
        folder = local_folder("--out", out)
        with watching(console, folder / "progress") as watch:
            manifest = images.read(settings, watch)
            trials = api.tune(settings, manifest, space, out=folder, tell=watch.tell, **choices)
        if as_json:
            print_json(trials_object(trials, folder))
        else:
            show_trials(console, trials, folder)
        send_to_trackers(console, folder, settings.tracking)
