"""Telling what died: of nodes Ray knows it, of processes the heartbeats that they and their successors leave."""

import time
from collections.abc import Sequence

from llb_ray.distributed import cluster
from llb_ray.distributed.capacity import living_slots
from llb_ray.engine.execution.executor import Tell, resumption
from llb_ray.engine.execution.heartbeat import Beat, read_beat
from llb_ray.engine.execution.protocols import Spec

LOOK_S = 1.0
_PATIENCE_S = 60.0


class KnownNodes:
    """The nodes that were alive when last looked at; Ray may take longer to miss one than a stage takes to end."""

    def __init__(self) -> None:
        self._alive = cluster.nodes()

    def gone(self) -> list[str]:
        """Names of the nodes that are gone since the last look."""
        alive = cluster.nodes()
        gone = [name for node, name in self._alive.items() if node not in alive]
        self._alive = alive
        return gone


class Watch:
    """Reports in one line each what died and what was resumed, and, now and then, what a long wait is for."""

    def __init__(self, tell: Tell, nodes: KnownNodes) -> None:
        self._tell = tell
        self._nodes = nodes
        self._told: set[tuple[str, str, int]] = set()  # worker, step, start
        self._heard_s, self._looked_s = time.monotonic(), 0.0

    def look(self, specs: Sequence[Spec]) -> None:
        """Report what is new of the workers in flight and the nodes they may be on, once a second at most."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        self._look_at_nodes(specs[0])
        for spec in specs:
            beat = read_beat(spec.context, spec.name)
            if beat is not None and beat.first:  # else it has yet to say where it goes on
                self._look_at(beat)
        if now_s - self._heard_s > _PATIENCE_S:
            names = sorted(spec.name for spec in specs)
            self._say(f"running or waiting for resources: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}")

    def done(self, spec: Spec) -> None:
        """Report that a worker is through all its steps, and what has not been reported of it."""
        beat = read_beat(spec.context, spec.name)
        if beat is not None:
            self._look_at(beat)
        self._say(f"{spec.name} done")

    def _look_at(self, beat: Beat) -> None:
        if (beat.name, beat.step, beat.starts) not in self._told:
            self._told.add((beat.name, beat.step, beat.starts))
            for line in resumption(beat):
                self._say(line)

    def _look_at_nodes(self, spec: Spec) -> None:
        for name in self._nodes.gone():
            self._say(f"node {name} is gone; what ran there starts again where there is room: {_room(spec)}")

    def _say(self, line: str) -> None:
        self._heard_s = time.monotonic()
        self._tell(line)


def _room(spec: Spec) -> str:
    count = living_slots(spec.context.resources)
    return f"{count} at once" if count else "nowhere, until a node joins that can hold a worker"
