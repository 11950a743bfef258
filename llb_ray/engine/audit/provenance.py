"""Provenance checks: does every artifact's record name what the run says it was made from?

A key proves nothing to who forges records: keys are derived from them.  So what each recipe should be is derived here
from the configuration, the images, and the contents of the artifacts before it.
"""

import re
from collections.abc import Iterator
from dataclasses import replace

from llb_ray.artifacts import Artifact, Recipe, digest
from llb_ray.engine.evaluation.evaluate import evaluate_recipe, grid, shards_to_count
from llb_ray.engine.evaluation.run_threshold import ThresholdInputs
from llb_ray.engine.features.ignored_pixels import ignored_recipe
from llb_ray.engine.features.mean_features import FEATURES
from llb_ray.engine.features.measured_bands import scale_recipe
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.pipeline.decision_stages import again_recipe, by_hand_recipe, purify_recipe, threshold_recipe
from llb_ray.engine.pipeline.recipes import (
    extended_recipe,
    labels_recipe,
    lot_recipe,
    manifest_recipe,
    matrix_recipe,
    partition_recipe,
)
from llb_ray.engine.pipeline.stages import FINAL
from llb_ray.engine.pipeline.training_set import training_images
from llb_ray.engine.stage_keys import fit_settings
from llb_ray.engine.workers.fitter import fit_recipe, member_name, trained_on
from llb_ray.engine.workers.scorer import read_scores, score_shard
from llb_ray.ensemble.trust import TRUSTED
from llb_ray.errors import AuditError

_SHARD = re.compile(r"^(folds|final|scores|pixels|maps)-[0-9]+$")
RunArtifacts = tuple[str, Artifact, Recipe]


def made_from_what_it_says(run: FinishedRun) -> str:
    """Every artifact's record names the settings and inputs that follow from the run's other artifacts."""
    number = 0
    for stage in (_given, _fitted, _scored, _decided, _measured):
        for name, artifact, recipe in stage(run):
            number += 1
            _same(name, artifact, recipe)
    return f"{number} records name what their artifacts were made from"


def _same(name: str, artifact: Artifact, recipe: Recipe) -> None:
    if dict(artifact.settings) != dict(recipe.settings):
        raise AuditError(f"config.yaml is not what the run was made with: stage {name!r} had other settings")
    said, expected = _by_role(artifact), _by_role(recipe)
    for role in sorted(said.keys() | expected.keys()):
        if said.get(role) != expected.get(role):
            raise AuditError(f"{artifact.where}: the record of stage {name!r} names other {role} than the run has")


def _by_role(made: Artifact | Recipe) -> dict[str, list[str]]:
    """The inputs by what they are; shards have numbers, and may be read in any order."""
    roles: dict[str, list[str]] = {}
    for name, content in sorted(made.inputs.items(), key=lambda item: item[1]):
        roles.setdefault(_SHARD.sub(r"\1", name), []).append(content)
    return roles


def _given(run: FinishedRun) -> Iterator[RunArtifacts]:
    made, train = run.made, run.train
    ids, groups = train["image_id"].to_pylist(), train["group"].to_pylist()
    yield "manifest", made.images, manifest_recipe(run.images, run.quarantine)
    yield "labels", made.labels, labels_recipe(run.labels)
    base_ids, base_groups = (run.base_train[name].to_pylist() for name in ("image_id", "group"))
    first = partition_recipe(run.config, base_ids, base_groups)
    if made.partition is not None and made.base_partition is None:
        yield "partition", made.partition, first
    if made.partition is not None and made.base_partition is not None:
        yield "base partition", made.base_partition, first
        yield "partition", made.partition, extended_recipe(run.config, made.base_partition, ids, groups)
    for number, (lot, images) in enumerate(zip(made.lots, run.lots, strict=True)):
        yield f"lot {number}", lot, lot_recipe(images)
    if made.ignored is not None and run.ignored_pixels is not None:
        yield "ignored", made.ignored, ignored_recipe(run.ignored_pixels)
    if made.bands is not None and run.config.data.bands is not None:
        yield "bands", made.bands, scale_recipe(run.config.data.bands, base_ids)
    if run.overrides is not None and made.overrides is not None:
        yield "overrides", made.overrides, Recipe("overrides", {}, {"overrides": digest(run.overrides.to_pylist())})


def _fitted(run: FinishedRun) -> Iterator[RunArtifacts]:
    made, config = run.made, run.config
    shares = config.purify.rule.training_sets(run.learnt)
    for number, fitted in made.by_number().items():
        settings = fit_settings(config, "member", number)
        images = dict.fromkeys(shares[number], TRUSTED)
        yield member_name(number), fitted, fit_recipe(settings, _encoder(run), images, run.ignored_pixels)
    kept = training_images(config, made.purified, made.overrides)
    yield FINAL, made.final, fit_recipe(fit_settings(config, "final"), _encoder(run), kept, run.ignored_pixels)
    for number, fitted in enumerate(made.folds):
        learnt = dict(sorted(trained_on(fitted).items()))  # whether it should is asked by `held_out_scores_are`
        settings = fit_settings(config, "final", number % config.threshold.folds)
        yield f"fit {number} without a fold", fitted, fit_recipe(settings, _encoder(run), learnt, run.ignored_pixels)


def _scored(run: FinishedRun) -> Iterator[RunArtifacts]:
    made = run.made
    members = {member_name(number): fitted for number, fitted in made.by_number().items()}
    by_content = {fitted.content: fitted for fitted in made.folds}
    for shard in made.member_scores:
        yield "member-scores", shard, _score_recipe(run, shard, members, keeps_maps=False)
    for shard in made.final_scores:
        yield "final-scores", shard, _score_recipe(run, shard, {FINAL: made.final}, keeps_maps=True)
    for shard in [*made.fold_scores, *(shard for shards in made.round_scores for shard in shards)]:
        by = {name: by_content[content] for name, content in shard.inputs.items() if content in by_content}
        yield "fold-scores", shard, _score_recipe(run, shard, by, keeps_maps=False)
    by_content |= {fitted.content: fitted for fitted in members.values()}
    for shard in made.held_out_maps:
        by = {name: by_content[content] for name, content in shard.inputs.items() if content in by_content}
        yield "held-out-maps", shard, _score_recipe(run, shard, by, keeps_maps=True)


def _score_recipe(run: FinishedRun, shard: Artifact, by: dict[str, Artifact], keeps_maps: bool) -> Recipe:
    image_ids = read_scores([shard])["image_id"].to_pylist()
    recipe = score_shard(image_ids, _encoder(run), by, keeps_maps, run.ignored_pixels).recipe
    # Runs of earlier versions kept maps alone.
    return recipe if FEATURES in shard.settings or not keeps_maps else replace(recipe, settings={"maps": True})


def _decided(run: FinishedRun) -> Iterator[RunArtifacts]:
    made, config = run.made, run.config
    if made.matrix is not None and made.partition is not None:
        yield "scores", made.matrix, matrix_recipe(config, made.partition, list(made.by_number()), made.member_scores)
    first, *again = made.rounds
    yield "purify, round 1", first, purify_recipe(config, made.images, made.labels, made.matrix)
    for number, (decided, before, scores) in enumerate(zip(again, made.rounds, made.round_scores, strict=False), 2):
        yield f"purify, round {number}", decided, again_recipe(config, number, before, scores)
    if made.overrides is not None:
        yield "by-hand", made.purified, by_hand_recipe(made.rounds[-1], made.overrides)
    elif made.purified.path != made.rounds[-1].path:
        raise AuditError(f"{made.purified.where}: is not what the last round decided ({made.rounds[-1].where})")
    if made.threshold is not None:
        recipe = threshold_recipe(config.threshold, ThresholdInputs.of(made, config))
        yield "threshold", made.threshold, recipe


def _measured(run: FinishedRun) -> Iterator[RunArtifacts]:
    made, config = run.made, run.config
    made_from = {"images": made.images, "labels": made.labels, "purified": made.purified}
    recipe = evaluate_recipe(config, run.truth, made_from, made.final_scores, made.pixel_counts)
    yield "evaluate", made.evaluated, recipe
    compared_on = grid(run.truth, config)
    shards = shards_to_count(made.final_scores, run.truth, compared_on)
    if len(shards) != len(made.pixel_counts):
        raise AuditError(f"run.json: {len(made.pixel_counts)} counts of pixels, and there should be {len(shards)}")
    for shard, counted in zip(shards, made.pixel_counts, strict=True):
        yield "pixels", counted, shard.recipe


def _encoder(run: FinishedRun) -> str:
    """The encoder that all of the run is keyed by; whether it is this machine's is asked by who scores again."""
    return str(run.made.final.inputs.get("encoder"))
