"""The stages of a run, each files in and files out; `pipeline.run` says in which order.

A stage reads artifacts, writes one, and is skipped when the artifact its recipe names is already there.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from llb_ray.artifacts import Artifact, Recipe, digest, write_json
from llb_ray.config import RunConfig
from llb_ray.data.manifest import LABELS, TRAIN, Manifest
from llb_ray.data.tables import joined, read_table, write_table
from llb_ray.detectors.build import Role, encoder_fingerprint
from llb_ray.engine.evaluate import PROTOCOL, Truth, detection_metrics, purification_metrics
from llb_ray.engine.executor import Executor, Tell
from llb_ray.engine.features import Catalogue, Featurizer, FeaturizerSpec, Picture
from llb_ray.engine.member import Member, MemberSpec, Trained, read_scores, score_matrix
from llb_ray.engine.runfolder import RunFolder
from llb_ray.engine.worker import Place
from llb_ray.ensemble.dataset import kept_ids, purified_dataset
from llb_ray.ensemble.partition import partition, shares
from llb_ray.seeding import seed_for

PURIFIED = "purified.arrow"


@dataclass
class StageTime:
    """How long a stage took in this process, and whether it was found finished."""

    stage: str
    seconds: float
    reused: bool


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
        """Who takes part, without labels: images.arrow and quarantine.arrow."""
        images, quarantine = self.manifest.unlabelled(), self.manifest.quarantine

        def build(folder: Path) -> None:
            write_table(folder / "images.arrow", images)
            write_table(folder / "quarantine.arrow", quarantine)

        inputs = {"images": digest(images.to_pylist()), "quarantine": digest(quarantine.to_pylist())}
        return self._make(Recipe("manifest", {}, inputs), build)

    def labels(self) -> Artifact:
        """What is known about them: labels.arrow; read by `evaluate` and by the oracle alone."""
        labels = self.manifest.table.select(["image_id", "split", *LABELS.names])
        recipe = Recipe("labels", {}, {"labels": digest(labels.to_pylist())})
        return self._make(recipe, lambda folder: write_table(folder / "labels.arrow", labels))

    def partition(self) -> Artifact:
        """Each training image's member: partition.arrow."""
        train = self.manifest.split(TRAIN)
        image_ids, groups = train["image_id"].to_pylist(), train["group"].to_pylist()
        count, seed = self.config.members.count, self.config.seed
        recipe = Recipe("partition", {"members": count, "seed": seed}, {"images": digest([image_ids, groups])})
        return self._make(
            recipe, lambda folder: write_table(folder / "partition.arrow", partition(image_ids, groups, count, seed))
        )

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
        everyone = tuple(self.manifest.image_ids(TRAIN))
        owned = shares(read_table(partitioned.path / "partition.arrow"))
        specs = [
            self._member(f"member-{index:03d}", "member", seed_for(self.config.seed, "member", index), share, everyone)
            for index, share in enumerate(owned)
        ]
        return self._train("members", specs)

    def scores(self, partitioned: Artifact, members: Sequence[Trained]) -> Artifact:
        """The score matrix: scores.arrow, one row per image and member."""
        scored = [member.scored for member in members]
        owned = shares(read_table(partitioned.path / "partition.arrow"))

        def build(folder: Path) -> None:
            write_table(folder / "scores.arrow", score_matrix(scored, owned))

        inputs = {f"member-{index:03d}": artifact.content for index, artifact in enumerate(scored)}
        return self._make(Recipe("scores", {}, {"partition": partitioned.content, **inputs}), build)

    def purify(self, images: Artifact, labels: Artifact, matrix: Artifact | None) -> Artifact:
        """Every training image's decision: purified.arrow."""
        settings = self.config.purify
        inputs = {"images": images.content}
        if matrix is not None:
            inputs["scores"] = matrix.content
        if settings.filter == "oracle":
            inputs["labels"] = labels.content
        relevant = settings.model_dump(mode="json") | {"seed": self.config.seed}

        def build(folder: Path) -> None:
            scores = None if matrix is None else read_table(matrix.path / "scores.arrow")
            table = purified_dataset(settings, self.config.seed, self.manifest.split(TRAIN), scores)
            write_table(folder / PURIFIED, table)

        return self._make(Recipe("purify", relevant, inputs), build)

    def final(self, purified: Artifact) -> Trained:
        """The final detector, fitted on the kept images, and its score and map of every image, test split included."""
        kept = kept_ids(read_table(purified.path / PURIFIED))
        everyone = tuple(self.manifest.table["image_id"].to_pylist())
        seed = seed_for(self.config.seed, "final")
        return self._train("final", [self._member("final", "final", seed, kept, everyone)])[0]

    def evaluate(self, labels: Artifact, purified: Artifact, final: Trained) -> Artifact:
        """metrics.json, as far as labels go, and image_scores.arrow for people."""
        truth = Truth(read_table(labels.path / "labels.arrow"), self.manifest.root)
        config, size_px = self.config.evaluation, self.config.detector.image_size_px

        def build(folder: Path) -> None:
            scores = read_scores(final.scored)
            metrics = purification_metrics(read_table(purified.path / PURIFIED), truth.known(TRAIN))
            metrics |= detection_metrics(scores, truth, size_px, config)
            write_json(folder / "metrics.json", {**metrics, "protocol": PROTOCOL | config.model_dump()})
            write_table(folder / "image_scores.arrow", joined(self.manifest.unlabelled(), scores.drop(["map"])))

        inputs = {"labels": labels.content, "purified": purified.content, "scores": final.scored.content}
        return self._make(Recipe("evaluate", config.model_dump() | {"size_px": size_px}, inputs), build)

    @cached_property
    def catalogue(self) -> Catalogue:
        """Where the layers of each image are, or will be."""
        table = self.manifest.table
        pairs = zip(table["image_id"].to_pylist(), table["path"].to_pylist(), strict=True)
        pictures = tuple(Picture(image_id, path) for image_id, path in pairs)
        return Catalogue(encoder_fingerprint(self.config.detector), pictures)

    def _featurizer(self, name: str, slot: int, slots: int) -> FeaturizerSpec:
        mine = tuple(range(slot, len(self.catalogue.shards), slots))
        root, limit = self.manifest.root, self.config.data.max_pixels
        return FeaturizerSpec(name, self._place, self.config.detector, self.catalogue, mine, root, limit)

    def _member(
        self, name: str, role: Role, seed: int, fit_ids: Sequence[str], score_ids: tuple[str, ...]
    ) -> MemberSpec:
        detector = self.config.detector
        return MemberSpec(name, self._place, detector, self.catalogue, role, seed, tuple(fit_ids), score_ids)

    @property
    def _place(self) -> Place:
        return Place(self.folder.store.root, self.folder.progress, self.config.resources)

    def _train(self, stage: str, specs: Sequence[MemberSpec]) -> list[Trained]:
        store = self.folder.store
        todo = [spec for spec in specs if spec.find(store) is None]
        with self._timed(stage, reused=not todo):
            if todo:
                self.executor.run(Member, todo, self.tell)
        return [spec.get(store) for spec in specs]

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
        self.tell(f"{stage}: {'found finished' if reused else f'{seconds:.1f} s'}")
