"""A finished run as a web service."""

import contextlib
import os
import re
import threading
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from llb_ray.engine.execution.executor import Tell
from llb_ray.errors import ConfigError, LlbError
from llb_ray.names import shown

if TYPE_CHECKING:
    from llb_ray.distributed.ray_serve import ServeArguments

_NEEDED = ("fastapi", "fastapi_offline", "prometheus_client", "python_multipart")
LOOPBACK, PORT = "127.0.0.1", 8000
_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LOOK_S = 2.0  # between looks at whether a run was replaced


class Service:
    """A service that is up: its runs are swapped when `swap` is called after they were replaced."""

    def __init__(self, said: "ServeArguments", tell: Tell) -> None:
        from llb_ray.serving.answer import run_version

        self._said = said
        self._tell = tell
        self._versions = {name: run_version(run) for name, run in said.runs.items()}

    def swap(self) -> list[str]:
        """The names of runs that were replaced in their place, and that are deployed again now.

        A run that cannot be served goes on as it was, and `tell` receives the reason once.
        """
        from llb_ray.distributed.ray_serve import start_run
        from llb_ray.serving.answer import run_version

        swapped = []
        for name, run in self._said.runs.items():
            try:
                version = run_version(run)
                if version == self._versions[name]:
                    continue
                self._versions[name] = version
                self._tell(f"{name}: replaced; starting version {version} beside the one that serves")
                start_run(name, run, self._said.replicas)
                self._tell(f"{name}: version {version} serves")
                swapped.append(name)
            except (LlbError, OSError) as error:
                self._note(name, str(error))
        return swapped

    def until(self, stop: threading.Event) -> None:
        """Serve, and swap runs that are replaced, until `stop` is set."""
        while not stop.wait(_LOOK_S):
            self.swap()

    def _note(self, name: str, reason: str) -> None:
        if self._versions[name] != reason:  # what was said of it last: a version, or why there is none
            self._versions[name] = reason
            self._tell(f"{name}: goes on as it was: {reason}")


@contextlib.contextmanager
def serve(
    runs: Mapping[str, str | Path],
    *,
    host: str = LOOPBACK,
    port: int = PORT,
    replicas: int = 1,
    max_mb: int = 32,
    ray_address: str | None = None,
    tell: Tell = lambda line: None,
) -> Iterator[Service]:
    """Inside, the finished `runs` (a folder or a URI by name) are served at ``http://host:port``; see docs/serving.md.

    `replicas` processes judge the images of each run.  A request has at most `max_mb` MiB.  The environment variable
    LLB_SERVE_TOKEN is the token that clients have to send; without one, `host` has to be a loopback address.
    Raises a `LlbError` for what cannot be served, also where the extra `serve` is not installed.
    """
    refuse_missing()
    from llb_ray.distributed import ray_serve
    from llb_ray.distributed.cluster import connect
    from llb_ray.serving.access import TOKEN, digest_of, refuse_open

    for name in runs:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{shown(name)}: no name for a run in an address; give it one of letters, as in NAME=RUN")
    token = os.environ.get(TOKEN)
    refuse_open(host, token)
    digest_of(token)
    where = {name: run if "://" in str(run) else os.path.abspath(run) for name, run in runs.items()}
    said = ray_serve.ServeArguments(runs=where, replicas=replicas, max_mb=max_mb)
    service = Service(said, tell)
    with connect(ray_address):
        ray_serve.refuse_crowd(said)
        try:
            ray_serve.listen(host, port)
            for name, run in said.runs.items():
                tell(f"{name}: starting {replicas} replica{'s' if replicas > 1 else ''}")
                ray_serve.start_run(name, run, replicas)
            ray_serve.start_front(said, token)
            yield service
        finally:
            ray_serve.stop(said)


def refuse_missing() -> None:
    """Raise ConfigError where the extra `serve` is not installed."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(f"serving needs further packages ({', '.join(missing)}): pip install 'llb-ray[serve]'")
