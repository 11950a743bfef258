"""Audit of a finished run: does it follow from its own raw scores?

The published code of the method trained on a random share while its log showed a clean one, because scores were
joined by position.  So nothing here trusts a decision: the kept set is derived again from the score matrix, the
matrix is compared with what each member wrote, and every image is hashed again.  The checks read the published
files (``scores.arrow``, ``purified/``, ``metrics.json``); others tie those to the artifacts, byte by byte, and
records to each other.  At the end some images are scored again: what only who has the detectors can do.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from llb_ray.artifacts import Artifact
from llb_ray.data.decoding import content_id
from llb_ray.data.image_masks import ImageMasks
from llb_ray.data.manifest import TRAIN, path_from_text
from llb_ray.data.mask_folders import MaskFolders
from llb_ray.disk import file_digest
from llb_ray.engine.audit import decision_checks, metric_checks, provenance, signing
from llb_ray.engine.evaluation.evaluate import protocol
from llb_ray.engine.features.ignored_pixels import DrawnMasks
from llb_ray.engine.features.measured_bands import scale_recipe
from llb_ray.engine.features.measured_levels import levels_recipe
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.rundir.published_files import published_sources
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.engine.stage_keys import fit_settings, partition_settings, purify_settings
from llb_ray.ensemble.purified_dataset import kept_ids
from llb_ray.errors import AuditError, ConfigError, LlbError, ResourceError
from llb_ray.remote import Remote

SAMPLE = 8  # images that are scored again by default

Check = Callable[[FinishedRun], str]


class Passed(NamedTuple):
    """A check that passed."""

    check: str  # its name, for programs
    found: str  # a sentence


def audit_run(
    out: Path | Remote,
    data: Path | None = None,
    rescore: int | None = SAMPLE,
    sign: Path | None = None,
    verify: Path | None = None,
) -> Iterator[Passed]:
    """The checks, as they pass; `data` is where the images are now, if they have moved since the run.

    So many images, chosen at random, or all with 0, are scored again; none with None.  First the signature is compared
    with the public key in `verify`, and at last one is made with the private key in `sign`.
    Raises AuditError naming the first thing that does not follow, and ArtifactError if there is no finished run.
    """
    run = FinishedRun(RunFolder.open(out), data, checks=False)
    checks = [*_CHECKS, *([] if rescore is None else [scores_again_of(rescore)]), *_PAGES]
    checks = checks if verify is None else [partial(signing.verify, key=verify), *checks]
    checks += [] if sign is None else [partial(signing.sign, key=sign)]
    for check in checks:
        try:
            yield Passed(_name(check), check(run))
        except (AuditError, ConfigError, ResourceError):
            raise
        except (LlbError, pa.ArrowException, OSError, KeyError, IndexError, TypeError, ValueError) as error:
            # A forger may have written anything: what a check cannot even read does not follow.
            raise AuditError(f"{out}: {_said(error)}") from error


def _name(check: Check) -> str:
    return (check.func if isinstance(check, partial) else check).__name__.lstrip("_")


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, LlbError | OSError) else f"{type(error).__name__}: {error}"


def scores_again_of(number: int) -> Callable[[FinishedRun], str]:
    """The check that scores so many images again; imports torch only then."""

    def scores_made_again(run: FinishedRun) -> str:
        from llb_ray.engine.audit.rescore import scores_again

        return scores_again(run, number)

    return scores_made_again


def _images_unchanged(run: FinishedRun) -> str:
    for image_id, path in zip(run.images["image_id"].to_pylist(), run.images["path"].to_pylist(), strict=True):
        file = run.root / path_from_text(path)
        if not file.is_file():
            raise AuditError(f"{file}: image {image_id} is gone; name its new place with --data")
        if content_id(file) != image_id:
            raise AuditError(f"{file}: the image changed on disk since the run, its content is no longer {image_id}")
    return f"{run.images.num_rows} images on disk are the ones that the manifest names"


def _masks_unchanged(run: FinishedRun) -> str:
    """The run keeps its masks, so that those in the folder are compared where this is still there."""
    if not isinstance(run.ignored_pixels, ImageMasks):
        return "no photograph has a mask of its own"
    folders = MaskFolders.of(run.config.data, run.config.detector.size)
    if folders is None:
        return f"{len(run.ignored_pixels.keys)} masks of photographs are the run's own (their folder is gone)"
    kept, found = run.ignored_pixels.keys, DrawnMasks(folders, run.images).keys
    for image_id, path in zip(run.images["image_id"].to_pylist(), run.images["path"].to_pylist(), strict=True):
        if kept.get(image_id) != found.get(image_id):
            raise AuditError(
                f"{folders.names}: the mask of {path} changed on disk since the run; run again, or restore it"
            )
    return f"{len(found)} masks on disk are the ones that the run keeps"


def _conserved(run: FinishedRun) -> str:
    delivered, input_ids = run.purified["image_id"].to_pylist(), run.train["image_id"].to_pylist()
    decision_checks.same_ids("purified set", delivered, "manifest's training images", input_ids)
    decision_checks.same_ids(
        "labels", run.labels["image_id"].to_pylist(), "manifest's images", run.images["image_id"].to_pylist()
    )
    paths = [*run.images["path"].to_pylist(), *run.quarantine["path"].to_pylist()]
    twice = [path for path, times in Counter(paths).items() if times > 1]
    if twice:
        raise AuditError(f"{twice[0]}: counted twice, in the manifest or the quarantine")
    gone = [path for path in run.quarantine["path"].to_pylist() if not os.path.lexists(run.root / path_from_text(path))]
    if gone:
        raise AuditError(f"quarantine: {gone[0]} is not on disk; name the new place of the images with --data")
    kept, aside = len(kept_ids(run.purified)), run.quarantine["split"].to_pylist().count(TRAIN)
    return f"{kept} kept + {len(delivered) - kept} rejected + {aside} quarantined = {len(input_ids) + aside} input"


def _config_is_the_runs(run: FinishedRun) -> str:
    config, made = run.config, run.made
    expected: dict[str, tuple[Mapping[str, Any], Artifact]] = {
        "final fit": (fit_settings(config, "final"), made.final),
        "evaluate": (protocol(config, run.truth.ignored), made.evaluated),
    }
    for number, decided in enumerate(made.rounds, 1):
        expected[f"purify, round {number}"] = (purify_settings(config, number), decided)
    if made.partition is not None:
        expected["partition"] = (partition_settings(config), made.partition)
    for member, fitted in made.by_number().items():
        expected[f"member {member} fit"] = (fit_settings(config, "member", member), fitted)
    for number, fitted in enumerate(made.folds):
        fold = number % config.threshold.folds  # the same seeds in every round
        expected[f"fit {number} without a fold"] = (fit_settings(config, "final", fold), fitted)
    for stage, (settings, artifact) in expected.items():
        if dict(artifact.settings) != dict(settings):
            raise AuditError(f"config.yaml is not what the run was made with: stage {stage!r} had other settings")
    return f"{len(expected)} stages were made with the settings in config.yaml"


def _bands_scaled_by_training_images(run: FinishedRun) -> str:
    bands, scale = run.config.data.bands, run.made.bands
    if bands is None and scale is None:
        return "no scale of bands (the images are photographs)"
    if bands is None or scale is None:
        raise AuditError(f"config.yaml is not what the run was made with: data.bands is {bands} there")
    expected = scale_recipe(bands, run.base_train["image_id"].to_pylist())
    if (dict(scale.settings), dict(scale.inputs)) != (dict(expected.settings), dict(expected.inputs)):
        raise AuditError(f"{scale.where}: not the scale of {bands} bands over the manifest's training images")
    return f"{bands} bands are on the scale of the training images and no others"


def _levels_are_of_training_images(run: FinishedRun) -> str:
    levels = run.made.levels
    if levels is None:
        return "no levels (no training image has 16 bits)"
    expected = levels_recipe(run.base_train["image_id"].to_pylist())
    if (dict(levels.settings), dict(levels.inputs)) != (dict(expected.settings), dict(expected.inputs)):
        raise AuditError(f"{levels.where}: not the black and white point of the manifest's training images")
    return "16-bit images are on the black and white point of the training images and no others"


def _published_are_artifacts(run: FinishedRun) -> str:
    for name, source in published_sources(run.made).items():
        if source is not None and file_digest(run.folder.file(name)) != file_digest(source):
            raise AuditError(f"{run.folder.where}/{name}: not the file that its stage wrote ({source})")
    return "the published files are the artifacts'"


def _artifacts_unchanged(run: FinishedRun) -> str:
    artifacts = list(run.made.artifacts())
    for artifact in artifacts:
        artifact.verify()
    return f"{len(artifacts)} artifacts match their completion records"


_CHECKS: Sequence[Callable[[FinishedRun], str]] = (
    _images_unchanged,
    _conserved,
    _config_is_the_runs,
    _bands_scaled_by_training_images,
    _levels_are_of_training_images,
    _masks_unchanged,
    decision_checks.lots_are_the_images,
    decision_checks.shares_disjoint,
    decision_checks.trained_on_shares,
    decision_checks.scored_by_whom_it_says,
    decision_checks.held_out_scores_are,
    decision_checks.matrix_is_what_members_wrote,
    decision_checks.decisions_follow,
    decision_checks.only_overridden_differ,
    decision_checks.final_trained_on_kept,
    decision_checks.held_out_maps_are,
    decision_checks.threshold_follows,
    metric_checks.estimate_follows,
    metric_checks.image_scores_follow,
    metric_checks.metrics_follow,
    provenance.made_from_what_it_says,
    _published_are_artifacts,
    _artifacts_unchanged,
    metric_checks.nothing_else_published,
)
# Last: what is wrong with a page is wrong before that with what it is made from.
_PAGES: Sequence[Callable[[FinishedRun], str]] = (metric_checks.card_follows, metric_checks.report_is_the_runs)
