"""The whole method, top to bottom: the stages of a run in their order."""

import json

import pyarrow as pa

from llb_ray.artifacts import Artifact
from llb_ray.data.tables import read_table
from llb_ray.engine import filenames
from llb_ray.engine.evaluation.run_threshold import ThresholdInputs
from llb_ray.engine.features.cache_budget import Features
from llb_ray.engine.pipeline.decision_stages import kept_all_notices
from llb_ray.engine.pipeline.input_stages import InputStages
from llb_ray.engine.pipeline.stages import Folds, Stages
from llb_ray.engine.rundir.run_artifacts import (
    DecisionArtifacts,
    FinalArtifacts,
    InputArtifacts,
    MemberArtifacts,
    RunArtifacts,
)
from llb_ray.engine.workers.fitter import member_name
from llb_ray.ensemble.refinement import num_changed


def run_in_order(stages: Stages, said: pa.Table | None) -> RunArtifacts:
    """All artifacts of the run; `said` are decisions by hand (schema `overrides.OVERRIDES`), if there are any."""
    inputs = _inputs(stages.inputs)
    features = stages.features(inputs.bands, inputs.levels)
    members = _members(stages, inputs.partition, features)
    overrides = None if said is None else stages.decisions.overrides(said)
    first = stages.decisions.purify(inputs.images, inputs.labels, members.matrix)
    rounds, judged = _rounds(stages, first, features)
    purified = rounds[-1] if overrides is None else stages.decisions.by_hand(rounds[-1], overrides)
    # Before the final fit, which is long: they may lack images.
    apart = _threshold_folds(stages, rounds, judged, overrides, features)
    decided = DecisionArtifacts(
        rounds=rounds,
        purified=purified,
        overrides=overrides,
        folds=[fitted for folds in (judged if apart in judged else [*judged, apart]) for fitted in folds.fitted],
        round_scores=[folds.scores for folds in judged],
        fold_scores=apart.scores,
    )
    final = _final(stages, inputs, members, decided, features)
    return RunArtifacts.of(inputs, members, decided, final)


def _inputs(stages: InputStages) -> InputArtifacts:
    """Quick stages come first, so that a folder with too few images is refused before the long stages."""
    return InputArtifacts(
        images=stages.images(),
        pool=stages.pool(),
        lots=stages.lots(),
        labels=stages.labels(),
        near=stages.near(),
        partition=stages.partition() if stages.config.purify.rule.reads_scores else None,
        base_partition=stages.base.partition if stages.base else None,
        bands=stages.bands(),
        levels=stages.levels(),
        ignored=stages.ignored,
    )


def _members(stages: Stages, partition: Artifact | None, features: Features) -> MemberArtifacts:
    if partition is None:
        return MemberArtifacts(features=features.cached)
    fitted = stages.members(partition, features)
    scored = stages.member_scores(fitted, features)
    by_number = [fitted.get(member_name(number)) for number in range(stages.config.num_members)]
    numbers = [number for number, member in enumerate(by_number) if member]
    matrix = stages.matrix(partition, numbers, scored)
    return MemberArtifacts(features=features.cached, members=by_number, member_scores=scored, matrix=matrix)


def _final(
    stages: Stages, inputs: InputArtifacts, members: MemberArtifacts, decided: DecisionArtifacts, features: Features
) -> FinalArtifacts:
    final = stages.final(decided.purified, decided.overrides, features)
    scored = stages.final_scores(final, features)
    maps = stages.held_out_maps(decided, members, features)
    threshold = stages.decisions.threshold(ThresholdInputs(decided, members.matrix, scored, maps))
    counted = stages.pixel_counts(inputs.images, inputs.labels, scored)
    return FinalArtifacts(
        final=final,
        final_scores=scored,
        held_out_maps=[*maps.shards],
        threshold=threshold,
        pixel_counts=counted,
        evaluated=stages.evaluate(inputs.images, inputs.labels, decided.purified, scored, counted),
    )


def _rounds(stages: Stages, first: Artifact, features: Features) -> tuple[list[Artifact], list[Folds]]:
    """Decisions of the filter, round by round, and the scores that each round but the first judged by.

    Decisions by hand come after it, so that they change the images that they are about and no others.
    """
    rounds: list[Artifact] = [first]
    judged: list[Folds] = []
    for number in range(2, stages.config.rounds + 1):
        stages.report_folds(f"round {number} judges every image again, by")
        judged.append(stages.folds(rounds[-1], None, features))
        rounds.append(stages.decisions.purify_again(number, rounds[-1], judged[-1].scores))
        out, back = num_changed(*(read_table(made.file(filenames.PURIFIED)) for made in rounds[-2:]))
        stages.timer.tell(f"round {number}: {out} more images rejected, {back} readmitted")
        if not out and not back:
            break
    for notice in kept_all_notices(stages.config.purify, read_estimate(rounds[-1])):
        stages.timer.tell(f"note: {notice}")
    return rounds, judged


def _threshold_folds(
    stages: Stages, rounds: list[Artifact], judged: list[Folds], overrides: Artifact | None, features: Features
) -> Folds:
    """The folds that the threshold comes from; none where the members give it, or none is asked for.

    They are those of the last round.  Where people decided too they know their words, so that an image which is given
    back is judged by a detector that knows others of its kind.
    """
    if judged and overrides is None and stages.config.threshold.method != "none":
        return judged[-1]
    before = rounds[-2] if judged else rounds[-1]
    return stages.folds(before, overrides, features) if stages.needs_folds(before, overrides) else Folds([], [])


def read_estimate(decided: Artifact) -> dict[str, float]:
    """Estimated share of anomalies; empty where it was given."""
    if filenames.CONTAMINATION not in decided.files:
        return {}
    said: dict[str, float] = json.loads(decided.file(filenames.CONTAMINATION).read_text())
    return said
