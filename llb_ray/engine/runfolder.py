"""A run's folder: where things are, what happened when, and the files a person opens.

::

    RUN/artifacts/<stage>/<key>/   immutable stage outputs (llb_ray.artifacts); the trials of a search share one store
    RUN/run.json                   which artifacts this run is made of
    RUN/config.yaml                the resolved configuration
    RUN/purified/part-0.arrow      every training image with its scores, decision and reason
    RUN/scores.arrow               the score matrix, one row per image, one score per member
    RUN/quarantine.arrow           files that are not usable images, with the reason
    RUN/image_scores.arrow         the final detector's score of every image, training and test
    RUN/importance.arrow           the last weight of every image that the final detector was trained on, if any
    RUN/metrics.json               what the labels say, where there are any
    RUN/events.jsonl               what happened when
    RUN/progress/                  the last sign of life of each worker
    RUN/checkpoints/               how far each unfinished fit got

Two undisturbed runs differ in events and progress and in nothing else; a finished run has no checkpoints.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llb_ray.artifacts import Store, clear_temporary, write_atomic, write_json
from llb_ray.config import RunConfig, load
from llb_ray.engine import files
from llb_ray.engine.checkpoint import FOLDER as CHECKPOINTS
from llb_ray.engine.made import Made
from llb_ray.errors import ArtifactError

_LOCK = ".lock"
_EVENTS = "events.jsonl"


def published(made: Made) -> dict[str, Path | None]:
    """What people open, and the artifact's file that it is a copy of; None where this run has no such thing."""
    final = made.final
    return {
        "purified/part-0.arrow": made.purified.path / files.PURIFIED,
        "scores.arrow": made.matrix.path / files.SCORES if made.matrix else None,
        "quarantine.arrow": made.images.path / files.QUARANTINE,
        "image_scores.arrow": made.evaluated.path / files.IMAGE_SCORES,
        "importance.arrow": final.path / files.IMPORTANCE if files.IMPORTANCE in final.files else None,
        "metrics.json": made.evaluated.path / files.METRICS,
    }


@dataclass(frozen=True)
class RunFolder:
    """Paths and small files of one run."""

    path: Path
    shared_store: Path | None = None  # where the artifacts lie that other runs use too; None: in a store of its own

    @classmethod
    @contextlib.contextmanager
    def locked(cls, path: Path, shared_store: Path | None = None) -> Iterator["RunFolder"]:
        """The folder, made if need be, writable, and ours alone until the end of the context.

        Raises ArtifactError if it cannot be written or another process is at work in it.
        """
        folder = cls(Path(path).absolute(), shared_store)
        # The operating system drops the lock of a killed process, so a resume never waits for a dead one.
        lock = FileLock(folder.path / _LOCK, timeout=0)
        try:
            refuse_foreign(folder.path, belongs=_EVENTS)
            folder.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise ArtifactError(f"{path}: another run is at work here; wait for it or choose another --out") from error
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error
        try:
            folder._tidy()
            yield folder
            folder.clear_unfinished()  # of workers that were killed and started again
        finally:
            lock.release()

    def _tidy(self) -> None:
        for folder in (self.path, self.path / "purified"):
            clear_temporary(folder)
        (self.path / _EVENTS).touch()  # first: it is how we know the folder again
        self.progress.mkdir(exist_ok=True)
        for beat in self.progress.iterdir():
            beat.unlink()
        self.clear_unfinished()

    def clear_unfinished(self) -> None:
        """Remove what killed workers left half built, unless other runs may be building there now."""
        if self.shared_store is None:
            self.store.clear_unfinished()

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """A finished run; raises ArtifactError if there is none in `path`."""
        folder = cls(Path(path).absolute())
        if not folder.index_path.exists():
            raise ArtifactError(f"{path}: no finished run here (no run.json); give the --out of a finished run")
        return folder

    @property
    def store(self) -> Store:
        return Store(self.shared_store or self.path / "artifacts")

    @property
    def progress(self) -> Path:
        return self.path / "progress"

    @property
    def index_path(self) -> Path:
        return self.path / "run.json"

    def config(self) -> RunConfig:
        """The resolved configuration that the run was made with."""
        return load(self.path / "config.yaml")

    def index(self) -> dict[str, Any]:
        """run.json: the data root, the store, and the artifacts by role, as paths relative to the store."""
        try:
            index: dict[str, Any] = json.loads(self.index_path.read_text())
            store = Path(os.path.normpath(self.path / index["store"]))
            return {"data_root": Path(index["data_root"]), "store": store, "artifacts": dict(index["artifacts"])}
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{self.index_path}: damaged ({error}); run the same command again") from error

    def made(self) -> Made:
        """The artifacts that the run is made of."""
        index = self.index()
        return Made.of_index(index["artifacts"], Store(index["store"]))

    def log(self, event: str, **facts: Any) -> None:
        """Append one line to the event log."""
        line = json.dumps({"time_s": round(time.time(), 3), "event": event, **facts}, sort_keys=True)
        with (self.path / _EVENTS).open("a") as file:
            file.write(line + "\n")

    def publish(self, config: RunConfig, root: Path, made: Made) -> None:
        """Copy what people open out of the store; run.json goes first and comes back last, so it means *finished*."""
        self.index_path.unlink(missing_ok=True)
        for name, source in published(made).items():
            if source is None:
                (self.path / name).unlink(missing_ok=True)  # left by an earlier run with other settings
            else:
                write_atomic(self.path / name, source.read_bytes())
        write_atomic(self.path / "config.yaml", config.to_yaml().encode())
        shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)  # of fits that other settings gave up
        store = os.path.relpath(self.store.root, self.path)  # a folder that is moved with its store stays whole
        index = {"data_root": str(root.absolute()), "store": store, "artifacts": made.index(self.store)}
        write_json(self.index_path, index)


def refuse_foreign(out: Path, belongs: str) -> None:
    """Raise ArtifactError if `out` holds files, but not the one that ours hold: we clear and overwrite there."""
    try:
        str(out).encode()
    except UnicodeEncodeError as error:
        raise ArtifactError(f"{str(out)!r}: Arrow needs a name in UTF-8; choose another --out") from error
    names = {path.name for path in out.iterdir()} - {_LOCK} if out.is_dir() else set()
    if names and belongs not in names:
        raise ArtifactError(
            f"{out}: holds files of another kind ({min(names)}); choose a new or empty folder for --out"
        )


def refuse_inside(data: Path, out: Path) -> None:
    """Raise ArtifactError if `out` lies in `data`: the next reading of `data` would take results for photographs."""
    if out.resolve().is_relative_to(data.resolve()):
        raise ArtifactError(f"{out}: lies inside the images' folder {data}; choose an --out beside it")
