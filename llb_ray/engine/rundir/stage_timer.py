"""Time of each stage, reported and written down."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llb_ray.artifacts import Artifact, Recipe
from llb_ray.engine.rundir.run_folder import RunFolder

if TYPE_CHECKING:
    from llb_ray.engine.execution.executor import Tell

_WORTH_TELLING_S = 0.1  # bookkeeping stages take a hundredth


@dataclass
class StageTime:
    """Time of a stage in this process, and whether it was up to date."""

    stage: str
    seconds: float
    reused: bool


@dataclass
class StageTimer:
    """Times the stages of one run."""

    folder: RunFolder
    tell: "Tell"
    times: list[StageTime] = field(default_factory=list)

    @contextlib.contextmanager
    def timed(self, stage: str, reused: bool) -> Iterator[None]:
        """The block is the stage called `stage`; `reused` where all of it was up to date."""
        self.folder.log("stage started", stage=stage, reused=reused)
        started_s = time.perf_counter()
        yield
        seconds = round(time.perf_counter() - started_s, 3)  # the same here, in the log and in what is printed
        self.times.append(StageTime(stage, seconds, reused))
        self.folder.log("stage finished", stage=stage, reused=reused, seconds=seconds)
        if reused or seconds >= _WORTH_TELLING_S:
            self.tell(f"{stage}: {'up to date' if reused else f'{seconds:.1f} s'}")

    @contextlib.contextmanager
    def building(self, recipe: Recipe) -> Iterator[Path | None]:
        """A temporary folder that is the stage's artifact when the block ends; None where that is up to date."""
        reused = self.sound(recipe) is not None
        with self.timed(recipe.stage, reused), self.folder.store.building(recipe) as folder:
            yield folder

    def make(self, recipe: Recipe, build: Callable[[Path], None]) -> Artifact:
        """The stage's artifact, which `build` writes to a temporary folder unless it is up to date."""
        with self.building(recipe) as folder:
            if folder is not None:
                build(folder)
        return self.get(recipe)

    def get(self, recipe: Recipe) -> Artifact:
        """The finished artifact; raises ArtifactError where there is none."""
        return self.folder.store.get(recipe)

    def sound(self, recipe: Recipe) -> Artifact | None:
        """The finished artifact; a damaged one is logged and removed, and counts as missing."""

        def tell(line: str) -> None:
            self.tell(line)
            self.folder.log("artifact removed", reason=line)

        return self.folder.store.sound(recipe, tell)


def duration(seconds: float) -> str:
    """`seconds`, human-readable: ``9.5 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
