"""Artifacts of a run by role, as an object in memory and as paths in run.json."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from llb_ray.artifacts import Artifact, Store
from llb_ray.errors import ArtifactError

# Roles that runs of earlier versions have not.
_ADDED: dict[str, Any] = {"held_out_maps": [], "ignored": None, "lots": [], "base_partition": None}


@dataclass(frozen=True)
class RunArtifacts:
    """The artifacts of a finished run; without members where the filter looks at no score."""

    images: Artifact
    labels: Artifact
    features: list[Artifact]  # empty where they did not fit the disk
    rounds: list[Artifact]  # what the filter decided, round by round
    purified: Artifact  # the last of them, or that with decisions by hand
    final: Artifact
    final_scores: list[Artifact]
    evaluated: Artifact
    threshold: Artifact | None = None  # None where none was to be set
    partition: Artifact | None = None
    members: list[Artifact | None] = field(default_factory=list)  # by number; None where the run did without one
    member_scores: list[Artifact] = field(default_factory=list)
    matrix: Artifact | None = None
    bands: Artifact | None = None  # where the images are no photographs
    levels: Artifact | None = None  # where some have 16 bits
    ignored: Artifact | None = None  # where parts of photographs are not looked at
    near: Artifact | None = None  # where there are near duplicates
    folds: list[Artifact] = field(default_factory=list)  # the detectors without a fold, of all rounds and the threshold
    round_scores: list[list[Artifact]] = field(default_factory=list)  # by which each round but the first judged
    fold_scores: list[Artifact] = field(default_factory=list)  # that the threshold comes from; may be none
    overrides: Artifact | None = None  # where somebody decided by hand
    held_out_maps: list[Artifact] = field(default_factory=list)  # that the pixel threshold comes from; may be none
    pixel_counts: list[Artifact] = field(default_factory=list)  # empty where the test set is small
    lots: list[Artifact] = field(default_factory=list)  # of a run that was updated: the members learnt from the first
    base_partition: Artifact | None = None  # of the first lot
    pool: Artifact | None = None  # where runs draw their images from one, and the features are those of all its images

    def artifacts(self) -> Iterator[Artifact]:
        """Every one of them, once."""
        everything = (artifact for spec in fields(self) for artifact in _flat(getattr(self, spec.name)))
        yield from {artifact.path: artifact for artifact in everything}.values()

    def by_number(self) -> dict[int, Artifact]:
        """The members that there are."""
        return {number: fitted for number, fitted in enumerate(self.members) if fitted is not None}

    def index(self, store: Store) -> dict[str, Any]:
        """JSON-ready: paths relative to the store, by role."""
        return {spec.name: _to_json(getattr(self, spec.name), store.root) for spec in fields(self)}

    @classmethod
    def of_index(cls, index: dict[str, Any], store: Store) -> "RunArtifacts":
        """The artifacts that an index names; raises ArtifactError if it is not one, or one of them is gone."""
        try:
            roles = _ADDED | index
            return cls(**{spec.name: _from_json(roles[spec.name], store) for spec in fields(cls)})
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{store.root.parent}/run.json: damaged ({error}); run the same command again"
            ) from error


def _flat(value: Any) -> Iterator[Artifact]:
    if isinstance(value, Artifact):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _flat(item)


def _to_json(value: Any, root: Path) -> Any:
    if isinstance(value, Artifact):
        return value.path.relative_to(root).as_posix()
    return [_to_json(item, root) for item in value] if isinstance(value, list) else value


def _from_json(value: Any, store: Store) -> Any:
    if isinstance(value, str):
        return store.load(value)
    return [_from_json(item, store) for item in value] if isinstance(value, list) else value
