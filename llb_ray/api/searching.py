"""The search for settings."""

from pathlib import Path
from typing import TYPE_CHECKING

from llb_ray.config import RunConfig
from llb_ray.data.manifest import Manifest
from llb_ray.engine.execution.executor import Tell
from llb_ray.remote import local_folder

if TYPE_CHECKING:
    import pyarrow as pa

    from llb_ray.search.search_plan import Searcher
    from llb_ray.search.space import Space


def tune(
    config: RunConfig,
    manifest: Manifest,
    space: "Space",
    *,
    out: str | Path,
    objective: str = "canary",
    validation: str | Path | None = None,
    searcher: "Searcher" = "grid",
    trials: int | None = None,
    early_stopping: bool = False,
    workers_per_trial: int = 1,
    max_concurrent: int | None = None,
    ray_address: str | None = None,
    resume: bool = False,
    tell: Tell = lambda line: None,
) -> "pa.Table":
    """The table of trials (`llb_ray.search.trials`), each a whole run of `config` with some settings of `space`.

    Writes trials.parquet, trials.png and best.yaml to `out`; what trials have in common is made once.  No test label
    is read: the manifest's test split takes no part at all.  `validation` is a folder of labelled images (good/ and
    others beside it) for the objective val_auroc.  Raises a `LlbError` for a search that cannot be, or in
    which no trial finished.
    """
    from llb_ray.distributed import cluster
    from llb_ray.distributed.tuning import run_trials
    from llb_ray.search.search_plan import Search, trial_images
    from llb_ray.search.search_record import refuse_another
    from llb_ray.search.search_results import conclude
    from llb_ray.tracking.track import refuse_untracked

    refuse_untracked(config.tracking)
    folder = local_folder("--out", out).absolute()
    labelled = None if validation is None else Path(validation)
    judged = trial_images(objective, manifest, labelled, folder, config)
    plan = Search(
        config, space, judged, folder, objective, searcher, trials, early_stopping, workers_per_trial, max_concurrent
    )
    if resume:
        refuse_another(plan)
    with cluster.connect(ray_address):
        return conclude(plan, run_trials(plan, tell, resume))
