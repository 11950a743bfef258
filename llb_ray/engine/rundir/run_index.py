"""run.json: which artifacts a run is made of, and the digests of what it published."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llb_ray.artifacts import digest
from llb_ray.config import RunConfig
from llb_ray.errors import ArtifactError

INDEX = "run.json"


@dataclass(frozen=True)
class RunIndex:
    """The content of run.json."""

    data_root: Path
    store: Path  # absolute; in the file it is relative to the run
    artifacts: dict[str, Any]  # by role, as paths relative to the store (`RunArtifacts.index`)
    published: dict[str, str]  # the sha256 of each published file
    config: str  # `settings_digest`
    weights: dict[str, str]  # origin of the backbone's

    @classmethod
    def read(cls, path: Path) -> "RunIndex":
        """The index in a file; raises ArtifactError if it is not one."""
        try:
            index: dict[str, Any] = json.loads(path.read_text())
            if os.path.isabs(index["store"]):
                raise ValueError("its store is not relative to it")
            store = Path(os.path.normpath(path.parent / index["store"]))
            published = {str(name): str(sha256) for name, sha256 in index["published"].items()}
            weights = {str(key): str(value) for key, value in index.get("weights", {}).items()}
            where, config = Path(index["data_root"]), str(index["config"])
            return cls(where, store, dict(index["artifacts"]), published, config, weights)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{path}: damaged ({error}); run the same command again") from error


def settings_digest(config: RunConfig) -> str:
    """Digest of all settings that results depend on: with other resources or trackers a run is the same run."""
    return digest(config.keyed_settings())
