"""The configuration."""

from pathlib import Path

import click

from llb_ray.cli.common import FOLDER, main, override_option, refusals


@main.command()
@click.option("--config", "config_path", type=FOLDER, help="YAML file to resolve.")
@override_option
def config(config_path: Path | None, overrides: tuple[str, ...]) -> None:
    """Print the complete resolved configuration as YAML.

    \b
    llb-ray config --set detector.name=memory_bank
    """
    with refusals():
        from llb_ray import config as settings

        click.echo(settings.load(config_path, overrides).to_yaml(), nl=False)
