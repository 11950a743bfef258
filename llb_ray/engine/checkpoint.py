"""Where a fit keeps how far it got, so that a killed worker goes on instead of starting over.

A checkpoint is not an artifact: it is overwritten as the fit goes on, and gone when the fit is finished.  Resuming
from any of them gives the same bytes, so how often one is written is no part of any key.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

from llb_ray.artifacts import Recipe, write_atomic
from llb_ray.detectors.base import State
from llb_ray.errors import ArtifactError

FOLDER = "checkpoints"  # beside the artifacts


@dataclass
class FileCheckpoints:
    """One file, written at most every `interval_s` seconds (the `Checkpoints` protocol of detectors)."""

    path: Path
    interval_s: float
    _saved_s: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, recipe: Recipe, store: Path, interval_s: float) -> "FileCheckpoints":
        """The checkpoints of what the recipe makes; nobody else's, since its key names settings, images and seed."""
        return cls(store.parent / FOLDER / f"{recipe.stage}-{recipe.key}.safetensors", interval_s)

    def load(self) -> State | None:
        """What was saved last; None where there is nothing.  Raises ArtifactError if it cannot be read."""
        try:
            return load(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except SafetensorError as error:
            raise ArtifactError(f"{self.path}: damaged ({error}); delete it and run the same command again") from error

    def due(self, num_done: int) -> bool:
        """Whether the interval has passed."""
        return time.monotonic() - self._saved_s >= self.interval_s

    def save(self, state: State) -> None:
        """Replace the file; a reader sees the old one or the new one."""
        write_atomic(self.path, save(state))
        self._saved_s = time.monotonic()

    def drop(self) -> None:
        """The fit is finished."""
        self.path.unlink(missing_ok=True)
