"""The command line: each command is the function of the same name in `llb_ray.api`, with words around it.

Exit status: 0 done, 1 refused with one sentence, 2 misused, 130 or 143 stopped by a signal.  Nothing heavy is imported
until a command needs it.
"""

from pathlib import Path
from typing import Any

import click

from llb_ray import __version__
from llb_ray.cli.common import FOLDER, refusals
from llb_ray.cli.data import contaminate, manifest

_executor = click.option(
    "--executor", type=click.Choice(["ray", "serial"]), default="ray", show_default=True, help="Who runs the members."
)
_address = click.option("--ray-address", help="host:port or 'auto' of a running cluster; default: start a local one.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="llb-ray")
def main() -> None:
    """Train an image anomaly detector on photographs some of which show defects, without labels.

    \b
    llb-ray synth photos --alpha 0.2
    llb-ray run --config configs/demo.yaml --data photos/gear --out runs/gear
    llb-ray predict runs/gear --data photos/gear/test --out runs/gear-test
    """


@main.command()
@click.option("--config", "config_path", type=FOLDER, help="YAML file; default: the built-in defaults.")
@click.option("--data", type=FOLDER, help="Any folder of images, or an MVTec-style tree.")
@click.option("--manifest", "listing", type=FOLDER, help="Instead: a file that llb-ray manifest or contaminate wrote.")
@click.option("--category", help="The one to run, of a manifest file that lists several.")
@click.option("--root", type=FOLDER, help="Where the images of a manifest file are now, if they have moved.")
@click.option("--out", required=True, help="Where everything goes, a folder or a URI; an unfinished run is resumed.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting, dotted.")
@_executor
@_address
def run(
    config_path: Path | None,
    data: Path | None,
    listing: Path | None,
    category: str | None,
    root: Path | None,
    out: str,
    overrides: tuple[str, ...],
    executor: str,
    ray_address: str | None,
) -> None:
    """Purify a folder of contaminated photographs and train the final detector.

    \b
    llb-ray run --data photos --out runs/photos
    llb-ray run --manifest realiad.arrow --category audiojack --out runs/audiojack
    llb-ray run --config configs/demo.yaml --data photos --out runs/photos --set purify.keep_ratio=0.9
    """
    if (data is None) == (listing is None):
        raise click.UsageError("give the images by one of --data and --manifest.")
    if listing is None and (category, root) != (None, None):
        raise click.UsageError("--category and --root are for --manifest; with --data, use --set data.category=NAME.")
    with refusals() as console:
        from llb_ray import api, config
        from llb_ray.engine.runfolder import RunFolder
        from llb_ray.remote import located
        from llb_ray.report.console import paced, show_result, watching

        settings = config.load(config_path, overrides)
        with watching(console, RunFolder.at(located(out)).progress) as tell:
            tell(f"reading {data or listing}")
            progress = paced(tell, "files read")
            if listing is not None:
                images = api.read_manifest(listing, category, settings, progress, root)
            elif data is not None:
                images = api.read_folder(data, settings, progress)
            with api.make_executor(executor, ray_address) as workers:
                result = api.run(settings, images, out=out, executor=workers, tell=tell)
        show_result(console, result)


@main.command()
@click.option("--config", "config_path", type=FOLDER, help="YAML file of what is not searched.")
@click.option("--data", type=FOLDER, required=True, help="Any folder of images, or an MVTec-style tree.")
@click.option("--space", "space_path", type=FOLDER, required=True, help="YAML file: dotted setting to its values.")
@click.option("--out", required=True, help="The folder where everything goes; trials share their work there.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting, dotted.")
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
@click.option("--resume", is_flag=True, help="Go on with the interrupted search in --out.")
@_address
def tune(
    config_path: Path | None,
    data: Path,
    space_path: Path,
    out: str,
    overrides: tuple[str, ...],
    **choices: Any,
) -> None:
    """Search settings without labels: each trial is a run, and what trials have in common is made once.

    \b
    llb-ray tune --config configs/demo.yaml --data photos --space configs/spaces/demo.yaml --out runs/tune
    """
    with refusals() as console:
        from llb_ray import api, config
        from llb_ray.remote import local_folder
        from llb_ray.report.console import show_trials, watching
        from llb_ray.search.space import read_space

        settings = config.load(config_path, overrides)
        space = read_space(space_path, settings)
        folder = local_folder("--out", out)
        with watching(console, folder / "progress") as tell:
            tell(f"reading {data}")
            images = api.read_folder(data, settings)
            trials = api.tune(settings, images, space, out=folder, tell=tell, **choices)
        show_trials(console, trials, folder)


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


@main.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--data", type=FOLDER, help="Where the images are now, if they have moved.")
def audit(run_folder: str, data: Path | None) -> None:
    """Derive the kept set again from the raw scores; exit 1 naming the first mismatch.

    \b
    llb-ray audit runs/photos
    """
    with refusals() as console:
        from llb_ray import api

        for passed in api.audit(run_folder, data=data):
            console.print(f"ok  {passed}", soft_wrap=True, highlight=False, markup=False)


@main.command()
@click.argument("run_folder", metavar="RUN")
def status(run_folder: str) -> None:
    """Print how far a run is, from its folder alone: on any machine, without a dashboard.

    \b
    llb-ray status runs/photos
    """
    with refusals() as console:
        from llb_ray import api
        from llb_ray.report.status import show_status

        show_status(console, api.status(run_folder))


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


@main.command()
@click.option("--config", "config_path", type=FOLDER, help="YAML file to resolve.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting, dotted.")
def config(config_path: Path | None, overrides: tuple[str, ...]) -> None:
    """Print the complete resolved configuration as YAML.

    \b
    llb-ray config --set detector.name=memory_bank
    """
    with refusals():
        from llb_ray import config as settings

        click.echo(settings.load(config_path, overrides).to_yaml(), nl=False)


for command in (manifest, contaminate):
    main.add_command(command)
