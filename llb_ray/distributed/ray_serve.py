"""Runs on Ray Serve: a deployment of judges for each run, one web front for all, and runs swapped while they serve.

A run is an application of its own (``run-NAME``), so that it alone is deployed again when it changes; the front finds
it by name.  A judge's answer depends on nothing but the image, so a request whose judge died is asked again.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from llb_ray.config import ResourcesConfig
from llb_ray.distributed.capacity import placement, slots
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.errors import ConfigError, LlbError, ResourceError
from llb_ray.remote import locate
from llb_ray.serving.access import TOKEN, digest_of, refuse_taken
from llb_ray.serving.answer import Judged, Refused
from llb_ray.serving.app import Ask, build_app
from llb_ray.serving.busy import Busy

FRONT = "llb-ray"  # the name of its application
_MIB = 2**20
_TRIES, _PAUSE_S = 6, 0.5  # of an image whose judge died
_WAIT_S = 0.005  # for a batch to fill
_BATCHES = 2  # of images at a judge: one is judged while the next one is read
_READERS = 2  # images that a judge decodes at once, at least
_QUEUED = 1024  # images that wait for a judge of a run, before more are refused
_REQUESTS = 256  # at the front at once
_QUIET = {"log_level": "WARNING", "enable_access_log": False}


class ServeArguments(BaseModel):
    """Parts of a service; the `args` of an application in a Serve config file, too."""

    model_config = ConfigDict(extra="forbid")
    runs: dict[str, str] = Field(min_length=1)  # folder or URI by name
    replicas: int = Field(1, ge=1)  # of each run
    max_mb: int = Field(32, ge=1)  # MiB of a request


def run_application(name: str, run: str, replicas: int) -> serve.Application:
    """The judges of the run at `run`, which is served as `name`."""
    resources = RunFolder.open(locate(run)).config().resources
    batch_size = resources.batch_size
    deployment = serve.deployment(
        name=_judge(name),
        num_replicas=replicas,
        # Half of its cores, so that those of the next version find a place beside it; a GPU is not shared.
        ray_actor_options=placement(resources) | {"num_cpus": resources.num_cpus / 2},
        max_surge_percent=0 if resources.num_gpus else 100,
        max_ongoing_requests=_BATCHES * batch_size,
        max_queued_requests=_QUEUED,
        logging_config=_QUIET,
    )
    return deployment(_JudgeReplica).bind(run, batch_size, max(_READERS, resources.num_cpus))


class _JudgeReplica:
    """A judge on Ray Serve: images of all requests meet in batches."""

    def __init__(self, run: str, batch_size: int, readers: int) -> None:
        from llb_ray.serving.judge import Judge  # torch, which the front is spared

        self._judge = Judge(run)
        self._reading = asyncio.Semaphore(readers)
        self._batched.set_max_batch_size(batch_size)  # type: ignore[attr-defined]

    async def __call__(self, content: bytes, draws: bool) -> Judged | Refused:
        async with self._reading:  # a decoded photograph of 90 million pixels takes a gigabyte
            pixels = await asyncio.to_thread(self._judge.read, content)
        if isinstance(pixels, Refused):
            return pixels
        raw = await self._batched(pixels)
        return await asyncio.to_thread(self._judge.verdict, content, raw, draws)

    @serve.batch(max_batch_size=1, batch_wait_timeout_s=_WAIT_S)
    async def _batched(self, images: list[Any]) -> list[Any]:
        return await asyncio.to_thread(self._judge.judge, images)


@serve.deployment(
    name="front",
    num_replicas=1,  # which alone counts what /metrics shows
    max_ongoing_requests=_REQUESTS,
    logging_config=_QUIET,
    ray_actor_options={"num_cpus": 0},
)
@serve.ingress()
class _Front:
    """The web application, in a process of its own, which needs no torch."""

    def __init__(self, runs: Mapping[str, Any], max_bytes: int, token_digest: str | None) -> None:
        """Of each run its judges, or None where they are an application of their own."""
        self._asks = {name: _asking(handle or _judges(name)) for name, handle in runs.items()}
        self._options = max_bytes, token_digest

    def __serve_build_asgi_app__(self) -> Any:
        return build_app(self._asks, *self._options)


def _judges(name: str) -> Any:
    return serve.get_deployment_handle(_judge(name), app_name=_app(name))


def _judge(name: str) -> str:
    return f"judge-{name}"


def _app(name: str) -> str:
    return f"run-{name}"


def _asking(judges: "DeploymentHandle[Any]") -> Ask:
    async def ask(content: bytes, draws: bool) -> Judged | Refused:
        for attempt in range(1, _TRIES + 1):
            try:
                answer: Judged | Refused = await judges.remote(content, draws)
                return answer
            except BackPressureError as error:
                raise Busy from error
            except (RayActorError, DeploymentUnavailableError):
                await asyncio.sleep(_PAUSE_S * attempt)
        raise Busy("no judge of this run answers")

    return ask


def application(arguments: dict[str, Any]) -> serve.Application:
    """All of a service as one application, for a Serve config file (`cluster/kuberay-rayservice.yaml`).

    Raises ConfigError unless the environment has a token: Ray's proxies there listen on all interfaces.
    """
    said, digest = ServeArguments(**arguments), digest_of(os.environ.get(TOKEN))
    if digest is None:
        raise ConfigError(f"{TOKEN} is not set: other machines can reach this service, so it needs a token")
    judges = {name: run_application(name, run, said.replicas) for name, run in said.runs.items()}
    return _Front.bind(judges, said.max_mb * _MIB, digest)  # type: ignore[attr-defined, no-any-return]


def refuse_crowd(said: ServeArguments) -> None:
    """Raise ResourceError where the cluster has no room for the judges, for which Ray Serve would wait for ever."""
    for name, run in said.runs.items():
        resources: ResourcesConfig = RunFolder.open(locate(run)).config().resources
        room = slots(resources)
        if room < said.replicas:
            raise ResourceError(
                f"{name}: {said.replicas} replicas asked for, and there is room for {room} (each {resources.num_cpus} "
                f"CPUs and {resources.num_gpus:g} GPUs); lower --replicas"
            )


def listen(host: str, port: int) -> None:
    """Start Ray Serve at `host` and `port`; raises ResourceError where something else listens."""
    refuse_taken(host, port)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port}, logging_config=_QUIET)


def start_front(said: ServeArguments, token: str | None) -> None:
    """Deploy the web application, whose runs are deployed already."""
    front = _Front.bind(dict.fromkeys(said.runs), said.max_mb * _MIB, digest_of(token))  # type: ignore[attr-defined]
    _deploy(front, FRONT, "/")


def start_run(name: str, run: str, replicas: int) -> None:
    """Deploy a run, or a new version of it: those that serve go when the new ones are ready.

    Raises ResourceError with the reason where the new ones do not start; those that serve stay.
    """
    _deploy(run_application(name, run, replicas), _app(name), None)


def stop(said: ServeArguments) -> None:
    """End what `start_front` and `start_run` began."""
    for name in (FRONT, *map(_app, said.runs)):
        serve.delete(name)


def _deploy(application: serve.Application, name: str, route: str | None) -> None:
    try:
        serve.run(application, name=name, route_prefix=route, logging_config=_QUIET)
    except LlbError:
        raise
    except Exception as error:  # RuntimeError with the replica's traceback as text, and others of Ray's own
        status = serve.status().applications.get(name)
        said = [str(error)] if status is None else [one.message for one in status.deployments.values()]
        raise ResourceError(f"{name}: Ray Serve could not start it ({_reason(said)})") from error


def _reason(messages: list[str]) -> str:
    """The last line of what Ray Serve tells of a failure, which is the error that the replica raised."""
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["no reason given"])[-1]
