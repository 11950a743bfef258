"""Plain workers for the executor contract; in a module of their own so that Ray can import them by name."""

import errno
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from llb_ray.config import ResourcesConfig
from llb_ray.engine.worker import Place
from llb_ray.errors import MemberError


def place(folder: Path, **resources: Any) -> Place:
    return Place(folder / "store", folder / "progress", ResourcesConfig(**resources))


@dataclass(frozen=True)
class CountingSpec:
    name: str
    place: Place
    folder: Path
    fails: str = ""

    @property
    def title(self) -> str:
        return self.name


class Counting:
    """Leaves one file per step, or fails in the way it is told."""

    STEPS: ClassVar[tuple[str, ...]] = ("fit", "score")

    def __init__(self, spec: CountingSpec) -> None:
        self._spec = spec

    def fit(self) -> None:
        self._leave("fit")

    def score(self) -> None:
        if self._spec.fails == "llb":
            raise MemberError(f"{self._spec.name} has a poison image")
        if self._spec.fails == "bug":
            raise ZeroDivisionError("a bug")
        if self._spec.fails == "disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._spec.folder))
        if self._spec.fails == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        self._leave("score")

    def _leave(self, step: str) -> None:
        path = self._spec.folder / f"{self._spec.name}-{step}.txt"
        path.write_text(step)
