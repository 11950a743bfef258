"""A run's folder: where things are, what happened when, and the files a person opens.

::

    RUN/artifacts/<stage>/<key>/   immutable stage outputs (llb_ray.artifacts); the trials of a search share one store
    RUN/run.json                   which artifacts this run is made of
    RUN/config.yaml                the resolved configuration
    RUN/purified/part-0.arrow      every training image with its scores, decision and reason
    RUN/scores.arrow               the score matrix, one row per image, one score per member
    RUN/quarantine.arrow           files that are not usable images, with the reason
    RUN/image_scores.arrow         the final detector's score of every image, training and test
    RUN/overrides.arrow            the decisions by hand, if any
    RUN/training_log.arrow         the loss of the final detector by step, if it was trained by descent
    RUN/importance.arrow           the last weight of every image that the final detector was trained on, if any
    RUN/threshold.json             the score above which an image is called anomalous, and how well it is known
    RUN/metrics.json               what the labels say, where there are any
    RUN/card.md                    data, thresholds, limits and licences of the detector, for who gets it
    RUN/report.html                all of it as one page, if one was written since
    RUN/signature.json             digests of all of it, signed, if it was (`llb_ray.engine.audit.signing`)
    RUN/tracking.json, tensorboard/  where it was sent to, if it was (`llb_ray.tracking`)
    RUN/events.jsonl               what happened when
    RUN/progress/                  the last sign of life of each worker
    RUN/checkpoints/               how far each unfinished fit got

Two undisturbed runs differ in events and progress, and in the times in their reports, and in nothing else; a finished
run has no checkpoints.

RUN may be a URI (`llb_ray.remote`).  The same is then there, less `progress`, which stays on each machine's disk, and
the folder of a `RunFolder` is this machine's working copy: a cache, which may be deleted while no run uses it.
One machine's drivers lock each other out of it; two machines' cannot.  They lose nothing, for artifacts are immutable
and the first one's stays, but the published files are then those of the last.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llb_ray.artifacts import Store, has_digest
from llb_ray.config import RunConfig, load
from llb_ray.disk import LOCAL, naming, write_atomic
from llb_ray.engine import filenames
from llb_ray.engine.rundir.event_log import parse_events
from llb_ray.engine.rundir.output_guard import EVENTS, LOCK
from llb_ray.engine.rundir.run_artifacts import RunArtifacts
from llb_ray.engine.rundir.run_index import INDEX, RunIndex, settings_digest
from llb_ray.errors import ArtifactError, ConfigError
from llb_ray.names import refuse_links
from llb_ray.remote import Remote

ARTIFACTS = "artifacts"
REPORT_WRITTEN, THRESHOLD_SET = "report written", "threshold set"  # events
SIGNATURE = "signature.json"
TRACKING, TENSORBOARD = "tracking.json", "tensorboard"  # of `llb_ray.tracking`
_WORKING = (ARTIFACTS, "progress", filenames.CHECKPOINTS, TENSORBOARD)
REPORT = "report.html"


@dataclass(frozen=True)
class RunFolder:
    """Paths and small files of one run."""

    path: Path
    shared_store: Path | None = None  # where the artifacts are that other runs use too; None: in a store of its own
    remote: Remote | None = None  # what the folder is this machine's copy of

    @classmethod
    def at(cls, where: Path | Remote, shared_store: Path | None = None) -> "RunFolder":
        """The folder, or the working copy of the one at a URI; touches neither."""
        if isinstance(where, Remote):
            return cls(where.copy, shared_store, where)
        return cls(Path(where).absolute(), shared_store)

    @classmethod
    def open(cls, where: Path | Remote) -> "RunFolder":
        """A finished run; raises ArtifactError if there is none, OSError if a URI cannot be read."""
        folder = cls.at(where)
        if not folder.file(INDEX).exists():
            raise ArtifactError(f"{where}: no finished run here (no run.json); give the --out of a finished run")
        if folder.remote is None:
            refuse_links(folder.path)
        return folder

    @property
    def where(self) -> str:
        """Display name of the folder."""
        return str(self.remote or self.path)

    def file(self, name: str) -> Path:
        """A published file; of a run at a URI, brought here as it is now, or removed if there is none."""
        path = self.path / name
        if self.remote is not None:
            content = self.remote.read(path)
            if content is None:
                path.unlink(missing_ok=True)
            else:
                write_atomic(path, content)
        return path

    @property
    def store(self) -> Store:
        return Store(self.shared_store or self.path / ARTIFACTS, self.remote)

    @property
    def progress(self) -> Path:
        return self.path / "progress"

    def config(self) -> RunConfig:
        """The resolved configuration of the run; raises ArtifactError if it is not what was published, or is that of
        another version."""
        said, problem = self.index().config, "not the run's"
        try:
            config = load(self.file("config.yaml"))
            if settings_digest(config) == said:
                return config
        except ConfigError as error:
            problem = str(error)
        self.made(verifies=False)  # raises what is true of a run of another version, whose settings are others
        raise ArtifactError(f"{self.where}/config.yaml: damaged ({problem}); run the same command again")

    def published(self, name: str) -> Path:
        """A published file of a finished run; raises ArtifactError if it is not what was published."""
        path, sha256 = self.file(name), self.index().published.get(name)
        if sha256 is not None and not (path.is_file() and has_digest(path, sha256)):
            raise ArtifactError(
                f"{self.where}/{name}: damaged (not the file that was published); run the same command again"
            )
        return path

    def index(self) -> RunIndex:
        """The content of run.json; raises ArtifactError if it is damaged."""
        return RunIndex.read(self.file(INDEX))

    def made(self, verifies: bool = True) -> RunArtifacts:
        """The artifacts that the run is made of; their contents are compared when they are used, if it `verifies`."""
        index = self.index()
        if self.remote is not None and not index.store.is_relative_to(self.path):
            raise ArtifactError(f"{self.where}: its artifacts are in a store of several runs, which is not at this URI")
        return RunArtifacts.of_index(index.artifacts, Store(index.store, self.remote, verifies))

    def events(self) -> Iterator[dict[str, Any]]:
        """Events in order of time, from a URI not by way of the working copy, where a run may be writing it."""
        content = (self.remote or LOCAL).read(self.path / EVENTS) or b""
        return parse_events(content.decode(errors="replace"))

    def report_digest(self) -> str | None:
        """The sha256 of the report that was written last since the run was started, or given a threshold, last; None
        where there is none."""
        digest: str | None = None
        for event in self.events():
            if event["event"] in (REPORT_WRITTEN, THRESHOLD_SET, "run started"):
                digest = event.get("sha256")
        return digest

    def log(self, event: str, **facts: Any) -> None:
        """Append one line to the event log."""
        line = json.dumps({"time_s": round(time.time(), 3), "event": event, **facts}, sort_keys=True)
        path = self.path / EVENTS
        with naming(path), path.open("a") as file:
            file.write(line + "\n")
        if self.remote is not None:
            self.remote.put(path, path)

    def put(self, name: str, content: bytes) -> None:
        """Replace a published file, here and at the URI."""
        write_atomic(self.path / name, content, durable=name == INDEX)
        if self.remote is not None:
            self.remote.write(self.path / name, content)

    def put_report(self, content: bytes) -> None:
        """Replace the report, and note which one it is."""
        self.put(REPORT, content)
        self.file(EVENTS)  # of a run at a URI: this machine may have no log of it yet
        self.log(REPORT_WRITTEN, sha256=hashlib.sha256(content).hexdigest())

    def others(self, names: Collection[str]) -> list[str]:
        """Files among the published ones that are neither one of `names` nor ours to work with."""
        ours = {*names, INDEX, EVENTS, REPORT, SIGNATURE, TRACKING, LOCK}
        return sorted(name for name in self._names() if name not in ours and name.split("/")[0] not in _WORKING)

    def _names(self) -> Iterator[str]:
        """The files of the folder, or at the URI, but for those of stages and workers."""
        if self.remote is not None:
            yield from self.remote.files()
            return
        for parent, folders, names in os.walk(self.path):
            folders[:] = [name for name in folders if Path(parent) != self.path or name not in _WORKING]
            yield from (Path(parent, name).relative_to(self.path).as_posix() for name in names)

    def remove(self, name: str) -> None:
        """Remove a published file, here and at the URI."""
        (self.path / name).unlink(missing_ok=True)
        if self.remote is not None:
            self.remote.delete(self.path / name)

    def remove_folder(self, name: str) -> None:
        """Remove a folder, here and at the URI."""
        shutil.rmtree(self.path / name, ignore_errors=True)
        if self.remote is not None:
            self.remote.delete_folder(self.path / name)
