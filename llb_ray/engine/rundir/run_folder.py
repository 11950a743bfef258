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
    RUN/report.html                all of it as one page, if one was written since
    RUN/signature.json             digests of all of it, signed, if it was (`llb_ray.engine.audit.signing`)
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

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llb_ray.artifacts import Store, digest, has_digest
from llb_ray.config import RunConfig, load
from llb_ray.disk import LOCAL, clear_temporary, json_bytes, naming, write_atomic
from llb_ray.engine import filenames
from llb_ray.engine.rundir.event_log import parse_events
from llb_ray.engine.rundir.output_guard import LOCK, refuse_foreign
from llb_ray.engine.rundir.run_artifacts import RunArtifacts
from llb_ray.errors import ArtifactError, ConfigError
from llb_ray.names import refuse_links
from llb_ray.remote import Remote

EVENTS = "events.jsonl"
_ARTIFACTS = "artifacts"
REPORT_WRITTEN, THRESHOLD_SET = "report written", "threshold set"  # events
SIGNATURE = "signature.json"
_WORKING = (_ARTIFACTS, "progress", filenames.CHECKPOINTS)
_INDEX = "run.json"
REPORT = "report.html"


def published(made: RunArtifacts) -> dict[str, Path | None]:
    """Published files, each with the artifact's file that it is a copy of; None where this run has no such thing."""
    final, decided = made.final, made.rounds[-1]
    estimated = filenames.CONTAMINATION in decided.files
    return {
        "purified/part-0.arrow": made.purified.file(filenames.PURIFIED),
        "contamination.json": decided.file(filenames.CONTAMINATION) if estimated else None,
        "what_if.arrow": decided.file(filenames.WHAT_IF) if estimated else None,
        "scores.arrow": made.matrix.file(filenames.SCORES) if made.matrix else None,
        "overrides.arrow": made.overrides.file(filenames.OVERRIDES) if made.overrides else None,
        "quarantine.arrow": made.images.file(filenames.QUARANTINE),
        "near_duplicates.arrow": made.near.file(filenames.NEAR) if made.near else None,
        "image_scores.arrow": made.evaluated.file(filenames.IMAGE_SCORES),
        "training_log.arrow": final.file(filenames.TRAINING_LOG) if filenames.TRAINING_LOG in final.files else None,
        "importance.arrow": final.file(filenames.IMPORTANCE) if filenames.IMPORTANCE in final.files else None,
        "threshold.json": made.threshold.file(filenames.THRESHOLD) if made.threshold else None,
        "metrics.json": made.evaluated.file(filenames.METRICS),
    }


def settings_digest(config: RunConfig) -> str:
    """Digest of all settings that results depend on: with other resources a run is the same run."""
    tree = config.model_dump(mode="json")
    return digest({name: value for name, value in tree.items() if name != "resources"})


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
    @contextlib.contextmanager
    def locked(cls, where: Path | Remote, shared_store: Path | None = None) -> Iterator["RunFolder"]:
        """The folder, made if need be, writable, and ours alone until the end of the context.

        Raises ArtifactError if it cannot be written or another process runs in it, OSError if a URI cannot.
        """
        folder = cls.at(where, shared_store)
        # The operating system drops the lock of a killed process, so a resume never waits for a dead one.
        lock = FileLock(folder.path / LOCK, timeout=0)
        if folder.remote is not None:
            refuse_foreign(folder.remote, EVENTS, _ARTIFACTS)
        try:
            if folder.remote is None:
                refuse_foreign(folder.path, EVENTS)
            folder.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise ArtifactError(f"{where}: another run is active here; wait for it or choose another --out") from error
        except OSError as error:
            remedy = "choose another --out" if folder.remote is None else "name another folder in LLB_CACHE"
            raise ArtifactError(f"{folder.path}: cannot be written ({error.strerror}); {remedy}") from error
        try:
            folder._tidy()
            yield folder
            folder.clear_unfinished()  # of workers that were killed and started again
        finally:
            lock.release()

    def _tidy(self) -> None:
        for folder in (self.path, self.path / "purified"):
            clear_temporary(folder)
        self.file(EVENTS).touch()  # first: it is how we know the folder again
        self.progress.mkdir(exist_ok=True)
        for beat in self.progress.iterdir():
            beat.unlink()
        self.clear_unfinished()

    def clear_unfinished(self) -> None:
        """Remove what killed workers left half built, unless other runs may be building there now."""
        if self.shared_store is None:
            self.store.clear_unfinished()

    @contextlib.contextmanager
    def proofs(self) -> Iterator[dict[Path, Path]]:
        """A file in each folder that workers write to, by the folder; new, so that no other folder has it.

        None of a run at a URI: there each machine writes to its own copy.
        """
        name = f".{uuid.uuid4().hex}"
        written = (self.store.root, self.progress) if self.remote is None else ()
        proofs = {folder: folder / name for folder in written}
        try:
            for folder, file in proofs.items():
                folder.mkdir(parents=True, exist_ok=True)
                file.touch()
            yield proofs
        finally:
            for file in proofs.values():
                file.unlink(missing_ok=True)

    @classmethod
    def open(cls, where: Path | Remote) -> "RunFolder":
        """A finished run; raises ArtifactError if there is none, OSError if a URI cannot be read."""
        folder = cls.at(where)
        if not folder.file(_INDEX).exists():
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
        return Store(self.shared_store or self.path / _ARTIFACTS, self.remote)

    @property
    def progress(self) -> Path:
        return self.path / "progress"

    def config(self) -> RunConfig:
        """The resolved configuration of the run; raises ArtifactError if it is not what was published."""
        said = self.index()["config"]
        try:
            config = load(self.file("config.yaml"))
        except ConfigError as error:
            raise ArtifactError(f"{self.where}/config.yaml: damaged ({error}); run the same command again") from error
        if settings_digest(config) != said:
            raise ArtifactError(f"{self.where}/config.yaml: damaged (not the run's); run the same command again")
        return config

    def published(self, name: str) -> Path:
        """A published file of a finished run; raises ArtifactError if it is not what was published."""
        path, sha256 = self.file(name), self.index()["published"].get(name)
        if sha256 is not None and not (path.is_file() and has_digest(path, sha256)):
            raise ArtifactError(
                f"{self.where}/{name}: damaged (not the file that was published); run the same command again"
            )
        return path

    def index(self) -> dict[str, Any]:
        """run.json: the data root, the store, the artifacts by role, as paths relative to the store, and the sha256 of
        what was published."""
        path = self.file(_INDEX)
        try:
            index: dict[str, Any] = json.loads(path.read_text())
            if os.path.isabs(index["store"]):
                raise ValueError("its store is not relative to it")
            store = Path(os.path.normpath(self.path / index["store"]))
            published = {str(name): str(sha256) for name, sha256 in index["published"].items()}
            found = {"data_root": Path(index["data_root"]), "store": store, "artifacts": dict(index["artifacts"])}
            return found | {"published": published, "config": str(index["config"])}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{path}: damaged ({error}); run the same command again") from error

    def made(self, verifies: bool = True) -> RunArtifacts:
        """The artifacts that the run is made of; their contents are compared when they are used, if it `verifies`."""
        index = self.index()
        if self.remote is not None and not index["store"].is_relative_to(self.path):
            raise ArtifactError(f"{self.where}: its artifacts are in a store of several runs, which is not at this URI")
        return RunArtifacts.of_index(index["artifacts"], Store(index["store"], self.remote, verifies))

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

    def publish(self, config: RunConfig, root: Path, made: RunArtifacts) -> None:
        """Copy published files out of the store; run.json goes first and comes back last, so it means *finished*."""
        from llb_ray.detectors.factory import weights_origin  # torch, which those who only read a run are spared

        weights = weights_origin(config.detector)  # first: it may refuse, and a run that is finished stays so
        self._remove(_INDEX)
        self._remove(REPORT)  # of what was here before
        self._remove(SIGNATURE)
        contents: dict[str, bytes] = {}
        for name, source in published(made).items():
            if source is None:
                self._remove(name)  # left by an earlier run with other settings
            else:
                contents[name] = source.read_bytes()
        for name, content in contents.items():
            self.put(name, content)
        self._drop_checkpoints()  # of fits that other settings gave up
        store = os.path.relpath(self.store.root, self.path)  # a folder that is moved with its store stays whole
        index = {"data_root": str(root.absolute()), "store": store, "artifacts": made.index(self.store)}
        self.put("config.yaml", config.to_yaml().encode())
        index["config"] = settings_digest(config)
        index["published"] = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        self.put(_INDEX, json_bytes(index | {"weights": weights}))

    def put(self, name: str, content: bytes) -> None:
        """Replace a published file, here and at the URI."""
        write_atomic(self.path / name, content, durable=name == _INDEX)
        if self.remote is not None:
            self.remote.write(self.path / name, content)

    def put_report(self, content: bytes) -> None:
        """Replace the report, and note which one it is."""
        self.put(REPORT, content)
        self.file(EVENTS)  # of a run at a URI: this machine may have no log of it yet
        self.log(REPORT_WRITTEN, sha256=hashlib.sha256(content).hexdigest())

    def others(self, names: Collection[str]) -> list[str]:
        """Files among the published ones that are neither one of `names` nor ours to work with."""
        ours = {*names, _INDEX, EVENTS, REPORT, SIGNATURE, LOCK}
        return sorted(name for name in self._names() if name not in ours and name.split("/")[0] not in _WORKING)

    def _names(self) -> Iterator[str]:
        """The files of the folder, or at the URI, but for those of stages and workers."""
        if self.remote is not None:
            yield from self.remote.files()
            return
        for parent, folders, names in os.walk(self.path):
            folders[:] = [name for name in folders if Path(parent) != self.path or name not in _WORKING]
            yield from (Path(parent, name).relative_to(self.path).as_posix() for name in names)

    def _remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)
        if self.remote is not None:
            self.remote.delete(self.path / name)

    def _drop_checkpoints(self) -> None:
        shutil.rmtree(self.path / filenames.CHECKPOINTS, ignore_errors=True)
        if self.remote is not None:
            self.remote.delete_folder(self.path / filenames.CHECKPOINTS)
