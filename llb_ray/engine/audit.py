"""Does a finished run follow from its own raw scores?

The published code of the method trained on a random share while its log showed a clean one, because scores were
joined by position.  So nothing here trusts a decision: the kept set is derived again from the score matrix, the
matrix is compared with what each member wrote, and every image is hashed again.  The checks read the files that
people open (``scores.arrow``, ``purified/``); the last two tie those to the artifacts, byte by byte.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from llb_ray.artifacts import Artifact
from llb_ray.data.images import content_id
from llb_ray.data.manifest import TRAIN, path_from_text
from llb_ray.disk import file_digest
from llb_ray.engine.bands import scale_recipe
from llb_ray.engine.calibrate import calibrated
from llb_ray.engine.finished import FinishedRun
from llb_ray.engine.member import member_name, trained_on
from llb_ray.engine.runfolder import RunFolder, published
from llb_ray.engine.scoring import read_scores
from llb_ray.engine.settings import fit_settings, partition_settings, purify_settings
from llb_ray.engine.stages import FINAL
from llb_ray.ensemble.dataset import kept_ids, suspect_ids
from llb_ray.ensemble.overrides import UNSURE, by_hand
from llb_ray.ensemble.partition import training_sets
from llb_ray.ensemble.scores import assemble, dense
from llb_ray.errors import AuditError, LlbError
from llb_ray.remote import Remote


def audit_run(out: Path | Remote, data: Path | None = None) -> list[str]:
    """One sentence per check passed; `data` is where the images are now, if they have moved since the run.

    Raises AuditError naming the first thing that does not follow, and ArtifactError if there is no finished run.
    """
    run = FinishedRun(RunFolder.open(out), data)
    try:
        return [check(run) for check in _CHECKS]
    except AuditError:
        raise
    except (LlbError, pa.ArrowException, OSError) as error:
        raise AuditError(f"{out}: {error}") from error


def _images_unchanged(run: FinishedRun) -> str:
    for image_id, path in zip(run.images["image_id"].to_pylist(), run.images["path"].to_pylist(), strict=True):
        file = run.root / path_from_text(path)
        if not file.is_file():
            raise AuditError(f"{file}: image {image_id} is gone; name its new place with --data")
        if content_id(file) != image_id:
            raise AuditError(f"{file}: the image changed on disk since the run, its content is no longer {image_id}")
    return f"{run.images.num_rows} images on disk are the ones that the manifest names"


def _conserved(run: FinishedRun) -> str:
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


def _config_is_the_runs(run: FinishedRun) -> str:
    config, made = run.config, run.made
    expected: dict[str, tuple[Mapping[str, Any], Artifact]] = {
        "final fit": (fit_settings(config, "final"), made.final),
    }
    for number, decided in enumerate(made.rounds, 1):
        expected[f"purify, round {number}"] = (purify_settings(config, number), decided)
    if made.partition is not None:
        expected["partition"] = (partition_settings(config), made.partition)
    for member, fitted in made.by_number().items():
        expected[f"member {member} fit"] = (fit_settings(config, "member", member), fitted)
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
    expected = scale_recipe(bands, run.train["image_id"].to_pylist())
    if (dict(scale.settings), dict(scale.inputs)) != (dict(expected.settings), dict(expected.inputs)):
        raise AuditError(f"{scale.where}: not the scale of {bands} bands over the manifest's training images")
    return f"{bands} bands are on the scale of the training images and no others"


def _shares_disjoint(run: FinishedRun) -> str:
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


def _trained_on_shares(run: FinishedRun) -> str:
    members, fewest = run.made.by_number(), run.config.fewest_members if run.owned else 0
    given = training_sets(run.config.purify.filter, run.owned)
    for member, fitted in members.items():
        _same_ids(f"member {member}'s training images", trained_on(fitted), "its share", given[member])
    missing = [member_name(member) for member in range(len(run.owned)) if member not in members]
    if len(members) < fewest:
        raise AuditError(f"{', '.join(missing)}: missing, and the configuration wants {fewest} members")
    lost = f"; missing: {', '.join(missing)}" if missing else ""
    return f"{len(members)} members trained on their shares and nothing else{lost}"


def _scored_by_whom_it_says(run: FinishedRun) -> str:
    made = run.made
    members = {member_name(number): fitted for number, fitted in made.by_number().items()}
    for detectors, shards in ((members, made.member_scores), ({FINAL: made.final}, made.final_scores)):
        for shard in shards:
            for name, fitted in detectors.items():
                if shard.inputs.get(name) != fitted.content:
                    raise AuditError(f"{name}: its scores ({shard.where}) were made by another detector")
    num_shards = len(made.member_scores) + len(made.final_scores)
    return f"{len(members) + 1} detectors made the scores that are filed under their names, in {num_shards} shards"


def _matrix_is_what_members_wrote(run: FinishedRun) -> str:
    if run.matrix is None:
        return "no score matrix (the filter looks at no score)"
    matrix = dense(run.matrix)
    wrote = assemble(read_scores(run.made.member_scores), run.partition, list(run.made.by_number()))
    _same_ids("scores.arrow", matrix.image_ids, "members' scores", wrote["image_id"].to_pylist())
    for says, expected in zip(run.matrix.sort_by("image_id").to_pylist(), wrote.to_pylist(), strict=True):
        if says != expected:
            raise AuditError(f"scores.arrow says {_brief(says)}, but the members wrote {_brief(expected)}")
    return f"{matrix.score_NK.size} scores are what the members wrote, in-fold members included"


def _decisions_follow(run: FinishedRun) -> str:
    num_rounds, source = len(run.made.rounds), "the raw score matrix"
    _same_decisions(run.decided[0], run.first_filtered, source)
    if num_rounds > 1:
        source = f"the held-out scores of round {num_rounds}"
        _same_decisions(run.decided[-1], run.filtered, source)
    derived = run.filtered if run.overrides is None else by_hand(run.filtered, run.overrides)
    _same_decisions(run.purified, derived, source)
    by_people = "" if run.overrides is None else " and from overrides.arrow"
    return f"{derived.num_rows} decisions follow from {source}{by_people}"


def _same_decisions(decided: pa.Table, derived: pa.Table, source: str) -> None:
    for says, expected in zip(decided.sort_by("image_id").to_pylist(), derived.to_pylist(), strict=True):
        if says != expected:
            field = next(name for name in expected if says[name] != expected[name])
            raise AuditError(
                f"purified: image {expected['image_id']} ({expected['path']}) has {field} {says[field]!r}, "
                f"but {source} would give {expected[field]!r}"
            )


def _only_overridden_differ(run: FinishedRun) -> str:
    """Told from the decisions alone, however they were laid over one another."""
    said = run.made.overrides
    if run.made.purified.inputs.get("overrides") != (said and said.content):
        raise AuditError("purified: the decisions by hand that it was made with are not those in overrides.arrow")
    if run.overrides is None:
        return "nothing was decided by hand"
    decided = {row["image_id"]: row["decision"] for row in run.overrides.to_pylist()}
    before = dict(zip(run.filtered["image_id"].to_pylist(), run.filtered["decision"].to_pylist(), strict=True))
    other = [row for row in run.purified.to_pylist() if row["decision"] != before[row["image_id"]]]
    for row in other:
        if decided.get(row["image_id"], UNSURE) == UNSURE:
            raise AuditError(f"purified: image {row['image_id']} ({row['path']}) differs from what the filter decided")
    return f"{len(decided)} images were decided by hand; {len(other)} of them, and no others, against the filter"


def _final_trained_on_kept(run: FinishedRun) -> str:
    kept = kept_ids(run.purified)
    _same_ids("final detector's training images", trained_on(run.made.final), "kept set", kept)
    suspects = suspect_ids(run.purified, run.overrides) if run.config.reads_suspects else []
    _same_ids("final detector's suspects", trained_on(run.made.final, as_suspects=True), "rejected set", suspects)
    if run.weighted is not None:
        _same_ids("importance.arrow", run.weighted, "kept set", kept)
    others = f"{len(suspects)} rejected ones that it doubts, and nothing else" if suspects else "nothing else"
    return f"the final detector was trained on the {len(kept)} kept images and {others}"


def _threshold_follows(run: FinishedRun) -> str:
    made, where = run.made, run.folder.file("threshold.json")
    if made.threshold is None:
        return "no threshold was to be set"
    try:
        said = dict(json.loads(where.read_text()))
    except (ValueError, TypeError) as error:
        raise AuditError(f"{where}: damaged ({error}); run the same command again") from error
    decided = (made.rounds, made.purified, made.overrides)
    _, facts = calibrated(run.config.threshold, *decided, made.matrix, made.fold_scores, made.final_scores)
    odd = [name for name, value in json.loads(json.dumps(facts)).items() if said.get(name) != value]
    if odd:
        raise AuditError(f"{where}: {odd[0]} is {said.get(odd[0])!r}, but the held-out scores give {facts[odd[0]]!r}")
    return f"the threshold follows from {said['num_held_out']} held-out scores, which no label or test image entered"


def _published_are_artifacts(run: FinishedRun) -> str:
    for name, source in published(run.made).items():
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
    _shares_disjoint,
    _trained_on_shares,
    _scored_by_whom_it_says,
    _matrix_is_what_members_wrote,
    _decisions_follow,
    _only_overridden_differ,
    _final_trained_on_kept,
    _threshold_follows,
    _published_are_artifacts,
    _artifacts_unchanged,
)


def _same_ids(what: str, found: Sequence[str], where: str, expected: Sequence[str]) -> None:
    twice = [image_id for image_id, times in Counter(found).items() if times > 1]
    if twice:
        raise AuditError(f"{what}: image {twice[0]} is there twice")
    odd = sorted(set(found) ^ set(expected))
    if odd:
        side = "is there but not in" if odd[0] in set(found) else "is missing but is in"
        raise AuditError(f"{what}: image {odd[0]} {side} the {where} ({len(odd)} such images)")


def _brief(row: dict[str, Any]) -> str:
    return f"image {row['image_id']} has the scores {row['scores']} and was in the fold of member {row['in_fold']}"
