"""A run: its folder, its stages, and its outcome."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from llb_ray.artifacts import Store
from llb_ray.config import RunConfig
from llb_ray.data.manifest import TRAIN, Manifest, path_from_text
from llb_ray.data.near_duplicates import near_sentences
from llb_ray.data.tables import read_table
from llb_ray.engine import filenames
from llb_ray.engine.execution.executor import Executor, Tell, refuse_crowd
from llb_ray.engine.features.cache_budget import EncoderPasses
from llb_ray.engine.features.ignored_pixels import refuse_unfit_folders
from llb_ray.engine.inspection.run_status import crashed_stage
from llb_ray.engine.notebook_tables import html_table
from llb_ray.engine.pipeline.dispatcher import Dispatcher
from llb_ray.engine.pipeline.input_stages import Base
from llb_ray.engine.pipeline.parallel_stages import ParallelStages
from llb_ray.engine.pipeline.stage_order import read_estimate, run_in_order
from llb_ray.engine.pipeline.stages import Stages
from llb_ray.engine.rundir.output_guard import refuse_inside
from llb_ray.engine.rundir.published_files import publish
from llb_ray.engine.rundir.run_artifacts import RunArtifacts
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.engine.rundir.run_lock import lock_run, probe_files
from llb_ray.engine.rundir.stage_timer import StageTime, StageTimer
from llb_ray.ensemble.categories import categories_of
from llb_ray.ensemble.decision import KEPT, REJECTED
from llb_ray.ensemble.filters.base import filter_of
from llb_ray.ensemble.threshold import threshold_titles
from llb_ray.errors import ConfigError, DataError, LlbError
from llb_ray.metrics.metric_names import of_run
from llb_ray.remote import Remote

_NAMED_ASIDE = 5
_LEAST_OF_CATEGORY = 10  # training images of each, where there are several


@dataclass(frozen=True)
class Result:
    """Outcome of a run; the same facts are in the run's folder."""

    path: Path
    where: str  # the folder, or the URI that it is a working copy of
    num_input: int  # training files found: kept + rejected + quarantined
    num_kept: int
    num_rejected: int
    num_quarantined: int
    metrics: dict[str, Any]  # empty but for the protocol where nothing is labelled
    times: list[StageTime]
    passes: EncoderPasses
    worker_s: float = 0.0  # that workers worked for it, all of them together, on machines whose beats are seen
    gpu_s: float = 0.0  # the same, each second times the GPUs of the worker
    missing: dict[str, str] = field(default_factory=dict)  # sub-models that it had to do without, and why
    threshold: dict[str, Any] = field(default_factory=dict)  # the facts of `run_threshold.derive_thresholds`
    contamination: dict[str, float] = field(default_factory=dict)  # estimated share, low and high, if it was

    def _repr_html_(self) -> str:
        """Counts, threshold and metrics, for notebooks."""
        counts = {"training images": self.num_input, "kept": self.num_kept, "rejected": self.num_rejected}
        rows: dict[str, Any] = counts | {"quarantined": self.num_quarantined}
        rows |= {title: facts["threshold"] for title, facts in threshold_titles(self.threshold).items()}
        rows |= {title: self.metrics[name] for name, title in of_run().items() if name in self.metrics}
        return html_table(f"run in {self.where}", ("", ""), rows.items())


@dataclass(frozen=True)
class Amendment:
    """A finished run's artifacts, and the decisions by hand (schema `overrides.OVERRIDES`)."""

    made: RunArtifacts
    overrides: pa.Table | None
    lots: Sequence[pa.Table] = ()  # of a run that was updated, or is now (`stages.Base`)
    roots: Sequence[Path] = ()  # folders of images of an update

    def base(self, store: Store) -> Base | None:
        """The part of the run that an update leaves as it is, in `store` too; None where no image came later."""
        made = self.made.base_partition or self.made.partition, self.made.bands, self.made.levels
        return Base(self.lots, *(one and store.adopt(one) for one in made)) if self.lots else None

    @property
    def lost(self) -> list[int]:
        """The members that the run did without: they are not tried again, for the scores are to stay what they were."""
        return [number for number, fitted in enumerate(self.made.members) if fitted is None]

    def put_into(self, store: Store) -> None:
        """Have all artifacts in `store` too, so that nothing which stays the same is made again."""
        for artifact in self.made.artifacts():
            store.adopt(artifact)


@dataclass(frozen=True)
class RunSpec:
    """A run that is to be made in `out`.

    Runs that are given one `store` reuse each other's artifacts, even while they run.  Runs that draw their images from
    one `pool`, a superset of them under the same root (schema `IMAGES`), share its layers too: shards are cut by what
    is in them.  With an `amendment`, all that a finished run of the same configuration and images is made of is there
    from the start, and decisions by hand replace the filter's.  The lock of an earlier attempt at the same run, on a
    node that was cut off and lives on, is waited for `lock_wait_s`.
    """

    config: RunConfig
    manifest: Manifest
    out: Path | Remote
    store: Path | None = None
    pool: pa.Table | None = None
    amendment: Amendment | None = None
    lock_wait_s: float = 0


def run_stages(spec: RunSpec, executor: Executor, tell: Tell) -> Result:
    """Purify the training images of the manifest and train the final detector.

    Finished stages are reused, so the same call after an interruption does only what is missing.
    Raises a `LlbError` for what the user can fix, and OSError for a disk, a mount or a network; nothing finished is
    lost by it.
    """
    config, manifest, amendment = spec.config, spec.manifest, spec.amendment
    _refuse(spec)
    filter_of(config.purify)  # raises for a broken one of another package
    refuse_crowd(executor, config.resources_of("final"), config.final_workers)  # hours before their turn comes
    with lock_run(spec.out, spec.store, spec.lock_wait_s) as folder:
        for line in [
            *_crash_lines(folder),
            *_quarantine_lines(manifest),
            *_near_lines(manifest),
            *_several(manifest),
            *(f"note: {notice}" for notice in config.notices()),
        ]:
            tell(line)
        folder.log("run started", config=config.model_dump(mode="json"))
        timer = StageTimer(folder, tell)
        lost = amendment.lost if amendment else ()
        base = amendment.base(folder.store) if amendment else None
        parallel = ParallelStages(config, manifest, Dispatcher(executor, timer), spec.pool, base.lots if base else ())
        stages = Stages(config, manifest, parallel, timer, lost, base)
        try:
            if amendment is not None:
                amendment.put_into(folder.store)
            with probe_files(folder) as probes:
                executor.refuse_unshared(probes | _an_image(manifest))
            made = run_in_order(stages, amendment.overrides if amendment else None)
        except (LlbError, OSError) as error:
            with contextlib.suppress(OSError):  # of the same full disk, lost mount or network
                folder.log("run failed", error=str(error))
            raise
        except (KeyboardInterrupt, SystemExit):  # Ctrl-C, or a scheduler's SIGTERM: the command line makes it an exit
            with contextlib.suppress(OSError):
                folder.log("run stopped")
            raise
        publish(folder, config, manifest.root, made)
        folder.log("run finished")
        return _result(stages, made)


def _refuse(spec: RunSpec) -> None:
    """Raise what would otherwise come up after hours, or spoil the next run."""
    manifest, out, roots = spec.manifest, spec.out, spec.amendment.roots if spec.amendment else ()
    if not manifest.image_ids(TRAIN):
        raise DataError(f"{manifest.root}: no usable training image in the manifest; look at its quarantine table")
    _refuse_few(manifest.split(TRAIN))
    refuse_unfit_folders(spec.config, manifest)
    if isinstance(out, Path):
        for root in roots or [manifest.root]:
            refuse_inside(root, out)
    elif spec.config.features.local is not None:
        raise ConfigError("features.local has no effect with a run at a URI, which every machine copies; drop it")


def _refuse_few(images: pa.Table) -> None:
    """Raise DataError for one of several categories that has too few training images for a threshold of its own."""
    count = Counter(images["category"].to_pylist())
    for name, num in sorted(count.items()):
        if len(count) > 1 and num < _LEAST_OF_CATEGORY:
            raise DataError(
                f"category {name}: has {num} training images, and one of several needs {_LEAST_OF_CATEGORY} for its "
                "threshold; add some, or leave it out (--category names those that take part)"
            )


def _an_image(manifest: Manifest) -> dict[Path, Path]:
    """The folder of the images, and one of them."""
    return {manifest.root: manifest.root / path_from_text(manifest.table["path"][0].as_py())}


def _crash_lines(folder: RunFolder) -> Iterator[str]:
    stage = crashed_stage(folder)
    if stage:
        yield f"previous run crashed in stage {stage}; resuming"


def _several(manifest: Manifest) -> Iterator[str]:
    names = categories_of(manifest.table)
    if len(names) > 1:
        yield f"note: {len(names)} categories share a detector, each with a threshold of its own: {', '.join(names)}"


def _quarantine_lines(manifest: Manifest) -> Iterator[str]:
    """The first quarantined files, and why; all of them are in quarantine.arrow."""
    rows = manifest.quarantine.slice(0, _NAMED_ASIDE).to_pylist()
    yield from (f"quarantined {row['path']}: {row['reason']}" for row in rows)
    if manifest.quarantine.num_rows > len(rows):
        yield f"... and {manifest.quarantine.num_rows - len(rows)} more: quarantine.arrow names them all"


def _near_lines(manifest: Manifest) -> Iterator[str]:
    """Notices about near duplicates in training and in the metrics; near_duplicates.arrow names them all."""
    yield from (f"note: {sentence}; near_duplicates.arrow names all" for sentence in near_sentences(manifest))


def _result(stages: Stages, made: RunArtifacts) -> Result:
    decisions = Counter(read_table(made.purified.file(filenames.PURIFIED))["decision"].to_pylist())
    num_quarantined = stages.manifest.quarantine["split"].to_pylist().count(TRAIN)
    metrics = json.loads((made.evaluated.file(filenames.METRICS)).read_text())
    return Result(
        path=stages.timer.folder.path,
        where=stages.timer.folder.where,
        num_input=len(stages.manifest.image_ids(TRAIN)) + num_quarantined,
        num_kept=decisions[KEPT],
        num_rejected=decisions[REJECTED],
        num_quarantined=num_quarantined,
        metrics=metrics,
        times=stages.timer.times,
        passes=stages.parallel.passes,
        worker_s=stages.parallel.dispatcher.worker_s,
        gpu_s=stages.parallel.dispatcher.gpu_s,
        missing=stages.parallel.missing,
        threshold=json.loads(made.threshold.file(filenames.THRESHOLD).read_text()) if made.threshold else {},
        contamination=read_estimate(made.rounds[-1]),
    )
