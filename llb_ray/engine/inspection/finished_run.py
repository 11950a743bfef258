"""A finished run, read lazily: the published tables, and the artifacts that they came from."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.config import RunConfig, load
from llb_ray.data.ignored_regions import Ignored
from llb_ray.data.image_masks import IgnoredPixels
from llb_ray.data.manifest import IMAGES, LABELS, QUARANTINE, TRAIN, Manifest, path_from_text, refuse_leaving
from llb_ray.data.tables import join_by_image, read_table
from llb_ray.engine import filenames
from llb_ray.engine.evaluation.ground_truth import GroundTruth
from llb_ray.engine.features.ignored_pixels import read_ignored
from llb_ray.engine.rundir.run_artifacts import RunArtifacts
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.engine.stage_keys import filter_labels
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.ensemble.held_out_scores import by_folds
from llb_ray.ensemble.overrides import OVERRIDES
from llb_ray.ensemble.partition import PARTITION, shares
from llb_ray.ensemble.purified_dataset import PURIFIED, Purified, purified_dataset
from llb_ray.ensemble.refinement import purify_again
from llb_ray.ensemble.score_matrix import SCORES
from llb_ray.errors import AuditError

_LABELS = pa.schema([IMAGES.field("image_id"), IMAGES.field("split"), *LABELS])


@dataclass(frozen=True)
class FinishedRun:
    """A finished run; `data` is where its images are now, if they have moved.  Raises AuditError for an odd table."""

    folder: RunFolder
    data: Path | None
    checks: bool = True  # whether published files must be as they were written; the audit says more of what is not

    def file(self, name: str) -> Path:
        """A published file; raises ArtifactError if it is not what was published."""
        return self.folder.published(name) if self.checks else self.folder.file(name)

    @cached_property
    def config(self) -> RunConfig:
        return self.folder.config() if self.checks else load(self.folder.file("config.yaml"))

    @cached_property
    def made(self) -> RunArtifacts:
        return self.folder.made(self.checks)

    @cached_property
    def root(self) -> Path:
        return self.data or self.folder.index().data_root

    @cached_property
    def images(self) -> pa.Table:
        return _read(self.made.images.file(filenames.IMAGES), IMAGES)

    @cached_property
    def pool(self) -> pa.Table | None:
        """The images that the run shares its features with; None where it has features of its own."""
        return None if self.made.pool is None else _read(self.made.pool.file(filenames.IMAGES), IMAGES)

    @cached_property
    def train(self) -> pa.Table:
        return self.images.filter(pc.equal(self.images["split"], TRAIN))

    @cached_property
    def quarantine(self) -> pa.Table:
        return _read(self.file("quarantine.arrow"), QUARANTINE)

    @cached_property
    def owned(self) -> list[list[str]]:
        return [] if self.made.partition is None else shares(self.partition)

    @cached_property
    def lots(self) -> list[pa.Table]:
        """The images by the time that they came (schema `IMAGES`); none of a run that was not updated."""
        return [_read(made.file(filenames.IMAGES), IMAGES) for made in self.made.lots]

    @property
    def roots(self) -> list[Path]:
        """The folders that each lot's images are in; none of a run that was not updated."""
        parents = [[PurePosixPath(path).parent for path in lot["path"].to_pylist()] for lot in self.lots]
        return [self.root / path_from_text(os.path.commonpath(some)) for some in parents]

    @cached_property
    def base_train(self) -> pa.Table:
        """The training images that members learnt from and scales were measured on."""
        first = self.lots[0] if self.lots else self.images
        return first.filter(pc.equal(first["split"], TRAIN))

    @cached_property
    def learnt(self) -> list[list[str]]:
        """The shares that the members were to learn from."""
        base = self.made.base_partition
        return self.owned if base is None else shares(_read(base.file(filenames.PARTITION), PARTITION))

    @cached_property
    def partition(self) -> pa.Table:
        assert self.made.partition is not None, "asked for only where there are members"
        return _read(self.made.partition.file(filenames.PARTITION), PARTITION)

    @cached_property
    def matrix(self) -> pa.Table | None:
        return None if self.made.matrix is None else _read(self.file("scores.arrow"), SCORES)

    @cached_property
    def purified(self) -> pa.Table:
        return _read(self.file("purified/part-0.arrow"), PURIFIED)

    @cached_property
    def decided(self) -> list[pa.Table]:
        """Decisions of the filter, round by round (schema `PURIFIED`)."""
        return [_read(made.file(filenames.PURIFIED), PURIFIED) for made in self.made.rounds]

    @cached_property
    def first_round(self) -> Purified:
        """Decisions of the filter on the score matrix, and the evidence for the share of anomalies."""
        known = filter_labels(self.config.purify, self.made.labels)
        return purified_dataset(self.config.purify, self.config.seed, self.train, self.matrix, known)

    @cached_property
    def derived(self) -> list[pa.Table]:
        """Decisions on the scores that are there, round by round, derived again (schema `PURIFIED`)."""
        rule, first = self.config.purify, self.first_round.table
        held_out = [by_folds(read_scores(scores)) for scores in self.made.round_scores]
        return [first, *(purify_again(rule, number, first, said) for number, said in enumerate(held_out, 2))]

    @cached_property
    def overrides(self) -> pa.Table | None:
        """Decisions by hand; None where there are none."""
        return None if self.made.overrides is None else _read(self.file("overrides.arrow"), OVERRIDES)

    @cached_property
    def manifest(self) -> Manifest:
        """The run's manifest, labels and all."""
        return Manifest.of(self.root, join_by_image(self.images, self.labels), self.quarantine)

    @cached_property
    def labels(self) -> pa.Table:
        """Known labels of the images; read by what looks at labels, and by nothing else."""
        return _read(self.made.labels.file(filenames.LABELS), _LABELS)

    @cached_property
    def truth(self) -> GroundTruth:
        """Labels, objects and masks of the images."""
        groups = self.images.select(["image_id", "group", "category"])
        return GroundTruth(
            join_by_image(self.labels, groups), self.root, self.config.data.max_pixels, self.ignored_pixels
        )

    @cached_property
    def ignored_pixels(self) -> IgnoredPixels | None:
        """The pixels that are not looked at; None where all are."""
        return read_ignored(self.made.ignored, self.config)

    def mask_of(self, image_id: str) -> Ignored | None:
        """The pixels that are ignored in an image; None where all of it is looked at."""
        return None if self.ignored_pixels is None else self.ignored_pixels.of_image(image_id)

    @cached_property
    def weighted(self) -> list[str] | None:
        """The images that have an importance weight; None where the loss is a plain mean."""
        if filenames.IMPORTANCE not in self.made.final.files:
            return None
        path = self.file("importance.arrow")
        try:
            image_ids: list[str] = read_table(path)["image_id"].to_pylist()
        except pa.ArrowInvalid as error:
            raise AuditError(f"{path}: not an Arrow file any more ({error}); run the same command again") from error
        return image_ids


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    table = read_table(path)
    if not table.schema.equals(schema):
        raise AuditError(f"{path}: its columns are {table.column_names}, expected {schema.names}")
    refuse_leaving(path, table)
    return table
