"""Artifacts of a run by role, as an object in memory and as paths in run.json."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from llb_ray.artifacts import Artifact, Store
from llb_ray.engine import filenames
from llb_ray.errors import ArtifactError

# Roles that runs of earlier versions have not.
_ADDED: dict[str, Any] = {"held_out_maps": [], "ignored": None, "lots": [], "base_partition": None}


@dataclass(frozen=True, kw_only=True)
class InputArtifacts:
    """The images of a run, and what is known of them before any is encoded."""

    images: Artifact
    labels: Artifact
    partition: Artifact | None = None  # None where the filter looks at no score
    base_partition: Artifact | None = None  # of the first lot
    lots: list[Artifact] = field(default_factory=list)  # of a run that was updated: the members learnt from the first
    pool: Artifact | None = None  # where runs draw their images from one, and the features are those of all its images
    near: Artifact | None = None  # where there are near duplicates
    bands: Artifact | None = None  # where the images are no photographs
    levels: Artifact | None = None  # where some have 16 bits
    ignored: Artifact | None = None  # where parts of photographs are not looked at

    @property
    def masks(self) -> Artifact | None:
        """The same where each photograph has a mask of its own; None where one is that of all."""
        return self.ignored if self.ignored is not None and filenames.MASKS in self.ignored.files else None


@dataclass(frozen=True, kw_only=True)
class MemberArtifacts:
    """The layers of the images, and the members' scores of them; no members where the filter looks at no score."""

    features: list[Artifact]  # empty where they did not fit the disk
    members: list[Artifact | None] = field(default_factory=list)  # by number; None where the run did without one
    member_scores: list[Artifact] = field(default_factory=list)
    matrix: Artifact | None = None

    def by_number(self) -> dict[int, Artifact]:
        """The members that there are."""
        return {number: fitted for number, fitted in enumerate(self.members) if fitted is not None}


@dataclass(frozen=True, kw_only=True)
class DecisionArtifacts:
    """The decisions about the images, and the detectors without a fold that they or the threshold come from."""

    rounds: list[Artifact]  # what the filter decided, round by round
    purified: Artifact  # the last of them, or that with decisions by hand
    overrides: Artifact | None = None  # where somebody decided by hand
    folds: list[Artifact] = field(default_factory=list)  # the detectors without a fold, of all rounds and the threshold
    round_scores: list[list[Artifact]] = field(default_factory=list)  # by which each round but the first judged
    fold_scores: list[Artifact] = field(default_factory=list)  # that the threshold comes from; may be none


@dataclass(frozen=True, kw_only=True)
class FinalArtifacts:
    """The final detector, its threshold, and its metrics."""

    final: Artifact
    final_scores: list[Artifact]
    evaluated: Artifact
    threshold: Artifact | None = None  # None where none was to be set
    held_out_maps: list[Artifact] = field(default_factory=list)  # that the pixel threshold comes from; may be none
    pixel_counts: list[Artifact] = field(default_factory=list)  # empty where the test set is small


@dataclass(frozen=True, kw_only=True)
class RunArtifacts(FinalArtifacts, DecisionArtifacts, MemberArtifacts, InputArtifacts):
    """The artifacts of a finished run."""

    @classmethod
    def of(cls, *parts: InputArtifacts | MemberArtifacts | DecisionArtifacts | FinalArtifacts) -> "RunArtifacts":
        """All that the stages made, in one of each kind of part."""
        return cls(**{role: made for part in parts for role, made in vars(part).items()})

    def artifacts(self) -> Iterator[Artifact]:
        """Every one of them, once."""
        everything = (artifact for spec in fields(self) for artifact in _flat(getattr(self, spec.name)))
        yield from {artifact.path: artifact for artifact in everything}.values()

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
