"""Nodes that are drained: Ray is told so by an autoscaler or by `ray drain-node` before the machine is taken away.

Ray starts nothing more there, and leaves alone what runs.  It tells Ray Train's workers of it, in a call that all of
them have to make at every step, and no other process: each of ours asks by itself.
"""

import contextlib
from collections.abc import Iterator

import ray
from ray._private.state import state

from llb_ray.distributed.repeating import Repeating
from llb_ray.engine.execution.eviction import NOTICE

_LOOK_S = 2.0  # the shortest notice that clouds give is half a minute


@contextlib.contextmanager
def posting_evictions(anywhere: bool = False) -> Iterator[None]:
    """Inside, fits of this process are told when its node is drained, or any node where `anywhere` is true."""
    here = ray.get_runtime_context().get_node_id()

    def look() -> None:
        drained = state.get_draining_nodes()  # by Ray's id, with the deadline
        NOTICE.post(bool(drained) if anywhere else here in drained)

    try:
        with Repeating(look, "llb-drain", _LOOK_S):
            yield
    finally:
        NOTICE.post(False)
