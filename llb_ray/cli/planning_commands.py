"""Before a run: is everything there, what to set, what it will take."""

import shlex
import sys
from pathlib import Path

import click

from llb_ray.cli.common import (
    FOLDER,
    address_option,
    executor_option,
    json_option,
    main,
    override_option,
    print_json,
    refusals,
)
from llb_ray.cli.image_arguments import Images, images_options
from llb_ray.names import shown


@main.command()
@click.option("--config", "config_path", type=FOLDER, help="YAML file; default: the built-in defaults.")
@click.option("--out", help="Where a run is to go, a folder or a URI: can it be written?")
@override_option
@executor_option
@address_option
@json_option
def doctor(
    config_path: Path | None,
    out: str | None,
    overrides: tuple[str, ...],
    executor: str,
    ray_address: str | None,
    as_json: bool,
) -> None:
    """Check that everything a run needs is available, with a fix for what is not; exit 1 if a check fails.

    \b
    llb-ray doctor
    llb-ray doctor --config photos.yaml --out runs/photos
    """
    with refusals() as console:
        from llb_ray import api, config
        from llb_ray.report.plan_tables import checks_json, show_check

        settings = config.load(config_path, overrides)
        checks = []
        for check in api.doctor(settings, out=out, executor=executor, ray_address=ray_address):
            checks.append(check)
            if not as_json:
                show_check(console, check)
        if as_json:
            print_json(checks_json(checks))
        sys.exit(any(check.state == "fail" for check in checks))


@main.command()
@click.argument("data", metavar="FOLDER", type=FOLDER)
@click.option("--out", default="config.yaml", show_default=True, help="The file to write; never overwritten.")
@click.option(
    "--weights",
    type=FOLDER,
    help="A .safetensors or .pth file of weights; default: those that are installed.",
)
@click.option("--backbone", help="The timm network that they are of; default: what the file is called.")
def init(data: Path, out: str, weights: Path | None, backbone: str | None) -> None:
    """Look at a folder of images and write a commented configuration for it, with tiles where photographs are large.

    \b
    llb-ray init photos
    llb-ray init photos --weights weights/mobilenetv2_100.safetensors --out photos.yaml
    """
    with refusals() as console:
        from llb_ray import api
        from llb_ray.report.progress_bars import watching

        with watching(console) as watch:
            progress = watch.counting("reading", "files")
            path = api.init(data, out=out, weights=weights, backbone=backbone, progress=progress)
        console.print(f"{path}: read it, then run", soft_wrap=True, highlight=False, markup=False)
        name = data.absolute().name
        command = ["llb-ray", "run", "--config", str(path), "--data", str(data), "--out", f"runs/{name}"]
        console.print(shlex.join(command), soft_wrap=True, highlight=False, markup=False)


@main.command()
@click.option("--config", "config_path", type=FOLDER, help="YAML file; default: the built-in defaults.")
@images_options
@click.option("--out", default=".", help="Where it is to go, a folder or a URI; default: this folder.")
@override_option
@executor_option
@address_option
@json_option
def plan(
    config_path: Path | None,
    images: Images,
    out: str,
    overrides: tuple[str, ...],
    executor: str,
    ray_address: str | None,
    as_json: bool,
) -> None:
    """Estimate a run's time by stage, memory, GPU memory and disk; exit 1 if it cannot fit.

    A calibration of a minute at most tries some images out on the workers that the run will have.

    \b
    llb-ray plan --data photos
    llb-ray plan --config photos.yaml --data photos --out runs/photos
    """
    with refusals(stderr=as_json) as console:
        from llb_ray import api, config
        from llb_ray.report.plan_tables import forecast_json, show_forecast
        from llb_ray.report.progress_bars import watching

        settings = config.load(config_path, overrides)
        with watching(console) as watch:
            manifest, tell = images.read(settings, watch), watch.tell
            forecast = api.plan(settings, manifest, out=out, executor=executor, ray_address=ray_address, tell=tell)
        if as_json:
            print_json(forecast_json(forecast))
        else:
            show_forecast(console, forecast)
        for refusal in forecast.refusals:
            click.echo(f"llb-ray: {shown(refusal)}", err=True)
        sys.exit(bool(forecast.refusals))
