"""The checks that a run's decisions derive from its scores, and these from who is said to have made them.

Each returns a sentence, or raises AuditError with the first thing that does not follow.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from llb_ray.artifacts import Artifact
from llb_ray.data.tables import read_table
from llb_ray.engine import filenames
from llb_ray.engine.evaluation.held_out_maps import assign_images, mapping_detectors
from llb_ray.engine.evaluation.run_threshold import ThresholdInputs, derive_thresholds
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.pipeline.stages import FINAL
from llb_ray.engine.pipeline.training_set import training_images, why_folds, without_fold
from llb_ray.engine.workers.fitter import member_name, trained_on
from llb_ray.engine.workers.scorer import read_scores
from llb_ray.ensemble.overrides import UNSURE, apply_overrides
from llb_ray.ensemble.partition import extend_partition
from llb_ray.ensemble.purified_dataset import kept_ids
from llb_ray.ensemble.score_matrix import assemble, dense
from llb_ray.errors import AuditError


def shares_disjoint(run: FinishedRun) -> str:
    """Every training image is in one share, and no group in two."""
    if run.made.partition is None:
        return "no members (the filter looks at no score)"
    dealt = [image_id for share in run.owned for image_id in share]
    same_ids("partition", dealt, "manifest's training images", run.train["image_id"].to_pylist())
    group = dict(zip(run.train["image_id"].to_pylist(), run.train["group"].to_pylist(), strict=True))
    home = {group[image_id]: member for member, share in enumerate(run.owned) for image_id in share}
    for member, share in enumerate(run.owned):
        split = [group[image_id] for image_id in share if home[group[image_id]] != member]
        if split:
            raise AuditError(f"partition: group {split[0]!r} is split over members")
    return f"{len(run.owned)} disjoint shares, no group split"


def lots_are_the_images(run: FinishedRun) -> str:
    """Of a run that was updated: every image came at one time, and its row has not changed since."""
    if not run.lots:
        return "all images came at one time"
    rows = [row for lot in run.lots for row in lot.to_pylist()]
    same_ids("lots", [row["image_id"] for row in rows], "manifest's images", run.images["image_id"].to_pylist())
    known = {row["image_id"]: row for row in run.images.to_pylist()}
    for row in rows:
        if row != known[row["image_id"]]:
            raise AuditError(f"lots: image {row['image_id']} is {row}, but {known[row['image_id']]} in the manifest")
    if run.made.base_partition is not None:
        base = read_table(run.made.base_partition.file(filenames.PARTITION))
        expected = extend_partition(base, *(run.train[name].to_pylist() for name in ("image_id", "group")))
        if not run.partition.equals(expected):
            raise AuditError("partition: new images are assigned to other members than their ids and groups give")
    return f"{len(run.lots)} lots of images, {run.lots[0].num_rows} of which the members know"


def trained_on_shares(run: FinishedRun) -> str:
    """Every member was given its share and nothing else, and no more members are missing than may be."""
    members, fewest = run.made.by_number(), run.config.fewest_members if run.owned else 0
    given = run.config.purify.rule.training_sets(run.learnt)
    for member, fitted in members.items():
        same_ids(f"member {member}'s training images", list(trained_on(fitted)), "its share", given[member])
    missing = [member_name(member) for member in range(len(run.owned)) if member not in members]
    if len(members) < fewest:
        raise AuditError(f"{', '.join(missing)}: missing, and the configuration wants {fewest} members")
    lost = f"; missing: {', '.join(missing)}" if missing else ""
    return f"{len(members)} members trained on their shares and nothing else{lost}"


def scored_by_whom_it_says(run: FinishedRun) -> str:
    """The scores filed under a name are by the detector of that name."""
    made = run.made
    members = {member_name(number): fitted for number, fitted in made.by_number().items()}
    for detectors, shards in ((members, made.member_scores), ({FINAL: made.final}, made.final_scores)):
        for shard in shards:
            for name, fitted in detectors.items():
                if shard.inputs.get(name) != fitted.content:
                    raise AuditError(f"{name}: its scores ({shard.where}) were made by another detector")
    num_shards = len(made.member_scores) + len(made.final_scores)
    return f"{len(members) + 1} detectors made the scores that are filed under their names, in {num_shards} shards"


def held_out_scores_are(run: FinishedRun) -> str:
    """The scores of a fold are by a detector of this run that was given what had been kept, and nothing of the fold."""
    made = run.made
    judged = list(zip(made.round_scores, made.rounds, strict=False))
    for scores, before in judged:
        _held_out(run, scores, training_images(run.config, before, None))
    before = judged[-1][1] if judged else made.rounds[-1]
    if made.fold_scores:
        _held_out(run, made.fold_scores, training_images(run.config, before, made.overrides))
    elif made.threshold is not None and why_folds(run.config, before, made.overrides):
        raise AuditError("the threshold is to come from detectors without a fold, and there are no scores by such")
    if not made.folds:
        return "no detectors without a fold"
    return f"{len(made.folds)} detectors without a fold each scored images that they had not seen"


def _held_out(run: FinishedRun, scores: Sequence[Artifact], images: Mapping[str, float]) -> None:
    fitted = {artifact.content: artifact for artifact in run.made.folds}
    apart = dict[str, list[str]]()
    for shard in scores:
        by = [content for content in shard.inputs.values() if content in fitted]
        if len(by) != 1:
            raise AuditError(f"{shard.where}: the scores of a fold were made by another detector than the run's")
        apart.setdefault(by[0], []).extend(read_scores([shard])["image_id"].to_pylist())
    scored = [image_id for fold in apart.values() for image_id in fold]
    same_ids("held-out scores", scored, "manifest's training images", run.train["image_id"].to_pylist())
    for content, fold in apart.items():
        _was_given(fitted[content], fold, images)


def _was_given(fitted: Artifact, fold: list[str], images: Mapping[str, float]) -> None:
    learnt = trained_on(fitted)
    seen = sorted(learnt.keys() & set(fold))
    if seen:
        raise AuditError(f"{fitted.where}: image {seen[0]} was scored by a detector that was trained on it")
    odd = sorted(image_id for image_id, _ in learnt.items() ^ without_fold(images, fold).items())
    if odd:
        raise AuditError(f"{fitted.where}: image {odd[0]} was not learnt from as had been decided")


def matrix_is_what_members_wrote(run: FinishedRun) -> str:
    """The score matrix is what the members wrote, by image_id."""
    if run.matrix is None:
        return "no score matrix (the filter looks at no score)"
    matrix = dense(run.matrix)
    wrote = assemble(read_scores(run.made.member_scores), run.partition, list(run.made.by_number()))
    same_ids("scores.arrow", matrix.image_ids, "members' scores", wrote["image_id"].to_pylist())
    for says, expected in zip(run.matrix.sort_by("image_id").to_pylist(), wrote.to_pylist(), strict=True):
        if says != expected:
            raise AuditError(f"scores.arrow says {_brief(says)}, but the members wrote {_brief(expected)}")
    return f"{matrix.score_NK.size} scores are what the members wrote, in-fold members included"


def decisions_follow(run: FinishedRun) -> str:
    """Every round's decisions, and those by hand over them, derived again."""
    if len(run.decided) != len(run.derived):
        raise AuditError(f"{len(run.decided)} rounds have decisions, and {len(run.derived)} have scores to judge by")
    source = ""
    for number, (decided, derived) in enumerate(zip(run.decided, run.derived, strict=True), 1):
        source = "the raw score matrix" if number == 1 else f"the held-out scores of round {number}"
        _same_decisions(decided, derived, source)
    derived = run.derived[-1] if run.overrides is None else apply_overrides(run.derived[-1], run.overrides)
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


def only_overridden_differ(run: FinishedRun) -> str:
    """Derived from the decisions alone, in whatever order they were applied."""
    said = run.made.overrides
    if run.made.purified.inputs.get("overrides") != (said and said.content):
        raise AuditError("purified: the decisions by hand that it was made with are not those in overrides.arrow")
    if run.overrides is None:
        return "nothing was decided by hand"
    decided = {row["image_id"]: row["decision"] for row in run.overrides.to_pylist()}
    before = dict(zip(*(run.derived[-1][name].to_pylist() for name in ("image_id", "decision")), strict=True))
    other = [row for row in run.purified.to_pylist() if row["decision"] != before[row["image_id"]]]
    for row in other:
        if decided.get(row["image_id"], UNSURE) == UNSURE:
            raise AuditError(f"purified: image {row['image_id']} ({row['path']}) differs from what the filter decided")
    return f"{len(decided)} images were decided by hand; {len(other)} of them, and no others, against the filter"


def final_trained_on_kept(run: FinishedRun) -> str:
    """The final detector was given the kept images and no other, each with the trust that was decided."""
    kept, learnt = kept_ids(run.purified), trained_on(run.made.final)
    same_ids("final detector's training images", list(learnt), "kept set", kept)
    decided = training_images(run.config, run.made.purified, run.made.overrides)
    if odd := sorted(image_id for image_id in kept if learnt[image_id] != decided[image_id]):
        raise AuditError(
            f"final detector: it trusts image {odd[0]} with {learnt[odd[0]]:g}, but {decided[odd[0]]:g} was decided"
        )
    if run.weighted is not None:
        same_ids("importance.arrow", run.weighted, "kept set", kept)
    return f"the final detector was trained on the {len(kept)} kept images and nothing else"


def threshold_follows(run: FinishedRun) -> str:
    """The threshold and all that is said of it, derived again."""
    made, where = run.made, run.folder.file("threshold.json")
    if made.threshold is None:
        if run.config.threshold.method != "none" or where.exists():
            raise AuditError(f"{where}: the run's record and threshold.method disagree; run the same command again")
        return "no threshold was to be set"
    try:
        said = dict(json.loads(where.read_text()))
    except (ValueError, TypeError) as error:
        raise AuditError(f"{where}: damaged ({error}); run the same command again") from error
    found = derive_thresholds(run.config.threshold, ThresholdInputs.of(made, run.config))
    _check_levels(made.threshold, found.levels)
    if not read_table(made.threshold.file(filenames.HELD_OUT)).equals(found.held_out):
        raise AuditError(f"{made.threshold.where}/{filenames.HELD_OUT}: not the held-out scores that the run has")
    expected = json.loads(json.dumps(found.facts))
    odd = [name for name in sorted(expected.keys() | said.keys()) if said.get(name) != expected.get(name)]
    if odd:
        raise AuditError(
            f"{where}: {odd[0]} is {said.get(odd[0])!r}, but the held-out scores give {found.facts.get(odd[0])!r}"
        )
    return f"the threshold follows from {said['num_held_out']} held-out scores, which no label or test image entered"


def held_out_maps_are(run: FinishedRun) -> str:
    """The held-out maps are of a fixed sample of the images, each by a detector of this run that had not seen it."""
    made = run.made
    if not made.held_out_maps:
        return "no held-out maps, so no pixel threshold"
    members = {member_name(number): fitted for number, fitted in made.by_number().items()}
    detectors = mapping_detectors(run.config, made.folds, made.fold_scores, members)
    expected = {(name, i) for name, (_, ids) in assign_images(detectors, run.purified).items() for i in ids}
    found = set[tuple[str, str]]()
    for shard in made.held_out_maps:
        by = [name for name, fitted in detectors.items() if shard.inputs.get(name) == fitted.content]
        if len(by) != 1:
            raise AuditError(f"{shard.where}: held-out maps were made by another detector than the run's")
        found |= {(by[0], image_id) for image_id in read_scores([shard])["image_id"].to_pylist()}
    for name, image_id in sorted(found ^ expected):
        raise AuditError(f"held-out maps: image {image_id} by {name} is there, or missing, against the sample")
    return f"{len(found)} held-out maps, each by a detector that had not seen the image"


def _check_levels(threshold: Artifact, levels: pa.Table | None) -> None:
    """Raise AuditError unless the table that predictions read their pixel threshold off is the one derived again."""
    if (levels is not None) != (filenames.PIXEL_LEVELS in threshold.files):
        raise AuditError(f"{threshold.where}: has a pixel threshold without held-out maps, or maps without one")
    if levels is not None and not read_table(threshold.file(filenames.PIXEL_LEVELS)).equals(levels):
        raise AuditError(f"{threshold.where}/{filenames.PIXEL_LEVELS}: not what the held-out maps give")


def same_ids(what: str, found: Sequence[str], where: str, expected: Sequence[str]) -> None:
    twice = [image_id for image_id, times in Counter(found).items() if times > 1]
    if twice:
        raise AuditError(f"{what}: image {twice[0]} is there twice")
    odd = sorted(set(found) ^ set(expected))
    if odd:
        side = "is there but not in" if odd[0] in set(found) else "is missing but is in"
        raise AuditError(f"{what}: image {odd[0]} {side} the {where} ({len(odd)} such images)")


def _brief(row: dict[str, Any]) -> str:
    return f"image {row['image_id']} has the scores {row['scores']} and was in the fold of member {row['in_fold']}"
