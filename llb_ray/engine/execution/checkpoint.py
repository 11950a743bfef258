"""Storage for the progress of a fit, so that a killed worker resumes instead of starting over.

A checkpoint is not an artifact: it is overwritten as the fit goes on, and gone when the fit is finished.  Resuming
from any of them gives the same bytes, so how often one is written is no part of any key.

Workers that fit together have one file between them, which the leading one writes and reads out to the others; they
need not agree on what a shared disk shows at the moment, and may be more or fewer when the fit goes on.  Ray Train's
checkpoints are not used: they end with the driver's process, and this file does not.

Where the run is at a URI, so is the file: the next worker may be on another machine.
"""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load, save

from llb_ray.artifacts import Recipe, Store
from llb_ray.detectors.base import State
from llb_ray.detectors.data_parallel import ALONE, ProcessGroup
from llb_ray.disk import LOCAL, Disk, seal_content, unseal_content
from llb_ray.engine.execution.eviction import NOTICE
from llb_ray.engine.filenames import CHECKPOINTS
from llb_ray.remote import Remote

_log = logging.getLogger(__name__)
_EVICTED_INTERVAL_S = 5.0  # between checkpoints while the machine is about to go


@dataclass
class FileCheckpoints:
    """One file, written at most every `interval_s` seconds (the `Checkpoints` protocol of detectors).

    At a notice of eviction it is written at once, and every few seconds as long as that stands.
    """

    path: Path
    interval_s: float
    peers: ProcessGroup = ALONE
    where: Disk | Remote = LOCAL
    _saved_s: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, recipe: Recipe, store: Store, interval_s: float, peers: ProcessGroup = ALONE) -> "FileCheckpoints":
        """The checkpoints of what the recipe makes; of nothing else, since its key names settings, images and seed."""
        path = store.root.parent / CHECKPOINTS / f"{recipe.stage}-{recipe.key}.checkpoint"
        return cls(path, interval_s, peers, store.remote or LOCAL)

    def load(self) -> State | None:
        """The last saved state; None where there is nothing, or nothing undamaged: a fit then starts again."""
        content = self.peers.broadcast(self._read() if self.peers.leads else b"")
        return load(content) if content else None

    def _read(self) -> bytes:
        """The state as it was saved; empty where there is none.  A damaged file is logged and removed."""
        content = self.where.read(self.path)
        state = None if content is None else unseal_content(content)
        if content is not None and state is None:
            _log.warning("%s: damaged; it is removed, and the fit starts again", self.where.name(self.path))
            self.drop()
        return state or b""

    def due(self, num_done: int) -> bool:
        """True if the interval has passed, and it is this worker's to save."""
        return self.peers.leads and time.monotonic() - self._saved_s >= self._interval_now_s()

    def _interval_now_s(self) -> float:
        if NOTICE.since_s is None:
            return self.interval_s
        return 0.0 if self._saved_s < NOTICE.since_s else min(self.interval_s, _EVICTED_INTERVAL_S)

    def save(self, state: State) -> None:
        """Replace the file; a reader sees the old one or the new one."""
        self.where.write(self.path, seal_content(save(state)))
        self._saved_s = time.monotonic()

    def drop(self) -> None:
        """The fit is finished."""
        self.where.delete(self.path)
