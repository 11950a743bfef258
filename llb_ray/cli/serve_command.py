"""A run as a web service."""

import os
import threading
from typing import Any

import click

from llb_ray.cli.common import address_option, main, no_verify_option, refusals


def _named(runs: tuple[str, ...]) -> dict[str, str]:
    """The runs by name: NAME=RUN, or a folder by its own name; raises UsageError for a name given twice."""
    named: dict[str, str] = {}
    for said in runs:
        name, equals, run = said.partition("=")
        if not equals or "/" in name or os.path.isdir(said):
            name, run = os.path.basename(os.path.abspath(said.partition("?")[0])), said
        if name in named:
            raise click.UsageError(f"two runs are called {name!r}; name them, as in first={named[name]} second={run}.")
        named[name] = run
    return named


@main.command()
@click.argument("runs", metavar="[NAME=]RUN...", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Others than loopback need LLB_SERVE_TOKEN.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option(
    "--replicas", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that judge, per run."
)
@click.option("--max-mb", type=click.IntRange(min=1), default=32, show_default=True, help="MiB of a request, at most.")
@address_option
@no_verify_option
def serve(runs: tuple[str, ...], host: str, port: int, **choices: Any) -> None:
    """Serve runs over HTTP: images in, JSON verdicts and heatmaps out.

    \b
    llb-ray serve runs/photos
    llb-ray serve screws=runs/screws-3 caps=runs/caps --port 9000 --replicas 2
    curl -F images=@photo.jpg http://127.0.0.1:8000/runs/photos/predict

    Each is at /runs/NAME/predict; / is a page to drop photographs on, /docs the API, /metrics is for Prometheus.
    A run that is replaced in its place (a link that is pointed elsewhere, a run finished again) is swapped without a
    lost request. With LLB_SERVE_TOKEN in the environment, clients have to send that token.
    """
    with refusals() as console:
        from llb_ray import api

        def tell(line: str) -> None:
            console.print(line, soft_wrap=True)

        with api.serve(_named(runs), host=host, port=port, tell=tell, **choices) as service:
            tell(f"http://{f'[{host}]' if ':' in host else host}:{port}/ serves; Ctrl-C ends it")
            service.until(threading.Event())
