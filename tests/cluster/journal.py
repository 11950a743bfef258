"""What workers really did, written down in their own processes, step by step, and slowed down so as to be caught at it.

`install` is Ray's set-up hook of every worker process of a test's driver; the folder comes in the environment.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER, SLOW_S = "LLB_JOURNAL", "LLB_JOURNAL_SLOW_S"


@dataclass(frozen=True)
class Line:
    """A report of progress: a gradient step done, or a batch of images scored."""

    name: str
    step: str
    done: int
    total: int
    pid: int


def runtime_env(folder: Path, slow_s: float) -> dict[str, object]:
    """What a test's driver gives to Ray."""
    # A worker finds this module by it: unlike pytest, Ray puts nothing on the path.
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    variables = {FOLDER: str(folder), SLOW_S: str(slow_s), "PYTHONPATH": path}
    return {"env_vars": variables, "worker_process_setup_hook": "tests.cluster.journal.install"}


def read(folder: Path) -> list[Line]:
    """All reports of all workers, each worker's in their order."""
    lines = [line.split() for path in sorted(folder.glob("*.txt")) for line in path.read_text().splitlines()]
    return [Line(name, step, int(done), int(total), int(pid)) for name, step, done, total, pid in lines]


def built(folder: Path) -> list[str]:
    """The artifacts that workers built, one entry for every time."""
    return [line for path in sorted(folder.glob("*.built")) for line in path.read_text().splitlines()]


def install() -> None:
    """Report progress, and every artifact that was built, to the journal as well."""
    from llb_ray.artifacts import Recipe, Store
    from llb_ray.detectors.base import NO_FIGURES, Report
    from llb_ray.engine.execution.heartbeat import Heartbeat

    journal, slow_s = Path(os.environ[FOLDER]), float(os.environ[SLOW_S])
    report, building = Heartbeat.report, Store.building

    def noted(self: Heartbeat, step: str) -> Report:
        beat = report(self, step)

        def also(done: int, total: int, unit: str, figures: Mapping[str, float] = NO_FIGURES) -> None:
            _append(journal / f"{self._name}.txt", f"{self._name} {step} {done} {total} {os.getpid()}")
            beat(done, total, unit, figures)
            time.sleep(slow_s)

        return also

    @contextlib.contextmanager
    def built_once(self: Store, recipe: Recipe) -> Iterator[Path | None]:
        with building(self, recipe) as folder:
            yield folder
        if folder is not None:
            _append(journal / f"{os.getpid()}.built", f"{recipe.stage}/{recipe.key}")

    Heartbeat.report = noted  # type: ignore[method-assign]
    Store.building = built_once  # type: ignore[method-assign]


def _append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")
