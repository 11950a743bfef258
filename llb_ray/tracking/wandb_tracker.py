"""Weights & Biases, by its own client: WANDB_PROJECT, WANDB_MODE and the other variables of its own hold."""

import os
from collections import defaultdict

from llb_ray.tracking.records import Record


def log_wandb(record: Record, run_id: str | None, parent: str | None) -> str:
    """Id of the W&B run that has the record now: `run_id`, or a new one in the group `parent`."""
    import wandb

    with wandb.init(
        project=os.environ.get("WANDB_PROJECT", "llb_ray"),
        name=record.name,
        group=parent,
        config=dict(record.params),
        id=run_id,
        resume="allow" if run_id else None,
        reinit="create_new",
        settings=wandb.Settings(console="off", silent=True),
    ) as run:
        for step, values in _by_step(record).items() if run_id is None else ():
            run.log(values, step=step)
        run.summary.update(dict(record.metrics))
        if record.files:
            artifact = wandb.Artifact(f"{run.id}-files", type="run")
            for name, path in record.files.items():
                artifact.add_file(str(path), name)
            run.log_artifact(artifact)
        return str(run.id)


def _by_step(record: Record) -> dict[int, dict[str, float]]:
    """The values of all curves at each step, in the order of steps."""
    found: defaultdict[int, dict[str, float]] = defaultdict(dict)
    for name, curve in record.curves.items():
        for step, value in curve:
            found[step][name] = value
    return dict(sorted(found.items()))
