"""A run: making one, watching it, checking it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llb_ray.cli.common import (
    FOLDER,
    address_option,
    executor_option,
    json_option,
    main,
    no_verify_option,
    override_option,
    print_json,
    refusals,
    report_option,
    send_to_trackers,
    write_page,
)
from llb_ray.cli.image_arguments import Images, images_options

if TYPE_CHECKING:
    from llb_ray.engine.audit.audit import Passed


@main.command()
@click.option("--config", "config_path", type=FOLDER, help="YAML file; default: the built-in defaults.")
@images_options
@click.option("--out", required=True, help="Where everything goes, a folder or a URI; an unfinished run is resumed.")
@override_option
@report_option
@executor_option
@address_option
@json_option
@no_verify_option
def run(
    config_path: Path | None,
    images: Images,
    out: str,
    overrides: tuple[str, ...],
    no_report: bool,
    executor: str,
    ray_address: str | None,
    as_json: bool,
) -> None:
    """Purify a folder of contaminated photographs and train the final detector.

    \b
    llb-ray run --data photos --out runs/photos
    llb-ray run --manifest realiad.arrow --category audiojack --out runs/audiojack
    llb-ray run --config configs/demo.yaml --data photos --out runs/photos --set purify.keep_ratio=0.9
    llb-ray run --data photos --out runs/wide --set 'detector.image_size_px=[192, 320]' --set data.ignore_mask=mask.png
    """
    with refusals(stderr=as_json) as console:
        from llb_ray import api, config
        from llb_ray.engine.rundir.run_folder import RunFolder
        from llb_ray.remote import locate
        from llb_ray.report.console import show_report, show_result
        from llb_ray.report.json_output import result_object
        from llb_ray.report.progress_bars import watching

        settings, folder = config.load(config_path, overrides), RunFolder.at(locate(out))
        with watching(console, folder.progress) as watch:
            manifest = images.read(settings, watch)
            with api.make_executor(executor, ray_address) as workers:
                watch.expect(api.outlook(settings, manifest, out=out, executor=workers))
                result = api.run(settings, manifest, out=out, executor=workers, tell=watch.tell)
            page = None if no_report else write_page(watch, result, out)
        send_to_trackers(console, out, settings.tracking)
        if as_json:
            print_json(result_object(result))
            return
        show_result(console, result)
        if page is not None:
            show_report(console, page, result.where)


@main.command()
@click.argument("run_folder", metavar="RUN")
@json_option
def status(run_folder: str, as_json: bool) -> None:
    """Print how far a run is, from its folder alone: on any machine, without a dashboard.

    \b
    llb-ray status runs/photos
    llb-ray status runs/photos --json
    """
    with refusals() as console:
        from llb_ray import api
        from llb_ray.report.json_output import scan_status_object, status_object
        from llb_ray.report.status_lines import show_scan_status, show_status
        from llb_ray.scans.scan_status import is_scan

        if is_scan(Path(run_folder)):
            scan = api.scan_status(run_folder)
            print_json(scan_status_object(scan)) if as_json else show_scan_status(console, scan)
            return
        run = api.status(run_folder)
        print_json(status_object(run)) if as_json else show_status(console, run)


@main.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--data", type=FOLDER, help="Where the images are now, if they have moved.")
@click.option("--rescore", default="8", show_default=True, metavar="N", help="Images to score again: 0 all, or none.")
@click.option("--sign", type=FOLDER, metavar="KEY", help="Sign the run with this private key if all checks pass.")
@click.option("--verify", type=FOLDER, metavar="KEY", help="Check the run's signature with this public key.")
@json_option
def audit(run_folder: str, rescore: str, as_json: bool, **options: Path | None) -> None:
    """Derive decisions, threshold and metrics again from raw scores, and some scores from images; exit 1 naming the
    first mismatch.

    \b
    llb-ray audit runs/photos
    llb-ray audit runs/photos --rescore 0
    llb-ray audit runs/photos --sign key.pem
    llb-ray audit runs/photos --verify public.pem
    """
    if rescore != "none" and not rescore.isdecimal():
        raise click.BadParameter(f"{rescore!r} is no number of images and not the word none", param_hint="--rescore")
    with refusals() as console:
        from llb_ray import api
        from llb_ray.errors import AuditError

        checks: list[dict[str, str]] = []

        def each(passed: "Passed") -> None:
            checks.append(passed._asdict())
            if not as_json:
                console.print(f"ok  {passed.found}", soft_wrap=True, highlight=False, markup=False)

        try:
            api.audit(run_folder, rescore=None if rescore == "none" else int(rescore), each=each, **options)
        except AuditError as error:
            if as_json:
                print_json({"run": run_folder, "ok": False, "checks": checks, "failed": str(error)})
            raise
        if as_json:
            print_json({"run": run_folder, "ok": True, "checks": checks, "failed": None})
