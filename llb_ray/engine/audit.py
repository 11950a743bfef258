"""Does a finished run follow from its own raw scores?

The published code of the method trained on a random share while its log showed a clean one, because scores were
joined by position.  So nothing here trusts a decision: the kept set is derived again from the score matrix, the
matrix is compared with what each member wrote, and every image is hashed again.  The checks read the files that
people open (``scores.arrow``, ``purified/``); the last two tie those to the artifacts, byte by byte.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.artifacts import Artifact, file_digest
from llb_ray.config import RunConfig
from llb_ray.data.images import content_id
from llb_ray.data.manifest import TRAIN, path_from_text
from llb_ray.data.tables import joined, read_table
from llb_ray.engine.member import TRAINED_ON, score_matrix
from llb_ray.engine.runfolder import PUBLISHED, RunFolder
from llb_ray.ensemble.dataset import kept_ids, purified_dataset
from llb_ray.ensemble.partition import shares
from llb_ray.ensemble.scores import dense
from llb_ray.errors import ArtifactError, AuditError, LlbError


def audit_run(out: Path, data: Path | None = None) -> list[str]:
    """One sentence per check passed; `data` is where the images are now, if they have moved since the run.

    Raises AuditError naming the first thing that does not follow, and ArtifactError if there is no finished run.
    """
    run = _Run(RunFolder.open(out), data)
    passed = []
    for check in _CHECKS:
        try:
            passed.append(check(run))
        except AuditError:
            raise
        except (LlbError, pa.ArrowException, OSError) as error:
            raise AuditError(f"{out}: {error}") from error
    return passed


@dataclass(frozen=True)
class _Run:
    """A finished run, read lazily."""

    folder: RunFolder
    data: Path | None

    @cached_property
    def config(self) -> RunConfig:
        return self.folder.config()

    @cached_property
    def index(self) -> dict[str, Any]:
        return self.folder.index()

    @cached_property
    def root(self) -> Path:
        return self.data or Path(self.index["data_root"])

    @cached_property
    def images(self) -> pa.Table:
        return read_table(self.one("manifest").path / "images.arrow")

    @cached_property
    def train(self) -> pa.Table:
        train = self.images.filter(pc.equal(self.images["split"], TRAIN))
        labels = read_table(self.one("labels").path / "labels.arrow")
        return joined(train, labels)

    @cached_property
    def owned(self) -> list[list[str]]:
        return shares(read_table(self.one("partition").path / "partition.arrow")) if self.has_members else []

    @cached_property
    def scores(self) -> pa.Table | None:
        return read_table(self.folder.path / "scores.arrow") if self.has_members else None

    @cached_property
    def purified(self) -> pa.Table:
        return read_table(self.folder.path / "purified" / "part-0.arrow")

    @property
    def has_members(self) -> bool:
        return "scores" in self.index["artifacts"]

    def one(self, role: str) -> Artifact:
        return self.folder.artifact(self.index["artifacts"][role])

    def several(self, role: str) -> list[Artifact]:
        return [self.folder.artifact(relative) for relative in self.index["artifacts"].get(role, [])]

    def everything(self) -> list[Artifact]:
        several = (role for role, found in self.index["artifacts"].items() if isinstance(found, list))
        one = (role for role, found in self.index["artifacts"].items() if isinstance(found, str))
        return [self.one(role) for role in one] + [artifact for role in several for artifact in self.several(role)]


def _images_unchanged(run: _Run) -> str:
    for image_id, path in zip(run.images["image_id"].to_pylist(), run.images["path"].to_pylist(), strict=True):
        file = run.root / path_from_text(path)
        if not file.is_file():
            raise AuditError(f"{file}: image {image_id} is gone; name its new place with --data")
        if content_id(file) != image_id:
            raise AuditError(f"{file}: the image changed on disk since the run, its content is no longer {image_id}")
    return f"{run.images.num_rows} images on disk are the ones that the manifest names"


def _conserved(run: _Run) -> str:
    delivered, input_ids = run.purified["image_id"].to_pylist(), run.train["image_id"].to_pylist()
    _same_ids("purified set", delivered, "manifest's training images", input_ids)
    kept = len(kept_ids(run.purified))
    quarantine = read_table(run.folder.path / "quarantine.arrow")
    aside = quarantine["split"].to_pylist().count(TRAIN)
    return f"{kept} kept + {len(delivered) - kept} rejected + {aside} quarantined = {len(input_ids) + aside} input"


def _shares_disjoint(run: _Run) -> str:
    dealt = [image_id for share in run.owned for image_id in share]
    if run.has_members:
        _same_ids("partition", dealt, "manifest's training images", run.train["image_id"].to_pylist())
    group = dict(zip(run.train["image_id"].to_pylist(), run.train["group"].to_pylist(), strict=True))
    home: dict[str, int] = {}
    for member, share in enumerate(run.owned):
        for image_id in share:
            if home.setdefault(group[image_id], member) != member:
                raise AuditError(f"partition: group {group[image_id]!r} is split over members")
    return f"{len(run.owned)} disjoint shares, no group split"


def _trained_on_shares(run: _Run) -> str:
    for member, (fitted, share) in enumerate(zip(run.several("members_fit"), run.owned, strict=True)):
        _same_ids(f"member {member}'s training images", _trained_on(fitted), "its share", share)
    return f"{len(run.owned)} members trained on their shares and nothing else"


def _matrix_is_what_members_wrote(run: _Run) -> str:
    if run.scores is None:
        return "no score matrix (the filter needs none)"
    wrote, matrix = score_matrix(run.several("members_score"), run.owned), run.scores
    dense(matrix)
    said = {(row["image_id"], row["member"]): row for row in wrote.to_pylist()}
    for row in matrix.to_pylist():
        expected = said.get((row["image_id"], row["member"]))
        if row != expected:
            raise AuditError(f"scores.arrow says {_brief(row)}, but the member wrote {_brief(expected)}")
    if len(said) != matrix.num_rows:
        raise AuditError(f"scores.arrow has {matrix.num_rows} rows, the members wrote {len(said)}")
    return f"{matrix.num_rows} scores are what the members wrote, in-fold flags included"


def _decisions_follow(run: _Run) -> str:
    derived = purified_dataset(run.config.purify, run.config.seed, run.train, run.scores)
    for says, expected in zip(run.purified.sort_by("image_id").to_pylist(), derived.to_pylist(), strict=True):
        if says != expected:
            field = next(name for name in expected if says[name] != expected[name])
            raise AuditError(
                f"purified: image {expected['image_id']} ({expected['path']}) has {field} {says[field]!r}, "
                f"but the score matrix gives {expected[field]!r}"
            )
    return f"{derived.num_rows} decisions follow from the raw score matrix"


def _final_trained_on_kept(run: _Run) -> str:
    kept = kept_ids(run.purified)
    _same_ids("final detector's training images", _trained_on(run.one("final_fit")), "kept set", kept)
    return f"the final detector was trained on the {len(kept)} kept images and nothing else"


def _published_are_artifacts(run: _Run) -> str:
    for name, (role, file) in PUBLISHED.items():
        if role not in run.index["artifacts"]:
            continue
        artifact = run.one(role)
        if file_digest(run.folder.path / name) != artifact.files.get(file):
            raise AuditError(f"{run.folder.path / name}: not the file that stage {role!r} wrote ({artifact.path})")
    return "the published files are the artifacts'"


def _artifacts_unchanged(run: _Run) -> str:
    artifacts = run.everything()
    for artifact in artifacts:
        try:
            artifact.verify()
        except ArtifactError as error:
            raise AuditError(str(error)) from error
    return f"{len(artifacts)} artifacts match their completion records"


_CHECKS: Sequence[Callable[[_Run], str]] = (
    _images_unchanged,
    _conserved,
    _shares_disjoint,
    _trained_on_shares,
    _matrix_is_what_members_wrote,
    _decisions_follow,
    _final_trained_on_kept,
    _published_are_artifacts,
    _artifacts_unchanged,
)


def _trained_on(fitted: Artifact) -> list[str]:
    ids: list[str] = read_table(fitted.path / TRAINED_ON)["image_id"].to_pylist()
    return ids


def _same_ids(what: str, found: Sequence[str], where: str, expected: Sequence[str]) -> None:
    if len(set(found)) != len(found):
        twice = next(image_id for image_id in found if found.count(image_id) > 1)
        raise AuditError(f"{what}: image {twice} is there twice")
    odd = sorted(set(found) ^ set(expected))
    if odd:
        side = "is there but not in" if odd[0] in set(found) else "is missing but is in"
        raise AuditError(f"{what}: image {odd[0]} {side} the {where} ({len(odd)} such images)")


def _brief(row: dict[str, Any] | None) -> str:
    if row is None:
        return "nothing about that image"
    return f"image {row['image_id']} member {row['member']} score {row['score']!r} in-fold {row['in_fold']}"
