"""What commands share: their options, and how a refusal ends them."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

_BY_SIGNAL = 128  # plus its number: the exit status of what a signal ended, as a shell counts
FOLDER = click.Path(path_type=Path)


@contextlib.contextmanager
def refusals() -> Iterator["Console"]:
    """Inside, a `LlbError` becomes one sentence on stderr and exit status 1; gives the console to print on."""
    from rich.console import Console

    from llb_ray.errors import LlbError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may hold bytes that are no text
    # As an exit it passes through whoever cleans up; Ray's own handler, where there is a Ray, does the same.
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(_BY_SIGNAL + number))
    try:
        yield Console()
    except LlbError as error:
        click.echo(f"llb-ray: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("llb-ray: stopped; run the same command again to go on", err=True)
        sys.exit(_BY_SIGNAL + signal.SIGINT)
    except OSError as error:
        # A full disk, a lost mount, a folder that may not be written: the machine's, and the user's to mend.
        reason = str(error).strip().splitlines()[-1]
        click.echo(f"llb-ray: {reason}; mend that and run the same command again to go on", err=True)
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, before)
