"""Workload of a run: image counts, workers, measured unit costs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from llb_ray.config import Role, RunConfig
from llb_ray.data.manifest import TRAIN, Manifest
from llb_ray.engine.evaluation.held_out_maps import MOST_IMAGES
from llb_ray.ensemble.categories import categories_of
from llb_ray.planning.cost_model import CostModel
from llb_ray.planning.timing_worker import num_labelled


@dataclass(frozen=True)
class Cluster:
    """Workers of a run and their machines."""

    slots: int  # workers at once, everywhere
    start_s: float  # of a worker's process; 0 where all work is done in this one
    in_process: bool  # the serial executor
    connect_s: float = 0.0  # to start Ray, or to reach it


@dataclass(frozen=True)
class Size:
    """Image counts of a run."""

    num_train: int
    num_images: int  # in training and test
    num_labelled: int  # of the test images
    num_copies: int  # of each training image that detectors are trained on
    num_members: int
    share: float  # of the training images kept
    num_folds: int  # of the training images: as many fits like the final detector's
    fold_sets: int  # times that these are fitted, for further rounds or the threshold, whatever is rejected
    map_detectors: int  # detectors that held-out maps come from; 0 where no threshold is set, or they cannot map

    @classmethod
    def of(cls, config: RunConfig, manifest: Manifest) -> "Size":
        ratio = config.purify.keep_ratio
        share = ratio if config.purify.rule.uses_keep_ratio and ratio != "auto" else 1.0  # at most
        several = config.threshold.method == "members" and len(categories_of(manifest.table)) > 1
        for_threshold = config.threshold.method == "folds" or bool(config.why_folds) or several
        return cls(
            num_train=len(manifest.split(TRAIN)),
            num_images=len(manifest.table),
            num_labelled=num_labelled(manifest),
            num_copies=1 + len(config.features.augment),
            num_members=config.num_members if config.purify.rule.reads_scores else 0,
            share=share,
            num_folds=config.threshold.folds,
            fold_sets=max(config.rounds - 1, for_threshold),
            map_detectors=_map_detectors(config, for_threshold),
        )

    @property
    def member_images(self) -> int:
        return math.ceil(self.num_train / self.num_members)

    @property
    def final_images(self) -> int:
        return math.ceil(self.num_train * self.share)

    @property
    def mapped_images(self) -> int:
        """Of the kept images, that are mapped by a detector which has not seen them."""
        return min(MOST_IMAGES, self.final_images)

    @property
    def fold_images(self) -> int:
        """Of a fit without a fold."""
        return self.final_images - self.final_images // self.num_folds

    @property
    def fits(self) -> Iterator[tuple[Role, int, int]]:
        """The role of all detectors that a run keeps, on how many rows each is fitted, and how many such there are."""
        for role, rows in self.fit_rows.items():
            yield role, rows, self.num_members if role == "member" else 1
        yield "final", self.fold_images * self.num_copies, self.fold_sets * self.num_folds

    @property
    def fit_rows(self) -> dict[Role, int]:
        """Rows of the largest fit in each role that there is."""
        images: dict[Role, int] = {"final": self.final_images}
        images |= {"member": self.member_images} if self.num_members else {}
        return {role: count * self.num_copies for role, count in images.items()}

    @property
    def cached_images(self) -> int:
        return self.num_images + (self.num_copies - 1) * self.num_train


def _map_detectors(config: RunConfig, uses_folds: bool) -> int:
    """Number of detectors that held-out maps come from: folds, or members of the final detector's kind."""
    if config.threshold.method == "none":
        return 0
    if uses_folds:
        return config.threshold.folds
    return config.num_members if config.detector_of("member") == config.detector_of("final") else 0


@dataclass(frozen=True)
class Workload:
    """All that a forecast follows from."""

    config: RunConfig
    size: Size
    measured: CostModel
    cluster: Cluster
    cached: bool  # whether layers are: else images are encoded whenever they are read
