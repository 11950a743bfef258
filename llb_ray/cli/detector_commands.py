"""Commands that use a finished run's detector: predict and export."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llb_ray.cli.common import FOLDER, address_option, main, no_verify_option, refusals, report_option

if TYPE_CHECKING:
    from rich.console import Console

_CATEGORY = "Category of the images, of a run of several, each of which has a threshold."
_ANOMALY_FOUND, _ALARM, _NOT_JUDGED = 3, 3, 4  # exit statuses


@main.command()
@click.argument("run_folder", metavar="RUN")
@click.argument("images", metavar="[IMAGES]...", nargs=-1)
@click.option("--data", help="The same as IMAGES, of which one is enough.")
@click.option("--out", required=True, help="The folder where scores and overlays go.")
@click.option(
    "--overlays",
    type=click.Choice(["all", "anomalous", "none"]),
    default="all",
    show_default=True,
    help="Which photographs are drawn with their heatmap.",
)
@click.option("--maps", is_flag=True, help="Keep the anomaly maps, in Arrow files of a thousand.")
@click.option("--masks", is_flag=True, help="Write the regions of each image as a black and white PNG of its size.")
@click.option(
    "--false-area-rate",
    type=float,
    default=0.001,
    show_default=True,
    metavar="F",
    help="Regions are where a map is above what a share F of the area of normal images exceeds.",
)
@click.option("--threshold", type=float, metavar="X", help="Call images that score above X anomalous, for once.")
@click.option(
    "--false-alarm-rate",
    type=float,
    metavar="R",
    help="Use the threshold that a share R of images like the kept ones exceeds, for once.",
)
@click.option(
    "--ignore-mask",
    metavar="FOLDER",
    help="Folder with the mask of each photograph, white where it is ignored, at its path; or one mask for all. For a "
    "run that was made with a folder of masks.",
)
@click.option("--inspect-mask", metavar="FOLDER", help="The same, white where they are looked at.")
@click.option("--category", metavar="NAME", help=f"{_CATEGORY} Default: by a list's column category, or by folder.")
@click.option(
    "--fail-on-anomaly", is_flag=True, help="Exit with 3 if an image is anomalous, else with 4 if one is unreadable."
)
@click.option(
    "--monitor",
    type=FOLDER,
    metavar="REFERENCE",
    help="Compare the scores with this prediction, which was accepted, as drift does; exit with 3 for an alarm.",
)
@click.option(
    "--executor",
    type=click.Choice(["serial", "ray"]),
    default="serial",
    show_default=True,
    help="Judge here, or on the workers of a Ray cluster.",
)
@address_option
@no_verify_option
def predict(
    run_folder: str,
    images: tuple[str, ...],
    data: str | None,
    out: str,
    fail_on_anomaly: bool,
    monitor: Path | None,
    **choices: Any,
) -> None:
    """Score new images with a run's final detector, and find regions: Parquet, CSV, COCO JSON, heatmap overlays.

    IMAGES are any of: an image, a folder, a list of paths (.txt, .csv, .tsv, .parquet), a quoted pattern
    ('new/**/*.jpg', for more files than a command line takes), and - for a path per line on standard input.

    \b
    llb-ray predict runs/photos photo.jpg --out predictions
    llb-ray predict runs/photos monday/*.jpg tuesday --out predictions
    find new -name '*.jpg' | llb-ray predict runs/photos - --out predictions
    llb-ray predict runs/photos --data new_photos --out predictions
    llb-ray predict runs/photos --data list.csv --out predictions --overlays anomalous --fail-on-anomaly
    llb-ray predict runs/photos --data new_photos --out predictions --false-alarm-rate 0.001 --masks
    llb-ray predict runs/photos --data million.parquet --out predictions --overlays anomalous --executor ray
    llb-ray predict runs/line --data new_photos --out predictions --category weave
    llb-ray predict runs/cell --data new_photos --out predictions --inspect-mask new_foregrounds
    llb-ray predict runs/photos --data today --out predictions/today --monitor predictions/accepted
    """
    named = [*images, *([] if data is None else [data])]
    if not named:
        raise click.UsageError("Missing IMAGES: name an image, a folder, a list, a pattern, or - (or give --data).")
    with refusals() as console:
        from llb_ray import api
        from llb_ray.report.progress_bars import watching

        with watching(console) as watch:
            prediction = api.predict(run_folder, named, out=out, progress=watch.counting("predict"), **choices)
        console.print(prediction.sentence(), soft_wrap=True, highlight=False, markup=False)
        alarms = 0 if monitor is None else _alarms(console, run_folder, out, monitor)
    if alarms:
        sys.exit(_ALARM)
    if fail_on_anomaly and prediction.num_anomalous:
        sys.exit(_ANOMALY_FOUND)
    if fail_on_anomaly and prediction.num_quarantined:  # an image that could not be judged passes no check
        sys.exit(_NOT_JUDGED)


def _alarms(console: "Console", run_folder: str, out: str, reference: Path) -> int:
    """Number of alarms where the prediction in `out` is compared with the reference, which is shown."""
    from llb_ray import api
    from llb_ray.report.drift_table import show_drift

    found = api.drift(run_folder, [out], reference=reference)
    show_drift(console, found, None)
    return found.num_alarms


@main.command()
@click.argument("run_folder", metavar="RUN")
@click.option(
    "--false-alarm-rate", type=float, required=True, metavar="R", help="Share of images like the kept ones above it."
)
@click.option("--data", type=FOLDER, help="Where the run's images are now, if they have moved, for the report.")
@report_option
@no_verify_option
def threshold(run_folder: str, false_alarm_rate: float, data: Path | None, no_report: bool) -> None:
    """Give a finished run the threshold for another false-alarm rate, from its stored scores; nothing is trained.

    \b
    llb-ray threshold runs/photos --false-alarm-rate 0.001
    """
    with refusals() as console:
        from llb_ray import api
        from llb_ray.report.console import show_report, show_threshold
        from llb_ray.report.progress_bars import watching

        facts = api.threshold(run_folder, false_alarm_rate=false_alarm_rate)
        show_threshold(console, facts)
        if not no_report:
            with watching(console) as watch:
                page = api.report(run_folder, data=data, progress=watch.counting("report"))
            show_report(console, page, run_folder)


@main.command()
@click.argument("run_folder", metavar="RUN")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["onnx", "torch-export", "openvino", "anomalib-csv", "mvtec-tree", "real-iad-json", "parquet"]),
    required=True,
    help="The detector as a model of this kind, or the purified images in a layout.",
)
@click.option("--out", required=True, help="The .onnx, .pt2 or .xml file; or the new folder of the images.")
@click.option("--data", type=FOLDER, help="Where the run's images are now, if they have moved.")
@click.option("--copy", is_flag=True, help="Copy images instead of linking them.")
@click.option("--category", metavar="NAME", help="Category whose threshold a model has, of a run of several.")
@click.option("--any-size", is_flag=True, help="A model that takes images of any size and resizes them by itself.")
@no_verify_option
def export(run_folder: str, format_: Any, out: str, **choices: Any) -> None:
    """Write a run's final detector, or its purified images, for other tools.

    \b
    llb-ray export runs/photos --format onnx --out model.onnx
    llb-ray export runs/photos --format onnx --any-size --out model.onnx
    llb-ray export runs/photos --format anomalib-csv --out purified
    """
    with refusals() as console:
        from llb_ray import api

        exported = api.export(run_folder, format_, out=out, **choices)
        console.print(exported.sentence(), soft_wrap=True, highlight=False, markup=False)
