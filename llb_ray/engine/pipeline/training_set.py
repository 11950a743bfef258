"""The images that the final detector is fitted on, and the folds of them that further fits leave out."""

from collections.abc import Collection, Mapping

import pyarrow as pa

from llb_ray.artifacts import Artifact
from llb_ray.config import RunConfig
from llb_ray.data.tables import read_table
from llb_ray.engine import filenames
from llb_ray.ensemble.categories import categories_of
from llb_ray.ensemble.held_out_scores import LEAST_REJECTED
from llb_ray.ensemble.overrides import apply_overrides
from llb_ray.ensemble.partition import partition, shares
from llb_ray.ensemble.purified_dataset import kept_ids, kept_trust
from llb_ray.ensemble.trust import TRUSTED
from llb_ray.errors import DataError
from llb_ray.seeding import seed_for

LEAST_KEPT = 2  # one image has no other to be compared with


def training_images(config: RunConfig, purified: Artifact, overrides: Artifact | None) -> dict[str, float]:
    """The images that the final detector is trained on, sorted, and the trust in each: what is kept once decisions by
    hand are applied.  A detector that does not weigh images trusts all."""
    decided = read_table(purified.file(filenames.PURIFIED))
    if overrides is not None:
        decided = apply_overrides(decided, read_table(overrides.file(filenames.OVERRIDES)))
    return kept_trust(decided) if config.detector.weighs_images else dict.fromkeys(kept_ids(decided), TRUSTED)


def without_fold(image_ids: Mapping[str, float], fold: Collection[str]) -> dict[str, float]:
    """The images without those of a fold, sorted, and the trust in each; raises DataError where too few remain."""
    left = {image_id: image_ids[image_id] for image_id in sorted(set(image_ids) - set(fold))}
    if len(left) < LEAST_KEPT:
        raise DataError(
            f"kept images, {len(image_ids)}: too few to leave out a fold of them; keep "
            "more (purify.keep_ratio, or by hand), or set threshold.method=none and purify.rounds=1"
        )
    return left


def why_folds(config: RunConfig, purified: Artifact, overrides: Artifact | None) -> str:
    """Reason why the members cannot say what a threshold of theirs needs; empty: they can."""
    if config.why_folds:
        return config.why_folds
    images = read_table(purified.file(filenames.PURIFIED))
    if len(categories_of(images)) > 1:  # a scale for each would need as many rejected images of each
        return "images are of several categories"
    rejected = len(images) - len(training_images(config, purified, overrides))
    return f"only {rejected} images were rejected" if rejected < LEAST_REJECTED else ""


def fold_ids(config: RunConfig, train_images: pa.Table) -> dict[str, list[str]]:
    """The training images of each fold, by the name of the detector that is fitted without it; no group is split."""
    ids, groups = (train_images[name].to_pylist() for name in ("image_id", "group"))
    dealt = partition(ids, groups, config.threshold.folds, seed_for(config.seed, "folds"))
    return {f"fold-{index:03d}": fold for index, fold in enumerate(shares(dealt))}
