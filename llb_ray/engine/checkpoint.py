"""Where a fit keeps how far it got, so that a killed worker goes on instead of starting over.

A checkpoint is not an artifact: it is overwritten as the fit goes on, and gone when the fit is finished.  Resuming
from any of them gives the same bytes, so how often one is written is no part of any key.

Workers that fit together have one file between them, which the leading one writes and reads out to the others; they
need not agree on what a shared disk shows at the moment, and may be more or fewer when the fit goes on.  Ray Train's
checkpoints are not used: they end with the driver's process, and this file does not.

Where the run lies at a URI, so does the file: the next worker may be on another machine.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

from llb_ray.artifacts import Recipe, Store
from llb_ray.detectors.base import State
from llb_ray.detectors.peers import ALONE, Peers
from llb_ray.disk import write_atomic
from llb_ray.errors import ArtifactError
from llb_ray.remote import Remote

FOLDER = "checkpoints"  # beside the artifacts


@dataclass
class FileCheckpoints:
    """One file, written at most every `interval_s` seconds (the `Checkpoints` protocol of detectors)."""

    path: Path
    interval_s: float
    peers: Peers = ALONE
    remote: Remote | None = None
    _saved_s: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, recipe: Recipe, store: Store, interval_s: float, peers: Peers = ALONE) -> "FileCheckpoints":
        """The checkpoints of what the recipe makes; nobody else's, since its key names settings, images and seed."""
        path = store.root.parent / FOLDER / f"{recipe.stage}-{recipe.key}.safetensors"
        return cls(path, interval_s, peers, store.remote)

    def load(self) -> State | None:
        """What was saved last; None where there is nothing.  Raises ArtifactError if it cannot be read."""
        content = self.peers.told(self._content() if self.peers.leads else b"")
        try:
            return load(content) if content else None
        except SafetensorError as error:
            where = self.path if self.remote is None else self.remote.name(self.path)
            raise ArtifactError(f"{where}: damaged ({error}); delete it and run the same command again") from error

    def due(self, num_done: int) -> bool:
        """Whether the interval has passed, and it is this worker's to save."""
        return self.peers.leads and time.monotonic() - self._saved_s >= self.interval_s

    def save(self, state: State) -> None:
        """Replace the file; a reader sees the old one or the new one."""
        if self.remote is None:
            write_atomic(self.path, save(state))
        else:
            self.remote.write(self.path, save(state))
        self._saved_s = time.monotonic()

    def drop(self) -> None:
        """The fit is finished."""
        if self.remote is None:
            self.path.unlink(missing_ok=True)
        else:
            self.remote.delete(self.path)

    def _content(self) -> bytes:
        if self.remote is not None:
            return self.remote.read(self.path) or b""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
