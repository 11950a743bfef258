"""The images that the final detector is fitted on, and the folds of them that further fits leave out."""

from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa

from llb_ray.artifacts import Artifact
from llb_ray.config import RunConfig
from llb_ray.data.tables import read_table
from llb_ray.engine import files
from llb_ray.ensemble.dataset import kept_ids, suspect_ids
from llb_ray.ensemble.held_out import LEAST_REJECTED
from llb_ray.ensemble.overrides import by_hand
from llb_ray.ensemble.partition import partition, shares
from llb_ray.errors import DataError
from llb_ray.seeding import seed_for

LEAST_KEPT = 2  # one image has no other to be compared with


@dataclass(frozen=True)
class Given:
    """The ids of all images that a detector is fitted on, and which of these are suspects, both sorted."""

    image_ids: list[str]
    suspects: list[str]

    @property
    def usual(self) -> list[str]:
        """Those that are no suspects."""
        return sorted(set(self.image_ids) - set(self.suspects))

    def without(self, fold: Collection[str]) -> "Given":
        """What is left once a fold is taken out; raises DataError where that is too little to say what is usual."""
        left = Given(*(sorted(set(ids) - set(fold)) for ids in (self.image_ids, self.suspects)))
        if len(left.usual) < LEAST_KEPT:
            raise DataError(
                f"kept images, {len(self.usual)}: too few to leave out a fold of them; keep "
                "more (purify.keep_ratio, or by hand), or set threshold.method=none and purify.rounds=1"
            )
        return left


def given(config: RunConfig, purified: Artifact, overrides: Artifact | None) -> Given:
    """What is kept, with people's words laid over it, and suspects where the final detector doubts these by itself."""
    decided = read_table(purified.file(files.PURIFIED))
    said = None if overrides is None else read_table(overrides.file(files.OVERRIDES))
    decided = decided if said is None else by_hand(decided, said)
    suspects = suspect_ids(decided, said) if config.reads_suspects else []
    return Given(sorted([*kept_ids(decided), *suspects]), suspects)


def why_folds(config: RunConfig, purified: Artifact, overrides: Artifact | None) -> str:
    """Why the members cannot say what a threshold of theirs needs; empty: they can."""
    if config.why_folds:
        return config.why_folds
    rejected = len(read_table(purified.file(files.PURIFIED))) - len(given(config, purified, overrides).usual)
    return f"only {rejected} images were rejected" if rejected < LEAST_REJECTED else ""


def fold_ids(config: RunConfig, train_images: pa.Table) -> dict[str, list[str]]:
    """The training images of each fold, by the name of the detector that is fitted without it; no group is split."""
    ids, groups = (train_images[name].to_pylist() for name in ("image_id", "group"))
    dealt = partition(ids, groups, config.threshold.folds, seed_for(config.seed, "folds"))
    return {f"fold-{index:03d}": fold for index, fold in enumerate(shares(dealt))}
