"""Jobs of a scan and their folders."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

from llb_ray.artifacts import digest
from llb_ray.config import ScanConfig
from llb_ray.data.ignored_regions import MaskPaths
from llb_ray.errors import ConfigError

CONFIG, PROGRESS = "scan.yaml", "progress"  # in the folder of a scan
RUNNING = "running"  # in the folder of its progress: a heartbeat of each job that was begun and has not ended
_UNTOLD = re.compile(r"[^\w.+-]+")  # what a folder's name leaves out of a category's


@dataclass(frozen=True)
class Job:
    """One run of a scan; `alpha` is None where the training set is taken as it is."""

    category: str
    alpha: float | None
    filter: str
    seed: int

    @property
    def title(self) -> str:
        """Display name: ``bottle, alpha 0.1, llb, seed 0``."""
        noise = "" if self.alpha is None else f", alpha {self.alpha:g}"
        return f"{self.category}{noise}, {self.filter}, seed {self.seed}"

    @property
    def name(self) -> str:
        """For files: unique however strange the category's name is."""
        category = _UNTOLD.sub("-", self.category)
        category += "" if category == self.category else f"-{digest(self.category)[:6]}"
        noise = "" if self.alpha is None else f"_alpha{self.alpha:g}"
        return f"{category}{noise}_{self.filter}_seed{self.seed}"


@dataclass(frozen=True)
class Scan:
    """A scan in its folder; raises ConfigError for one that cannot be.

    ::

        OUT/scan.yaml           the resolved configuration
        OUT/results.parquet     a row per finished or failed job (llb_ray.scans.job_results)
        OUT/rows/<job>.json     the same row, written by the worker of the job
        OUT/jobs/<job>/         the job's run folder
        OUT/artifacts/          what all the runs are made of; they share it
        OUT/errors/<job>.txt    the traceback of a job that met an error of ours
        OUT/progress/           heartbeats of the driver and of the jobs that are running
    """

    config: ScanConfig
    out: Path

    def __post_init__(self) -> None:
        if self.config.scan.alphas is None and self.config.scan.num_objects is not None:
            raise ConfigError("scan.num_objects has no effect without scan.alphas; drop it, or give alphas")

    def jobs(self, categories: Sequence[str]) -> list[Job]:
        """Every job over these categories; neighbours differ in the category, so they seldom need the same work."""
        scan = self.config.scan
        alphas = [None] if scan.alphas is None else scan.alphas
        ordered = product(scan.seeds, scan.filters, alphas, categories)
        return [Job(category, alpha, name, seed) for seed, name, alpha, category in ordered]

    @cached_property
    def setting(self) -> str:
        """A digest of what all the jobs of a table have in common; rows of another setting are not comparable."""
        tree, scan = self.config.keyed_settings(), self.config.scan
        shared = {name: value for name, value in tree.items() if name not in ("scan", "seed")}
        shared["purify"] = {name: value for name, value in tree["purify"].items() if name != "filter"}
        dataset = {name: value for name, value in tree["scan"]["dataset"].items() if name != "categories"}
        largest = None if scan.alphas is None else max(scan.alphas)  # what the test set is left by
        return digest([shared, dataset, largest, scan.num_objects])[:16]

    @cached_property
    def masks(self) -> str:
        """Digest of the masks of photographs as they are now; empty where there are none."""
        return MaskPaths.of_settings(self.config.data).key

    @property
    def store(self) -> Path:
        return self.out / "artifacts"

    @property
    def progress(self) -> Path:
        return self.out / PROGRESS

    @property
    def running(self) -> Path:
        return self.progress / RUNNING

    def run(self, job: Job) -> Path:
        """The job's run folder."""
        return self.out / "jobs" / job.name
