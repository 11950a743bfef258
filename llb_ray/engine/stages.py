"""The stages of a run; `pipeline.run_stages` says in which order.

A stage reads the manifest and earlier artifacts, writes one, and is skipped where the artifact that its recipe names
is already there.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.artifacts import Artifact, Recipe, digest, write_json
from llb_ray.config import PurifyConfig, RunConfig
from llb_ray.data.manifest import LABELS, TRAIN, Manifest
from llb_ray.data.tables import joined, read_table, write_table
from llb_ray.detectors.build import Role, encoder_fingerprint, learner_settings
from llb_ray.engine import files
from llb_ray.engine.evaluate import Truth, detection_metrics, protocol, purification_metrics
from llb_ray.engine.executor import Executor, Tell
from llb_ray.engine.features import Catalogue, Featurizer, FeaturizerSpec, ImageRef
from llb_ray.engine.member import Member, MemberSpec, Trained, read_scores, score_matrix
from llb_ray.engine.runfolder import RunFolder
from llb_ray.engine.trainlog import fall_back_notices
from llb_ray.engine.worker import Place
from llb_ray.ensemble.dataset import kept_ids, purified_dataset
from llb_ray.ensemble.partition import partition, shares
from llb_ray.ensemble.purify import Labels
from llb_ray.seeding import seed_for

_WORTH_TELLING_S = 0.1  # bookkeeping stages take a hundredth


@dataclass
class StageTime:
    """How long a stage took in this process, and whether it was found finished."""

    stage: str
    seconds: float
    reused: bool


def partition_settings(config: RunConfig) -> dict[str, Any]:
    """What the partition depends on besides the images."""
    return {"members": config.members.count, "seed": config.seed}


def fit_settings(config: RunConfig, role: Role, index: int | None = None) -> dict[str, Any]:
    """What a fitted detector depends on besides the images and the encoder; `index` is a member's number."""
    seed = seed_for(config.seed, role) if index is None else seed_for(config.seed, role, index)
    settings = {"role": role, "seed": seed, "detector": dict(learner_settings(config.detector, role))}
    importance = config.importance.for_role(role)
    # Left out where it has no effect, so that trying a target Gaussian reuses every member.
    return settings if importance is None else settings | {"importance": importance.effective_settings()}


def purify_settings(config: RunConfig) -> dict[str, Any]:
    """What the decisions depend on besides the scores."""
    return config.purify.model_dump(mode="json") | {"seed": config.seed}


def oracle_labels(config: PurifyConfig, labels: Artifact) -> Labels | None:
    """The labels, for the oracle filter; None for every other."""
    if config.filter != "oracle":
        return None
    table = read_table(labels.path / files.LABELS)
    return dict(zip(table["image_id"].to_pylist(), table["label"].to_pylist(), strict=True))


@dataclass
class Stages:
    """The stages of one run, bound to its configuration, images, folder and executor."""

    config: RunConfig
    manifest: Manifest
    folder: RunFolder
    executor: Executor
    tell: Tell
    times: list[StageTime] = field(default_factory=list)

    def images(self) -> Artifact:
        """Who takes part, without labels, and what was put aside."""
        images, quarantine = self.manifest.unlabelled(), self.manifest.quarantine

        def build(folder: Path) -> None:
            write_table(folder / files.IMAGES, images)
            write_table(folder / files.QUARANTINE, quarantine)

        inputs = {"images": digest(images.to_pylist()), "quarantine": digest(quarantine.to_pylist())}
        return self._make(Recipe("manifest", {}, inputs), build)

    def labels(self) -> Artifact:
        """What is known about them; read by `evaluate` and by the oracle alone."""
        labels = self.manifest.table.select(["image_id", "split", *LABELS.names])
        recipe = Recipe("labels", {}, {"labels": digest(labels.to_pylist())})
        return self._make(recipe, lambda folder: write_table(folder / files.LABELS, labels))

    def partition(self) -> Artifact:
        """Each training image's member."""
        image_ids, groups = (self._train_images[name].to_pylist() for name in ("image_id", "group"))
        recipe = Recipe("partition", partition_settings(self.config), {"images": digest([image_ids, groups])})

        def build(folder: Path) -> None:
            table = partition(image_ids, groups, self.config.members.count, self.config.seed)
            write_table(folder / files.PARTITION, table)

        return self._make(recipe, build)

    def features(self) -> list[Artifact]:
        """One encoder pass over every image, in shards."""
        slots = max(1, min(self.executor.slots(self.config.resources), len(self.catalogue.shards)))
        specs = [self._featurizer(f"featurizer-{slot:03d}", slot, slots) for slot in range(slots)]
        missing = [recipe for recipe in self.catalogue.recipes if self.folder.store.find(recipe) is None]
        with self._timed("features", reused=not missing):
            if missing:
                self.executor.run(Featurizer, specs, self.tell)
        return [self.folder.store.get(recipe) for recipe in self.catalogue.recipes]

    def members(self, partitioned: Artifact) -> list[Trained]:
        """The fitted detector and the scores of every sub-model."""
        everyone = self._train_images["image_id"].to_pylist()
        owned = shares(read_table(partitioned.path / files.PARTITION))
        specs = [
            self._member(f"member-{index:03d}", fit_settings(self.config, "member", index), share, everyone)
            for index, share in enumerate(owned)
        ]
        return self._train("members", specs)

    def matrix(self, partitioned: Artifact, members: Sequence[Trained]) -> Artifact:
        """The score matrix, one row per image and member."""
        scored = [member.scored for member in members]
        owned = shares(read_table(partitioned.path / files.PARTITION))
        inputs = {f"member-{index:03d}": artifact.content for index, artifact in enumerate(scored)}
        recipe = Recipe("scores", {}, {"partition": partitioned.content, **inputs})
        return self._make(recipe, lambda folder: write_table(folder / files.MATRIX, score_matrix(scored, owned)))

    def purify(self, images: Artifact, labels: Artifact, matrix: Artifact | None) -> Artifact:
        """Every training image's decision."""
        inputs = {"images": images.content}
        if matrix is not None:
            inputs["scores"] = matrix.content
        if self.config.purify.filter == "oracle":
            inputs["labels"] = labels.content

        def build(folder: Path) -> None:
            scores = None if matrix is None else read_table(matrix.path / files.MATRIX)
            known = oracle_labels(self.config.purify, labels)
            table = purified_dataset(self.config.purify, self.config.seed, self._train_images, scores, known)
            write_table(folder / files.PURIFIED, table)

        return self._make(Recipe("purify", purify_settings(self.config), inputs), build)

    def final(self, purified: Artifact) -> Trained:
        """The final detector, fitted on the kept images, and its score and map of every image, test split included."""
        kept = kept_ids(read_table(purified.path / files.PURIFIED))
        everyone = self.manifest.table["image_id"].to_pylist()
        spec = self._member("final", fit_settings(self.config, "final"), kept, everyone)
        return self._train("final", [spec])[0]

    def evaluate(self, images: Artifact, labels: Artifact, purified: Artifact, final: Trained) -> Artifact:
        """The metrics, as far as labels go, and every image's score for people."""
        config, size_px = self.config.evaluation, self.config.detector.image_size_px
        truth = Truth(read_table(labels.path / files.LABELS), self.manifest.root, self.config.data.max_pixels)

        def build(folder: Path) -> None:
            scores = read_scores(final.scored)
            metrics = purification_metrics(read_table(purified.path / files.PURIFIED), truth.known(TRAIN))
            metrics |= detection_metrics(scores, truth, size_px, config)
            write_json(folder / files.METRICS, {**metrics, "protocol": protocol(config, size_px)})
            write_table(folder / files.IMAGE_SCORES, joined(self.manifest.unlabelled(), scores.drop(["map"])))

        made_from = {"images": images, "labels": labels, "purified": purified, "scores": final.scored}
        inputs = {name: artifact.content for name, artifact in made_from.items()}
        recipe = Recipe("evaluate", protocol(config, size_px), inputs | {"masks": truth.masks_digest()})
        return self._make(recipe, build)

    @cached_property
    def catalogue(self) -> Catalogue:
        """Where the layers of each image are, or will be."""
        table = self.manifest.table
        pairs = zip(table["image_id"].to_pylist(), table["path"].to_pylist(), strict=True)
        return Catalogue(encoder_fingerprint(self.config.detector), tuple(ImageRef(*pair) for pair in pairs))

    @cached_property
    def _train_images(self) -> pa.Table:
        """The training split without labels: all that the stages before `evaluate` ever see."""
        images = self.manifest.unlabelled()
        return images.filter(pc.equal(images["split"], TRAIN))

    def _featurizer(self, name: str, slot: int, slots: int) -> FeaturizerSpec:
        mine = tuple(range(slot, len(self.catalogue.shards), slots))
        root, limit = self.manifest.root, self.config.data.max_pixels
        return FeaturizerSpec(name, self._place, self.config.detector, self.catalogue, mine, root, limit)

    def _member(
        self, name: str, settings: Mapping[str, Any], fit_ids: Sequence[str], score_ids: Sequence[str]
    ) -> MemberSpec:
        return MemberSpec(
            name=name,
            place=self._place,
            detector=self.config.detector,
            importance=self.config.importance.for_role(settings["role"]),
            settings=settings,
            features=self.catalogue.recipes,
            encoder_digest=self.catalogue.encoder_digest,
            fit_ids=tuple(fit_ids),
            score_ids=tuple(score_ids),
        )

    @property
    def _place(self) -> Place:
        return Place(self.folder.store.root, self.folder.progress, self.config.resources)

    def _train(self, stage: str, specs: Sequence[MemberSpec]) -> list[Trained]:
        store = self.folder.store
        todo = [spec for spec in specs if spec.find(store) is None]
        with self._timed(stage, reused=not todo):
            if todo:
                self.executor.run(Member, todo, self.tell)
        trained = [spec.get(store) for spec in specs]
        for spec, made in zip(specs, trained, strict=True):
            for notice in fall_back_notices(spec.name, made.fitted):
                self.tell(f"note: {notice}")
        return trained

    def _make(self, recipe: Recipe, build: Callable[[Path], None]) -> Artifact:
        with self._timed(recipe.stage, reused=self.folder.store.find(recipe) is not None):
            return self.folder.store.make(recipe, build)

    @contextlib.contextmanager
    def _timed(self, stage: str, reused: bool) -> Iterator[None]:
        self.folder.log("stage started", stage=stage, reused=reused)
        started_s = time.perf_counter()
        yield
        seconds = time.perf_counter() - started_s
        self.times.append(StageTime(stage, seconds, reused))
        self.folder.log("stage finished", stage=stage, reused=reused, seconds=round(seconds, 3))
        if reused or seconds >= _WORTH_TELLING_S:
            self.tell(f"{stage}: {'found finished' if reused else f'{seconds:.1f} s'}")
