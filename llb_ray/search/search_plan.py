"""Plan of a search: the space, the method, and the places of results."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from llb_ray.artifacts import digest
from llb_ray.config import RunConfig
from llb_ray.data.manifest import Manifest
from llb_ray.data.mask_folders import MaskFolders
from llb_ray.ensemble.categories import categories_of
from llb_ray.errors import ConfigError
from llb_ray.search.canary import with_canaries, without_test
from llb_ray.search.objective import OBJECTIVES
from llb_ray.search.space import Space
from llb_ray.search.validation import with_validation

Searcher = Literal["grid", "random", "optuna"]
_UNTOLD, _TOLD = re.compile(r"[^\w=.+-]+"), 80  # what a folder's name leaves out, and its length for people
RUNGS = (0.25, 0.5, 1.0)  # of the final detector's steps, after which a hopeless trial is stopped early


@dataclass(frozen=True)
class Search:
    """One search; raises ConfigError for one that cannot be."""

    base: RunConfig
    space: Space
    manifest: Manifest  # what `trial_images` gives: no test split of the user's is in it
    out: Path
    objective: str = "canary"
    searcher: Searcher = "grid"
    trials: int | None = None  # None: every point of the grid
    early_stopping: bool = False
    workers_per_trial: int = 1
    max_concurrent: int | None = None

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"objective {self.objective!r} is unknown; choose one of {', '.join(OBJECTIVES)}")
        if self.searcher == "grid" and self.trials is not None:
            raise ConfigError("a grid has as many trials as it has points; drop --trials, or search at random")
        if self.searcher != "grid" and self.trials is None:
            raise ConfigError(f"searcher {self.searcher} needs to know how many trials; give --trials")
        if self.early_stopping and not self.base.detector.num_steps("final"):
            name = self.base.detector.name
            raise ConfigError(
                f"early stopping cuts the final detector's steps, and detector {name} takes none; leave it out"
            )
        if self.base.final_workers.most > 1:
            raise ConfigError(
                f"final.num_workers={self.base.final_workers}: a trial of a search trains its final detector in one "
                "worker; leave it out, and set it again for the run of best.yaml"
            )
        if self.base.final.label_selector is not None:
            raise ConfigError(
                "final.label_selector: a trial of a search trains all in one place; set resources.label_selector"
            )
        _ = self.num_trials  # refuses a grid over ranges

    @cached_property
    def num_trials(self) -> int:
        """Number of trials."""
        return len(self.space.grid()) if self.trials is None else self.trials

    def store_of(self, values: Mapping[str, Any]) -> Path:
        """Store of the artifacts of the trial of these values: all trials in one place."""
        return self.out / "artifacts"

    def folder(self, values: Mapping[str, Any]) -> Path:
        """Folder of the trial of these values; the same values find what an earlier search left."""
        told = "_".join(f"{key.rpartition('.')[2]}={value}" for key, value in values.items())
        return self.out / "trials" / f"{_UNTOLD.sub('-', told)[:_TOLD]}_{digest(dict(values))[:8]}"


def trial_images(objective: str, manifest: Manifest, validation: Path | None, out: Path, config: RunConfig) -> Manifest:
    """Input of the trials of a search: the training images, and what the objective judges them by.

    For `canary` held-back images and defective copies of them, for `val_auroc` the user's labelled validation images,
    for the others nothing.  The manifest's own test split is never in it.
    """
    names = categories_of(manifest.table)
    if len(names) > 1:
        raise ConfigError(f"a search is about one category, and {len(names)} are given ({', '.join(names)}); name one")
    if (objective == "val_auroc") != (validation is not None):
        raise ConfigError("objective val_auroc and --validation FOLDER belong together; give both or neither")
    if objective in ("canary", "val_auroc") and MaskFolders.of(config.data, config.detector.size):
        raise ConfigError(
            f"objective {objective}: the images that it judges by have no masks in the folder that data.ignore_mask or "
            "inspect_mask names, so it would be about what is ignored; choose split_half or separation"
        )
    if objective == "canary":
        return with_canaries(manifest, out / "canaries", config, config.seed)
    return without_test(manifest) if validation is None else with_validation(manifest, validation, config)
