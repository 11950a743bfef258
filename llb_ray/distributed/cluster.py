"""Finding or starting a Ray cluster, and asking what it has."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator

import ray
from ray.util import get_current_placement_group

from llb_ray.config import ResourcesConfig
from llb_ray.errors import ResourceError

_PROBE_TIMEOUT_S = 5.0


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Inside, Ray is initialised; a cluster that was started here is stopped at the end, any other is left alone.

    `address` is ``local`` (start one on this machine), ``auto``, or ``host:port``; None means the cluster that this
    process is part of (RAY_ADDRESS, as in a submitted job), else ``local``.
    Raises ResourceError if the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    _refuse_unreachable(address or os.environ.get("RAY_ADDRESS", ""))
    address = address or ("auto" if os.environ.get("RAY_ADDRESS") else "local")
    try:
        # A dashboard costs about 1 GB and is no use on a cluster that lives as long as one run.
        dashboard = False if address == "local" else None
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=dashboard)
    except (ConnectionError, ValueError) as error:
        raise _no_cluster(address) from error
    try:
        yield
    finally:
        ray.shutdown()


def _refuse_unreachable(address: str) -> None:
    """Raise ResourceError if it is no ``host:port`` or nobody listens there: Ray would try for minutes, in silence."""
    if address in ("", "auto", "local") or "://" in address:
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_PROBE_TIMEOUT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address) from error


def _no_cluster(address: str) -> ResourceError:
    return ResourceError(
        f"Ray address {address!r} (--ray-address or RAY_ADDRESS): no cluster answers there; start one with "
        "`ray start --head`, or drop the address to use this machine only"
    )


def slots(resources: ResourcesConfig) -> int:
    """How many workers with these resources the whole cluster can hold at once; in a search, the trial's own share.

    Raises ResourceError when not even one fits on any node: Ray itself would wait for ever.
    """
    group = get_current_placement_group()
    nodes: list[dict[str, float]] = (
        [node["Resources"] for node in ray.nodes() if node["Alive"]] if group is None else group.bundle_specs  # type: ignore[no-untyped-call]
    )
    fitting = sum(_fits(node, resources) for node in nodes)
    if not fitting:
        largest = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)))
        raise ResourceError(
            f"a worker asks for {resources.num_cpus} CPUs and {resources.num_gpus:g} GPUs on one node, and the largest "
            f"of {len(nodes)} has {largest.get('CPU', 0):g} CPUs and {largest.get('GPU', 0):g} GPUs; "
            "lower resources.num_cpus or resources.num_gpus, or join nodes that have them"
        )
    return fitting


def _fits(node: dict[str, float], resources: ResourcesConfig) -> int:
    by_cpu = node.get("CPU", 0) / resources.num_cpus
    by_gpu = node.get("GPU", 0) / resources.num_gpus if resources.num_gpus else by_cpu
    return int(min(by_cpu, by_gpu) + 1e-3)  # a third of a GPU is typed as 0.3333
