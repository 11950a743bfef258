"""A finished run once more with further images: they are encoded and judged by the members that exist."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from llb_ray.data.image_masks import ImageMasks
from llb_ray.data.joined_manifests import join_manifests
from llb_ray.data.manifest import TRAIN, Manifest
from llb_ray.engine.execution.executor import Executor, Tell
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.pipeline.pipeline import Amendment, Result, RunSpec, run_stages
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.ensemble.categories import categories_of
from llb_ray.ensemble.overrides import merge_overrides
from llb_ray.errors import ArtifactError, DataError
from llb_ray.remote import Remote


@dataclass(frozen=True)
class Update:
    """Images of a run and further ones, and the artifacts and decisions that stay."""

    manifest: Manifest
    amendment: Amendment


def join_update(run: FinishedRun, more: Manifest, corrections: pa.Table | None, out: Path | Remote) -> Update:
    """The images of `run` and of `more`, and the decisions by hand on both; needs no executor.

    `corrections` (schema `OVERRIDES`) are about any of them.  Raises ArtifactError where `out` is the run itself,
    DataError where nothing is new, or a decision is about another image.
    """
    if RunFolder.at(out).path.resolve() == run.folder.path.resolve():
        raise ArtifactError(f"{out}: is the run that is updated; choose another folder for --out")
    if run.pool is not None:
        raise DataError(f"{run.folder.where}: is a job of a scan, which shares its features; update a run of its own")
    if len(categories_of(run.images)) > 1:
        raise DataError(f"{run.folder.where}: is of several categories, and an update knows one; make a new run of all")
    if isinstance(run.ignored_pixels, ImageMasks):
        raise DataError(
            f"{run.folder.where}: has a mask for each photograph, which an update does not know; run all again"
        )
    manifest = join_manifests(run.manifest, more)
    lots = _lots(manifest.unlabelled(), run.lots or [run.images])
    roots = [*(run.roots or [run.root]), more.root]
    return Update(manifest, Amendment(run.made, _decided(run.overrides, corrections, manifest), lots, roots))


def update_run(run: FinishedRun, update: Update, out: Path | Remote, executor: Executor, tell: Tell) -> Result:
    """The new run in `out`, with the configuration and the members of `run`."""
    return run_stages(RunSpec(run.config, update.manifest, out, amendment=update.amendment), executor, tell)


def _lots(images: pa.Table, earlier: Sequence[pa.Table]) -> list[pa.Table]:
    """The images as the lots that they came in, those in no earlier one as the last."""
    ids = [lot["image_id"].combine_chunks() for lot in earlier]
    known = [images.filter(pc.is_in(images["image_id"], some)) for some in ids]
    new = images.filter(pc.invert(pc.is_in(images["image_id"], pa.concat_arrays(ids))))
    return [*known, new]


def _decided(earlier: pa.Table | None, corrections: pa.Table | None, manifest: Manifest) -> pa.Table | None:
    """Decisions by hand, the later one where there are two; None where there is none."""
    if corrections is None:
        return earlier
    known = set(manifest.image_ids(TRAIN))
    odd = [image_id for image_id in corrections["image_id"].to_pylist() if image_id not in known]
    if odd:
        raise DataError(
            f"corrected verdicts: image {odd[0]} is neither among the training images of the run nor among the new "
            f"ones ({len(odd)} such); give the folder that was predicted as --data"
        )
    return corrections if earlier is None else merge_overrides(earlier, corrections)
