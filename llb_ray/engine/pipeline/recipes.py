"""Recipes of the first stages of a run: the stages are keyed by them, and the audit derives them again."""

from collections.abc import Sequence

import pyarrow as pa

from llb_ray.artifacts import Artifact, Recipe, digest
from llb_ray.config import RunConfig
from llb_ray.engine.stage_keys import partition_settings


def manifest_recipe(images: pa.Table, quarantine: pa.Table) -> Recipe:
    """The images (schema `IMAGES`), and the files that are none (schema `QUARANTINE`)."""
    return Recipe("manifest", {}, {"images": digest(images.to_pylist()), "quarantine": digest(quarantine.to_pylist())})


def labels_recipe(labels: pa.Table) -> Recipe:
    """Recipe of what is known about the images: image_id, split and the columns of `LABELS`."""
    return Recipe("labels", {}, {"labels": digest(labels.to_pylist())})


def partition_recipe(config: RunConfig, image_ids: Sequence[str], groups: Sequence[str]) -> Recipe:
    """The training images and their groups."""
    return Recipe("partition", partition_settings(config), {"images": digest([list(image_ids), list(groups)])})


def extended_recipe(config: RunConfig, base: Artifact, image_ids: Sequence[str], groups: Sequence[str]) -> Recipe:
    """The partition `base` with further training images, and all groups."""
    images = digest([list(image_ids), list(groups)])
    return Recipe("partition", partition_settings(config), {"base": base.content, "images": images})


def lot_recipe(images: pa.Table) -> Recipe:
    """Images (schema `IMAGES`) that came at one time."""
    return Recipe("lot", {}, {"images": digest(images.to_pylist())})


def matrix_recipe(
    config: RunConfig, partitioned: Artifact, members: Sequence[int], scored: Sequence[Artifact]
) -> Recipe:
    """The scores of the members of these numbers; all of them unless some are missing."""
    settings = {} if len(members) == config.num_members else {"members": list(members)}
    inputs = {f"scores-{index:03d}": artifact.content for index, artifact in enumerate(scored)}
    return Recipe("scores", settings, {"partition": partitioned.content, **inputs})
