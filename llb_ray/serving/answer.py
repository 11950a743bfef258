"""A judge's answer on one image, and the version of the run that gave it; needs no torch, unlike the judge."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llb_ray.engine.inference.verdicts import refuse_several
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.errors import ArtifactError, ConfigError
from llb_ray.remote import locate

_VERSION_DIGITS = 12


@dataclass(frozen=True)
class Judged:
    """One image's verdict, and which version of the run gave it."""

    version: str
    threshold: float
    image_id: str
    score: float
    decision: str
    quantile: float
    regions: Sequence[dict[str, Any]] | None = None  # fields of `Region`; None where the run keeps no held-out maps
    overlay: bytes | None = None  # PNG


@dataclass(frozen=True)
class Refused:
    """The reason that an image could not be judged, for people."""

    reason: str


def run_version(run: str) -> str:
    """The first digits of the sha256 of what says which artifacts the run at `run` is made of.

    Raises ArtifactError for what is no finished run, or one without a threshold; ConfigError for one with several, or
    with a mask for each photograph.
    """
    folder = RunFolder.open(locate(run))
    made = folder.made()
    if made.threshold is None:
        raise ArtifactError(f"{folder.where}: threshold.method=none: it can be served only with a threshold")
    refuse_several(made.threshold, folder.where, "serve")
    if made.masks is not None:
        raise ConfigError(
            f"{folder.where}: was made with a mask for each photograph, and serve takes none; use predict with "
            "--ignore-mask or --inspect-mask"
        )
    return hashlib.sha256(folder.file("run.json").read_bytes()).hexdigest()[:_VERSION_DIGITS]
