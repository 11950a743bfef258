"""A finished run once more, with decisions by hand: the loop from the report back to the final detector."""

from pathlib import Path

from llb_ray.engine.execution.executor import Executor, Tell
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.pipeline.pipeline import Amendment, Result, RunSpec, run_stages
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.ensemble.overrides import apply_overrides, merge_overrides, read_overrides
from llb_ray.errors import ArtifactError
from llb_ray.remote import Remote


def read_amendment(run: FinishedRun, overrides: Path, by: str, out: Path | Remote) -> Amendment:
    """The artifacts of `run`, and the decisions of `by` in the CSV file `overrides`; needs no executor.

    What was decided by hand in `run` stands, unless the file has another word on the image.
    Raises ArtifactError where `out` is the run itself, DataError for a file that does not fit the run or rejects all.
    """
    if RunFolder.at(out).path.resolve() == run.folder.path.resolve():
        raise ArtifactError(f"{out}: is the run that the decisions are about; choose another folder for --out")
    said = read_overrides(overrides, run.purified, by)
    if run.overrides is not None:
        said = merge_overrides(run.overrides, said)
    apply_overrides(run.decided[-1], said)  # raises now what the stage would
    return Amendment(run.made, said, run.lots, run.roots)


def repurify_run(run: FinishedRun, amendment: Amendment, out: Path | Remote, executor: Executor, tell: Tell) -> Result:
    """The new run in `out`: members, scores and matrix are those of `run`, the decisions are the amendment's."""
    return run_stages(RunSpec(run.config, run.manifest, out, pool=run.pool, amendment=amendment), executor, tell)
