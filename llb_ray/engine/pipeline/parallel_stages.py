"""The stages that workers do: features, fits and scores, each cut into as many workers as there is room for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
import torch

from llb_ray.artifacts import Artifact, Store
from llb_ray.config import ALONE, RunConfig, WorkerRange
from llb_ray.data.band_scale import BandScale
from llb_ray.data.image_masks import IgnoredPixels
from llb_ray.data.levels import Levels
from llb_ray.data.manifest import Manifest
from llb_ray.detectors.factory import encoder_fingerprint
from llb_ray.engine import filenames
from llb_ray.engine.evaluation.pixel_counter import Evaluator, EvaluatorSpec, Grid, PixelShard
from llb_ray.engine.execution.protocols import WorkerContext
from llb_ray.engine.features.cache_budget import EncoderPasses, Features, no_room, trial
from llb_ray.engine.features.encoded_images import EncodedImages
from llb_ray.engine.features.encoding import FeatureExtractor, Stored, layers_of
from llb_ray.engine.features.feature_access import CachedFeatures, StreamedFeatures
from llb_ray.engine.features.featurizer import Featurizer, FeaturizerSpec, Shard
from llb_ray.engine.features.local_copies import LocalCopies
from llb_ray.engine.pipeline.dispatcher import Dispatcher
from llb_ray.engine.rundir.stage_timer import StageTimer
from llb_ray.engine.workers.fitter import Member, MemberSpec, fit_notices
from llb_ray.engine.workers.scorer import Scorer, ScorerSpec, ScoreShard, score_shard
from llb_ray.ensemble.categories import categories_of
from llb_ray.errors import LlbError


@dataclass
class ParallelStages:
    """Plans a run's workers, has those work that still have something to do, and counts what that saves."""

    config: RunConfig
    manifest: Manifest
    dispatcher: Dispatcher
    pool: pa.Table | None = None  # a superset of the images (schema `IMAGES`): runs that draw from it share its layers
    lots: Sequence[pa.Table] = ()  # the images (schema `IMAGES`), each cut into shards by itself, as it was before
    passes: EncoderPasses = field(default_factory=EncoderPasses)
    missing: dict[str, str] = field(default_factory=dict)  # members the run goes on without, and why

    def features(self, scale: BandScale | None, levels: Levels | None, ignored: IgnoredPixels | None) -> Features:
        """One encoder pass over every image, in shards; where these have no room, the means to encode at will.

        `scale` is that of the bands, None for photographs; `levels` are those of 16-bit photographs, if they need any;
        `ignored` are the pixels that are not looked at, if there are any.
        """
        extractor = self._extractor(scale, levels, ignored)
        plain = self._images.shards(extractor.key, ignored)
        copies = self._images.augmented_shards(extractor.key)
        shards = [*plain, *copies]
        missing = self.dispatcher.unmade(shards)
        with self._clock.timed("features", reused=not missing):
            if missing:
                one = self._trial(extractor.num_channels)
                problem = no_room(
                    self.config.features, one, _num_images(shards), _num_images(missing), self._store.root
                )
                if problem:
                    self._clock.tell(f"note: {problem}: nothing is cached, images are encoded whenever they are read")
                    return Features(plain, [], [], StreamedFeatures(extractor, self._images.refs), ignored)
                parts = enumerate(self.dispatcher.deal(missing, self.config.resources))
                self.dispatcher.each(Featurizer, [self._featurizer(slot, part, extractor) for slot, part in parts])
        cached = [self._store.get(shard.recipe) for shard in shards]
        self.passes.done += _num_images(missing)
        self.passes.cached_bytes = sum(artifact.sizes[filenames.LAYERS] for artifact in cached)
        access = CachedFeatures(tuple(shard.recipe for shard in shards), LocalCopies.of(self.config.features))
        return Features(plain, copies, cached, access, ignored)

    def member(
        self, name: str, settings: Mapping[str, Any], images: Mapping[str, float], features: Features
    ) -> MemberSpec:
        """Specification of a fit on these images, with the trust in each, by `stage_keys.fit_settings`."""
        return MemberSpec(
            name=name,
            context=replace(self._context, resources=self.config.resources_of(settings["role"])),
            detector=self.config.detector_of(settings["role"]),
            importance=self.config.importance_of(settings["role"]),
            settings=settings,
            access=features.access_to(images),
            encoder_digest=features.encoder,
            images=images,
            ignored=features.ignored,
        )

    def fit(
        self, stage: str, specs: Sequence[MemberSpec], may_fail: int = 0, num_workers: WorkerRange = ALONE
    ) -> dict[str, Artifact]:
        """The fitted detector of each, by name, but of those that failed, `may_fail` at most; every one the work of
        `num_workers`."""
        todo = self.dispatcher.unmade(specs)
        with self._clock.timed(stage, reused=not todo):
            if num_workers.most > 1:
                self.dispatcher.together(Member, todo, num_workers)
                failed: Mapping[str, LlbError] = {}
            else:
                failed = self.dispatcher.each(Member, todo, may_fail) if todo else {}
        self._go_on_without(failed, len(specs))
        specs = [spec for spec in specs if spec.name not in failed]
        todo = [spec for spec in todo if spec.name not in failed]
        self.passes.recomputing += sum(spec.num_reads for spec in specs)
        self.passes.done += sum(spec.num_reads for spec in todo if isinstance(spec.access, StreamedFeatures))
        fitted = {spec.name: self._store.get(spec.recipe) for spec in specs}
        for notice in fit_notices(stage, specs, fitted):
            self._clock.tell(f"note: {notice}")
        return fitted

    def score(
        self, stage: str, fitted: Mapping[str, Artifact], chosen: Sequence[str], features: Features, keeps_maps: bool
    ) -> list[Artifact]:
        """Scores of all these detectors for the chosen images, in shards."""
        shards = _score_shards(chosen, fitted, features, keeps_maps)
        missing = self.dispatcher.unmade(shards)
        with self._clock.timed(stage, reused=not missing):
            if missing:
                parts = enumerate(self.dispatcher.deal(missing, self.config.resources))
                specs = [self._scorer(slot, part, fitted, features, keeps_maps) for slot, part in parts]
                self.dispatcher.each(Scorer, specs)
        self.passes.recomputing += len(fitted) * len(chosen)
        self.passes.done += sum(
            len(shard.image_ids) for shard in missing if isinstance(features.access, StreamedFeatures)
        )
        return [self._store.get(shard.recipe) for shard in shards]

    def count_pixels(self, shards: Sequence[PixelShard], grid: Grid) -> list[Artifact]:
        """Counts of the pixels of the test images' maps against their masks, in shards, on the CPU."""
        missing = self.dispatcher.unmade(shards)
        with self._clock.timed("pixels", reused=not missing):
            if missing:
                resources = self.config.resources.model_copy(update={"num_gpus": 0, "device": "cpu"})
                context, parts = replace(self._context, resources=resources), self.dispatcher.deal(missing, resources)
                specs = [EvaluatorSpec(f"evaluator-{slot:03d}", context, grid, part) for slot, part in enumerate(parts)]
                self.dispatcher.each(Evaluator, specs)
        return [self._store.get(shard.recipe) for shard in shards]

    def score_apart(
        self, stage: str, asked: Mapping[str, tuple[Artifact, Sequence[str]]], features: Features, keeps_maps: bool
    ) -> list[Artifact]:
        """Scores of each of these detectors, by name, for images of its own, in shards."""
        shards = {
            name: _score_shards(chosen, {name: fitted}, features, keeps_maps)
            for name, (fitted, chosen) in asked.items()
        }
        todo = {name: missing for name in asked if (missing := self.dispatcher.unmade(shards[name]))}
        with self._clock.timed(stage, reused=not todo):
            fitted = {name: {name: asked[name][0]} for name in todo}
            specs = [
                self._scorer(slot, tuple(missing), fitted[name], features, keeps_maps)
                for slot, (name, missing) in enumerate(todo.items())
            ]
            self.dispatcher.each(Scorer, specs)
        self.passes.recomputing += sum(len(chosen) for _, chosen in asked.values())
        if isinstance(features.access, StreamedFeatures):
            self.passes.done += sum(len(shard.image_ids) for missing in todo.values() for shard in missing)
        return [self._store.get(shard.recipe) for name in asked for shard in shards[name]]

    def _go_on_without(self, failed: Mapping[str, LlbError], num_specs: int) -> None:
        for name, error in failed.items():
            self.lose(name, str(error))
            self._clock.tell(
                f"note: going on with {num_specs - len(failed)} of {num_specs} members; missing is {error}"
            )

    def lose(self, name: str, reason: str) -> None:
        """Note that the run does without this member."""
        self.missing[name] = reason
        self._clock.folder.log("member missing", name=name, reason=reason)

    def _trial(self, num_channels: int) -> Stored:
        """One image's layers, for their size; says now, not hours later, what about them the detector refuses."""
        one = trial(self.config.detector, num_channels)
        for notice in self.config.detector.check_layers(layers_of(one, torch.device("cpu"))):
            self._clock.tell(f"note: {notice}")
        return one

    def _featurizer(self, slot: int, shards: tuple[Shard, ...], extractor: FeatureExtractor) -> FeaturizerSpec:
        return FeaturizerSpec(f"featurizer-{slot:03d}", self._context, extractor, shards)

    def _scorer(
        self,
        slot: int,
        shards: tuple[ScoreShard, ...],
        fitted: Mapping[str, Artifact],
        features: Features,
        keeps_maps: bool,
    ) -> ScorerSpec:
        name = f"scorer-{slot:03d}"
        role = next(iter(fitted.values())).settings["role"]  # all of one kind
        detector = self.config.detector_of(role)
        access = features.access_to([image_id for shard in shards for image_id in shard.image_ids])
        return ScorerSpec(name, self._context, detector, fitted, access, shards, keeps_maps)

    @cached_property
    def _images(self) -> EncodedImages:
        return EncodedImages(self.config, self.manifest, self.pool, self.lots)

    def _extractor(
        self, scale: BandScale | None, levels: Levels | None, ignored: IgnoredPixels | None
    ) -> FeatureExtractor:
        detector = self.config.detector
        max_pixels, fingerprint = self.config.data.max_pixels, encoder_fingerprint(detector)
        return FeatureExtractor(self.manifest.root, max_pixels, detector, fingerprint, scale, levels, ignored)

    @property
    def _clock(self) -> StageTimer:
        return self.dispatcher.timer

    @property
    def _store(self) -> Store:
        return self.dispatcher.store

    @property
    def _context(self) -> WorkerContext:
        names = categories_of(self.manifest.table)
        category = names[0] if len(names) == 1 else f"{len(names)}-categories"
        store = replace(self._store, verifies=False)  # what workers are given, the driver has compared
        return WorkerContext(store, self._clock.folder.progress, self.config.resources, category)


def _score_shards(
    chosen: Sequence[str], fitted: Mapping[str, Artifact], features: Features, keeps_maps: bool
) -> list[ScoreShard]:
    """The chosen images, shard by shard of the features, so that a scorer reads few of those."""
    wanted = set(chosen)
    owned = ([image_id for image_id in shard.image_ids if image_id in wanted] for shard in features.shards)
    return [score_shard(ids, features.encoder, fitted, keeps_maps, features.ignored) for ids in owned if ids]


def _num_images(shards: Sequence[Shard]) -> int:
    return sum(len(shard.images) for shard in shards)
