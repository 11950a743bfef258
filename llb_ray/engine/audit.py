"""Does a finished run follow from its own raw scores?

The published code of the method trained on a random share while its log showed a clean one, because scores were
joined by position.  So nothing here trusts a decision: the kept set is derived again from the score matrix, the
matrix is compared with what each member wrote, and every image is hashed again.  The checks read the files that
people open (``scores.arrow``, ``purified/``); the last two tie those to the artifacts, byte by byte.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.artifacts import Artifact, file_digest
from llb_ray.config import RunConfig
from llb_ray.data.images import content_id
from llb_ray.data.manifest import IMAGES, QUARANTINE, TRAIN, path_from_text
from llb_ray.data.tables import read_table
from llb_ray.engine import files
from llb_ray.engine.made import Made
from llb_ray.engine.member import score_matrix, trained_on
from llb_ray.engine.runfolder import RunFolder, published
from llb_ray.engine.stages import fit_settings, oracle_labels, partition_settings, purify_settings
from llb_ray.ensemble.dataset import PURIFIED, kept_ids, purified_dataset
from llb_ray.ensemble.partition import PARTITION, shares
from llb_ray.ensemble.scores import SCORES, dense
from llb_ray.errors import AuditError, LlbError


def audit_run(out: Path, data: Path | None = None) -> list[str]:
    """One sentence per check passed; `data` is where the images are now, if they have moved since the run.

    Raises AuditError naming the first thing that does not follow, and ArtifactError if there is no finished run.
    """
    run = _Run(RunFolder.open(out), data)
    try:
        return [check(run) for check in _CHECKS]
    except AuditError:
        raise
    except (LlbError, pa.ArrowException, OSError) as error:
        raise AuditError(f"{out}: {error}") from error


@dataclass(frozen=True)
class _Run:
    """A finished run, read lazily; tables are those that people open."""

    folder: RunFolder
    data: Path | None

    @cached_property
    def config(self) -> RunConfig:
        return self.folder.config()

    @cached_property
    def made(self) -> Made:
        return self.folder.made()

    @cached_property
    def root(self) -> Path:
        return self.data or self.folder.index()["data_root"]

    @cached_property
    def images(self) -> pa.Table:
        return _read(self.made.images.path / files.IMAGES, IMAGES)

    @cached_property
    def train(self) -> pa.Table:
        return self.images.filter(pc.equal(self.images["split"], TRAIN))

    @cached_property
    def quarantine(self) -> pa.Table:
        return _read(self.folder.path / "quarantine.arrow", QUARANTINE)

    @cached_property
    def owned(self) -> list[list[str]]:
        if self.made.partition is None:
            return []
        return shares(_read(self.made.partition.path / files.PARTITION, PARTITION))

    @cached_property
    def matrix(self) -> pa.Table | None:
        return None if self.made.matrix is None else _read(self.folder.path / "scores.arrow", SCORES)

    @cached_property
    def purified(self) -> pa.Table:
        return _read(self.folder.path / "purified" / "part-0.arrow", PURIFIED)


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
    paths = [*run.images["path"].to_pylist(), *run.quarantine["path"].to_pylist()]
    twice = [path for path, times in Counter(paths).items() if times > 1]
    if twice:
        raise AuditError(f"{twice[0]}: counted twice, in the manifest or the quarantine")
    gone = [path for path in run.quarantine["path"].to_pylist() if not os.path.lexists(run.root / path_from_text(path))]
    if gone:
        raise AuditError(f"quarantine: {gone[0]} is not on disk; name the new place of the images with --data")
    kept, aside = len(kept_ids(run.purified)), run.quarantine["split"].to_pylist().count(TRAIN)
    return f"{kept} kept + {len(delivered) - kept} rejected + {aside} quarantined = {len(input_ids) + aside} input"


def _config_is_the_runs(run: _Run) -> str:
    config, made = run.config, run.made
    expected: dict[str, tuple[Mapping[str, Any], Artifact]] = {
        "purify": (purify_settings(config), made.purified),
        "final fit": (fit_settings(config, "final"), made.final.fitted),
    }
    if made.partition is not None:
        expected["partition"] = (partition_settings(config), made.partition)
    for member, trained in enumerate(made.members):
        expected[f"member {member} fit"] = (fit_settings(config, "member", member), trained.fitted)
    for stage, (settings, artifact) in expected.items():
        if dict(artifact.settings) != dict(settings):
            raise AuditError(f"config.yaml is not what the run was made with: stage {stage!r} had other settings")
    return f"{len(expected)} stages were made with the settings in config.yaml"


def _shares_disjoint(run: _Run) -> str:
    if run.made.partition is None:
        return "no members (the filter looks at no score)"
    dealt = [image_id for share in run.owned for image_id in share]
    _same_ids("partition", dealt, "manifest's training images", run.train["image_id"].to_pylist())
    group = dict(zip(run.train["image_id"].to_pylist(), run.train["group"].to_pylist(), strict=True))
    home = {group[image_id]: member for member, share in enumerate(run.owned) for image_id in share}
    for member, share in enumerate(run.owned):
        split = [group[image_id] for image_id in share if home[group[image_id]] != member]
        if split:
            raise AuditError(f"partition: group {split[0]!r} is split over members")
    return f"{len(run.owned)} disjoint shares, no group split"


def _trained_on_shares(run: _Run) -> str:
    for member, (trained, share) in enumerate(zip(run.made.members, run.owned, strict=True)):
        _same_ids(f"member {member}'s training images", trained_on(trained.fitted), "its share", share)
    return f"{len(run.owned)} members trained on their shares and nothing else"


def _scored_by_whom_it_says(run: _Run) -> str:
    named = {f"member {member}": trained for member, trained in enumerate(run.made.members)}
    for name, trained in (named | {"final detector": run.made.final}).items():
        if trained.scored.inputs.get("detector") != trained.fitted.content:
            raise AuditError(f"{name}: its scores ({trained.scored.path}) were made by another detector")
    return f"{len(named) + 1} score files were made by the detectors they are filed under"


def _matrix_is_what_members_wrote(run: _Run) -> str:
    if run.matrix is None:
        return "no score matrix (the filter looks at no score)"
    dense(run.matrix)
    wrote = score_matrix([trained.scored for trained in run.made.members], run.owned)
    said = {(row["image_id"], row["member"]): row for row in wrote.to_pylist()}
    for row in run.matrix.to_pylist():
        expected = said.get((row["image_id"], row["member"]))
        if row != expected:
            raise AuditError(f"scores.arrow says {_brief(row)}, but the member wrote {_brief(expected)}")
    if len(said) != run.matrix.num_rows:
        raise AuditError(f"scores.arrow has {run.matrix.num_rows} rows, the members wrote {len(said)}")
    return f"{run.matrix.num_rows} scores are what the members wrote, in-fold flags included"


def _decisions_follow(run: _Run) -> str:
    rule, known = run.config.purify, oracle_labels(run.config.purify, run.made.labels)
    derived = purified_dataset(rule, run.config.seed, run.train, run.matrix, known)
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
    _same_ids("final detector's training images", trained_on(run.made.final.fitted), "kept set", kept)
    return f"the final detector was trained on the {len(kept)} kept images and nothing else"


def _published_are_artifacts(run: _Run) -> str:
    for name, source in published(run.made).items():
        if source is not None and file_digest(run.folder.path / name) != file_digest(source):
            raise AuditError(f"{run.folder.path / name}: not the file that its stage wrote ({source})")
    return "the published files are the artifacts'"


def _artifacts_unchanged(run: _Run) -> str:
    artifacts = list(run.made.artifacts())
    for artifact in artifacts:
        artifact.verify()
    return f"{len(artifacts)} artifacts match their completion records"


_CHECKS: Sequence[Callable[[_Run], str]] = (
    _images_unchanged,
    _conserved,
    _config_is_the_runs,
    _shares_disjoint,
    _trained_on_shares,
    _scored_by_whom_it_says,
    _matrix_is_what_members_wrote,
    _decisions_follow,
    _final_trained_on_kept,
    _published_are_artifacts,
    _artifacts_unchanged,
)


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    table = read_table(path)
    if not table.schema.equals(schema):
        raise AuditError(f"{path}: its columns are {table.column_names}, expected {schema.names}")
    return table


def _same_ids(what: str, found: Sequence[str], where: str, expected: Sequence[str]) -> None:
    twice = [image_id for image_id, times in Counter(found).items() if times > 1]
    if twice:
        raise AuditError(f"{what}: image {twice[0]} is there twice")
    odd = sorted(set(found) ^ set(expected))
    if odd:
        side = "is there but not in" if odd[0] in set(found) else "is missing but is in"
        raise AuditError(f"{what}: image {odd[0]} {side} the {where} ({len(odd)} such images)")


def _brief(row: dict[str, Any] | None) -> str:
    if row is None:
        return "nothing about that image"
    return f"image {row['image_id']} member {row['member']} score {row['score']!r} in-fold {row['in_fold']}"
