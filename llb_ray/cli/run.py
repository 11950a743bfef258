"""A run: making one, watching it, checking it."""

from pathlib import Path

import click

from llb_ray.cli.common import FOLDER, address_option, executor_option, main, override_option, refusals


@main.command()
@click.option("--config", "config_path", type=FOLDER, help="YAML file; default: the built-in defaults.")
@click.option("--data", type=FOLDER, required=True, help="Any folder of images, or an MVTec-style tree.")
@click.option("--out", required=True, help="Where everything goes, a folder or a URI; an unfinished run is resumed.")
@override_option
@executor_option
@address_option
def run(
    config_path: Path | None, data: Path, out: str, overrides: tuple[str, ...], executor: str, ray_address: str | None
) -> None:
    """Purify a folder of contaminated photographs and train the final detector.

    \b
    llb-ray run --data photos --out runs/photos
    llb-ray run --config configs/demo.yaml --data photos --out runs/photos --set purify.keep_ratio=0.9
    """
    with refusals() as console:
        from llb_ray import api, config
        from llb_ray.engine.runfolder import RunFolder
        from llb_ray.remote import located
        from llb_ray.report.console import paced, show_report, show_result, watching

        settings = config.load(config_path, overrides)
        with watching(console, RunFolder.at(located(out)).progress) as tell:
            tell(f"reading {data}")
            manifest = api.read_folder(data, settings, paced(tell, "files read"))
            with api.make_executor(executor, ray_address) as workers:
                result = api.run(settings, manifest, out=out, executor=workers, tell=tell)
            page = api.report(out, progress=paced(tell, "report: pictures"))
        show_result(console, result)
        show_report(console, page, result.where)


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
