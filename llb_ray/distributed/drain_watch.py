"""Nodes that are drained: an autoscaler or `ray drain-node` says so to Ray before the machine is taken away.

Ray starts nothing more there, and leaves alone what runs.  It notifies Ray Train's workers only, in a call that all of
them have to make at every step; so each process of ours asks by itself.
"""

import contextlib
from collections.abc import Iterator

import ray
from ray._private.state import state  # no public call of Ray names the nodes

from llb_ray.distributed.repeating import Repeating
from llb_ray.engine.execution.eviction import NOTICE

_LOOK_S = 2.0  # the shortest notice that clouds give is half a minute


@contextlib.contextmanager
def watching_drains(any_node: bool = False) -> Iterator[None]:
    """A context in which `NOTICE` says whether this node is drained, or any node where `any_node` is true."""
    here = ray.get_runtime_context().get_node_id()

    def look() -> None:
        drained = state.get_draining_nodes()  # by Ray's id, with the deadline
        NOTICE.update(bool(drained) if any_node else here in drained)

    try:
        with Repeating(look, "llb-drain", _LOOK_S):
            yield
    finally:
        NOTICE.update(False)
