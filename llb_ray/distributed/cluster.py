"""Finding or starting a Ray cluster, and asking what it has."""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from llb_ray.distributed.local_ray import keeping_sigterm, reason, start_locally
from llb_ray.errors import ResourceError

_PROBE_TIMEOUT_S = 5.0
_ANSWER_S = 60.0  # a node that is slow to start a process, against one whose mount hangs
_LATE_S = 3.0  # a network file system may show a new file a moment late


@contextlib.contextmanager
def connect(address: str | None) -> Iterator[None]:
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
    with keeping_sigterm():
        if address == "local":
            start_locally(_init)
        else:
            _join(address)
    try:
        yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    try:
        _init(address=address)
    except (ConnectionError, ValueError) as error:
        raise _no_cluster(address) from error
    except Exception as error:  # late, of another version, with another token: Ray has no class of error for these
        ray.shutdown()
        raise ResourceError(
            f"Ray address {address!r} (--ray-address or RAY_ADDRESS): this process cannot join the cluster "
            f"({reason(error)}); look at `ray status` there, or drop the address to use this machine only"
        ) from error


def _init(**options: Any) -> None:
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)


def _refuse_unreachable(address: str) -> None:
    """Raise ResourceError if it is no ``host:port`` or nothing listens there: Ray would try for minutes, in silence."""
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


def nodes() -> dict[str, str]:
    """The nodes that are alive, by Ray's id: address and the id's first digits, for people."""
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return {node["NodeID"]: f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})" for node in alive}


def refuse_unshared(proofs: Mapping[Path, Path]) -> None:
    """Raise ResourceError, naming node and folder, unless every other node sees the file that stands for each folder.

    Asks no node where there is only one.  A node that joins later is not asked: its workers say what they miss.
    """
    here = ray.get_runtime_context().get_node_id()
    look = ray.remote(num_cpus=0, max_retries=0)(_unseen)
    asked = {}
    for node_id, node in nodes().items():
        if node_id != here:
            pinned = NodeAffinitySchedulingStrategy(node_id, soft=False)
            asked[look.options(scheduling_strategy=pinned).remote({str(k): str(v) for k, v in proofs.items()})] = node
    for answer, node in asked.items():
        for folder in _answered(answer, node):
            raise ResourceError(
                f"node {node}: {folder} is not the same folder there as on the driver's machine; images and results "
                "must be on storage that every node mounts at the same path (cluster/README.md)"
            )


def _answered(answer: "ray.ObjectRef[list[str]]", node: str) -> list[str]:
    try:
        return ray.get(answer, timeout=_ANSWER_S)
    except GetTimeoutError as error:
        raise ResourceError(
            f"node {node}: does not say within {_ANSWER_S:g} s whether it sees the run's folders; look at its mounts "
            "and its load, or remove it from the cluster"
        ) from error
    except RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise ResourceError(f"node {node}: cannot run this version of llb_ray ({last}); install it there") from error


def _unseen(proofs: Mapping[str, str]) -> list[str]:
    """The folders whose files cannot be seen where this runs."""
    give_up_s = time.monotonic() + _LATE_S
    while missing := [folder for folder, file in proofs.items() if not os.path.exists(file)]:
        if time.monotonic() > give_up_s:
            break
        time.sleep(0.2)
    return missing
