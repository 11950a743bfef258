"""A Ray of this machine's own: reachable from nowhere else, with a token, and gone soon after its driver.

Ray binds its servers to all interfaces unless it takes the machine for one that can have no cluster; then its node's
address is 127.0.0.1 and every port of it (GCS, raylet, workers, agents, metrics) listens there alone.
"""

import contextlib
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import ray
from ray._private import ray_constants
from ray._raylet import Config  # type: ignore[attr-defined]

from llb_ray.errors import ResourceError

OPEN = "LLB_RAY_AUTH"  # who sets it to `disabled` wants a local Ray without a token
_ATTEMPTS = 2  # a busy machine may be too slow for Ray's own patience
_BY_SIGNAL = 128


def start_locally(init: Callable[..., None]) -> None:
    """Start a Ray on loopback; raises ResourceError if it does not come up, tried twice."""
    _ask_for_token()
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with _on_loopback():
                # A dashboard costs about 1 GB and is no use on a cluster that lives as long as one run.
                init(address="local", include_dashboard=False)
            return
        except Exception as error:  # Ray raises no more than that where a node is not up in time
            ray.shutdown()
            if attempt == _ATTEMPTS:
                raise ResourceError(
                    f"Ray did not start on this machine, tried {_ATTEMPTS} times ({reason(error)}); free memory and "
                    "cores (`llb-ray doctor` looks at them), or take --executor serial"
                ) from error


def reason(error: Exception) -> str:
    """The first line of what Ray says, which may be a page or nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _ask_for_token() -> None:
    """Have Ray ask for a token even where the environment switches that off: other users share the loopback."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled" and os.environ.get(OPEN) != "disabled":
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        Config.initialize("")  # which read the environment when Ray was imported


@contextlib.contextmanager
def keeping_sigterm() -> Iterator[None]:
    """Afterwards SIGTERM is an exit again, as it was before: Ray's own handler writes a C++ stack and aborts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if callable(before) else _exit)


def _exit(number: int, frame: object) -> None:
    sys.exit(_BY_SIGNAL + number)
