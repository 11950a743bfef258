"""A run's folder: where things are, what happened when, and the files a person opens.

::

    RUN/artifacts/<stage>/<key>/   immutable stage outputs (llb_ray.artifacts)
    RUN/run.json                   which artifacts this run is made of
    RUN/config.yaml                the resolved configuration
    RUN/purified/part-0.arrow      every training image with its scores, decision and reason
    RUN/scores.arrow               the score matrix, one row per image and member
    RUN/quarantine.arrow           files that are not usable images, with the reason
    RUN/image_scores.arrow         the final detector's score of every image, training and test
    RUN/metrics.json               what the labels say, where there are any
    RUN/events.jsonl               what happened when; the only file that differs between two equal runs
    RUN/progress/                  the last sign of life of each worker
"""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llb_ray.artifacts import Artifact, Store, load, write_atomic, write_json
from llb_ray.config import RunConfig, parse
from llb_ray.errors import ArtifactError

PUBLISHED = {
    "purified/part-0.arrow": ("purify", "purified.arrow"),
    "scores.arrow": ("scores", "scores.arrow"),
    "quarantine.arrow": ("manifest", "quarantine.arrow"),
    "image_scores.arrow": ("evaluate", "image_scores.arrow"),
    "metrics.json": ("evaluate", "metrics.json"),
}


@dataclass(frozen=True)
class RunFolder:
    """Paths and small files of one run."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """The folder, made if need be and known to be writable; raises ArtifactError if it cannot be written."""
        folder = cls(Path(path).absolute())
        try:
            folder.store.clear_unfinished()
            shutil.rmtree(folder.progress, ignore_errors=True)
            folder.progress.mkdir()
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """A finished run; raises ArtifactError if there is none in `path`."""
        folder = cls(Path(path).absolute())
        if not folder.index_path.exists():
            raise ArtifactError(f"{path}: no finished run here (no run.json); give the --out of a finished run")
        return folder

    @property
    def store(self) -> Store:
        return Store(self.path / "artifacts")

    @property
    def progress(self) -> Path:
        return self.path / "progress"

    @property
    def index_path(self) -> Path:
        return self.path / "run.json"

    def config(self) -> RunConfig:
        """The resolved configuration that the run was made with."""
        path = self.path / "config.yaml"
        return parse(yaml.safe_load(path.read_text()), str(path))

    def index(self) -> dict[str, Any]:
        """run.json: the data root, and the artifacts by role, as paths relative to the store."""
        index: dict[str, Any] = json.loads(self.index_path.read_text())
        return index

    def artifact(self, relative: str) -> Artifact:
        """The artifact that the index names by this path."""
        return load(self.store.root / relative)

    def log(self, event: str, **facts: Any) -> None:
        """Append one line to the event log."""
        line = json.dumps({"time_s": round(time.time(), 3), "event": event, **facts}, sort_keys=True)
        with (self.path / "events.jsonl").open("a") as file:
            file.write(line + "\n")

    def publish(self, config: RunConfig, root: Path, made: Mapping[str, Artifact | list[Artifact]]) -> None:
        """Copy what people open out of the store; run.json is written last, so it means *finished*."""
        for name, (stage, file) in PUBLISHED.items():
            source = made.get(stage)
            if isinstance(source, Artifact):
                write_atomic(self.path / name, (source.path / file).read_bytes())
            else:
                (self.path / name).unlink(missing_ok=True)  # left by an earlier run with other settings
        write_atomic(self.path / "config.yaml", config.to_yaml().encode())
        write_json(self.index_path, {"data_root": str(root.absolute()), "artifacts": self._index(made)})

    def _index(self, made: Mapping[str, Artifact | list[Artifact]]) -> dict[str, str | list[str]]:
        def relative(artifact: Artifact) -> str:
            return artifact.path.relative_to(self.store.root).as_posix()

        return {
            role: relative(found) if isinstance(found, Artifact) else [relative(artifact) for artifact in found]
            for role, found in made.items()
        }
