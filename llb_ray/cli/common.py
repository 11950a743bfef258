"""The command group, and what its commands share: options, the console, and errors as one sentence."""

import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llb_ray import __version__
from llb_ray.names import shown

if TYPE_CHECKING:
    from rich.console import Console

    from llb_ray.config import Tracker
    from llb_ray.engine.pipeline.pipeline import Result
    from llb_ray.report.progress_bars import Watch


class LocalPath(click.Path):
    """A path on a disk of this machine; a URI is refused, not taken for the name of a folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; a URI ends the command with one sentence and status 1."""
        if isinstance(value, str) and "://" in value:  # else nothing has to be imported
            from llb_ray.remote import local_folder

            name = max(param.opts, key=len) if isinstance(param, click.Option) else getattr(param, "metavar", None)
            with refusals():
                local_folder(name or "PATH", value)
        return super().convert(value, param, ctx)


FOLDER = LocalPath(path_type=Path)
_BY_SIGNAL = 128  # plus its number: the exit status of what a signal ended, as a shell counts
executor_option = click.option(
    "--executor",
    type=click.Choice(["ray", "serial"]),
    default="ray",
    show_default=True,
    help="Runs the members.",
)
address_option = click.option(
    "--ray-address", help="host:port or 'auto' of a running cluster; default: start a local one."
)
override_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting, dotted."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object (docs/file-formats.md), and progress to stderr."
)
report_option = click.option(
    "--no-report", is_flag=True, help="Leave report.html out; `llb-ray report` can still write it."
)


def _without_comparison(context: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        os.environ["LLB_NO_VERIFY"] = "1"  # Ray's workers on this machine have it from here


no_verify_option = click.option(
    "--no-verify",
    is_flag=True,
    expose_value=False,
    callback=_without_comparison,
    help="Use artifacts without comparing their contents with their digests first.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="llb-ray")
def main() -> None:
    """Train an image anomaly detector on photographs some of which show defects, without labels.

    \b
    llb-ray run --data photos --out runs/photos
    llb-ray predict runs/photos --data new_photos --out predictions
    """


def write_page(watch: "Watch", result: "Result", out: str, data: Path | None = None) -> Path:
    """The run's report.html, written while `watch` follows, as a stage of `result`."""
    from llb_ray import api

    counting = watch.counting("report")
    return api.report(out, data=data, progress=counting, tell=watch.tell, times=result.times)


def send_to_trackers(console: "Console", folder: str | Path, trackers: Sequence["Tracker"]) -> None:
    """Send a finished run, scan or search to the trackers of its configuration, and print where it is there."""
    from llb_ray import api

    for sentence in api.track(folder, trackers=trackers) if trackers else []:
        console.print(sentence, soft_wrap=True, highlight=False, markup=False)


def print_json(value: Any) -> None:
    """One object on stdout, and nothing else there."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


@contextlib.contextmanager
def refusals(stderr: bool = False) -> Iterator["Console"]:
    """Inside, a `LlbError` becomes one sentence on stderr and exit status 1; gives the console to print on."""
    from llb_ray.cli.terminal import Terminal, log_to_stderr
    from llb_ray.errors import LlbError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may hold bytes that are no text
    logged, stopped_by = log_to_stderr(), list[int]()

    def stop(number: int, frame: object) -> None:
        stopped_by.append(number)  # an exit that passes through Ray comes out with status 1
        sys.exit(_BY_SIGNAL + number)  # as an exit it passes through all clean-up

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield Terminal(stderr=stderr)
    except LlbError as error:
        click.echo(f"llb-ray: {shown(str(error))}", err=True)
        sys.exit(1)
    except SystemExit:
        if stopped_by:
            click.echo("llb-ray: stopped by SIGTERM; rerun the same command to resume", err=True)
            sys.exit(_BY_SIGNAL + stopped_by[0])
        raise
    except KeyboardInterrupt:
        click.echo("llb-ray: stopped; rerun the same command to resume", err=True)
        sys.exit(_BY_SIGNAL + signal.SIGINT)
    except OSError as error:
        # A full disk, a lost mount, a folder that may not be written: the machine's, and the user's to fix.
        reason = str(error).strip().splitlines()[-1]
        click.echo(f"llb-ray: {shown(reason)}. Fix this and rerun the same command to resume", err=True)
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, before)
        logging.getLogger("llb_ray").removeHandler(logged)
