"""Dependencies of each stage besides its inputs: the part of the configuration that goes into its key."""

from typing import Any

from llb_ray.artifacts import Artifact
from llb_ray.config import PurifyConfig, Role, RunConfig
from llb_ray.data.tables import read_table
from llb_ray.detectors.factory import learner_settings
from llb_ray.engine import filenames
from llb_ray.ensemble.filters.base import Labels
from llb_ray.seeding import seed_for


def partition_settings(config: RunConfig) -> dict[str, Any]:
    """Settings that the partition depends on besides the images."""
    return {"members": config.num_members, "seed": config.seed}


def fit_settings(config: RunConfig, role: Role, index: int | None = None) -> dict[str, Any]:
    """Settings that a fitted detector depends on besides the images and the encoder; `index` is a member's number."""
    seed = seed_for(config.seed, role) if index is None else seed_for(config.seed, role, index)
    settings = {"role": role, "seed": seed, "detector": dict(learner_settings(config.detector_of(role), role))}
    importance, augment = config.importance_of(role), config.features.augment
    # Left out where they have no effect, so that trying a target Gaussian, say, reuses every member.
    settings |= {} if importance is None else {"importance": importance.effective_settings()}
    return settings | ({"augment": list(augment)} if augment else {})


def purify_settings(config: RunConfig, number: int = 1) -> dict[str, Any]:
    """Settings that a round's decisions depend on besides the scores; more rounds leave earlier ones as they are."""
    settings = config.purify.model_dump(mode="json", exclude={"rounds"}) | {"seed": config.seed}
    return settings if number == 1 else {"round": number, "keep_ratio": settings["keep_ratio"]}


def filter_labels(config: PurifyConfig, labels: Artifact) -> Labels | None:
    """The labels for a filter that reads them, the oracle; None for every other."""
    if not config.rule.reads_labels:
        return None
    table = read_table(labels.file(filenames.LABELS))
    return dict(zip(table["image_id"].to_pylist(), table["label"].to_pylist(), strict=True))
