"""Odd images in families of look-alikes, so that a person decides on a kind of images, not on each of them."""

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch

from llb_ray.detectors.anomaly_clustering import comparison_patches, families, fit_usual, oddness
from llb_ray.engine.features.feature_access import CachedSource
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.ensemble.purified_dataset import kept_ids
from llb_ray.seeding import stream

_BATCH = 32  # images, or tiles, read at once
_MOST_USUAL = 64  # kept images that odd ones are compared with
_FEWEST_USUAL = 10


def families_of(run: FinishedRun, odd: Sequence[str], standing_out: Collection[str]) -> list[int] | str:
    """The family of each of these images, 0 the largest; or the reason why there is nothing to compare them by.

    They are compared with kept images that do not stand out, by the run's cached features.
    """
    plain = sorted(set(kept_ids(run.purified)) - set(standing_out) - set(odd))
    reason = _why_not(run, len(plain))
    if reason or not odd:
        return reason if odd else []
    drawn = [plain[row] for row in stream(0, "usual").permutation(len(plain))[:_MOST_USUAL]]
    features = [artifact for artifact in run.made.features if not artifact.settings.get("augment")]
    source = CachedSource(features, [*drawn, *odd], torch.device("cpu"))
    size = run.config.detector.images_at_once(_BATCH)
    beside = fit_usual(torch.cat([*_patches(source, 0, len(drawn), size)]))
    parts = [oddness(part, beside) for part in _patches(source, len(drawn), len(source), size)]
    found: list[int] = families(np.concatenate(parts)).tolist()
    return found


def _why_not(run: FinishedRun, num_plain: int) -> str:
    if run.folder.remote is not None:
        return "the run's features are at a URI, and would all have to be fetched"
    if not run.made.features:
        return "the run's features were not cached (features.max_gib)"
    return f"fewer than {_FEWEST_USUAL} kept images do not stand out" if num_plain < _FEWEST_USUAL else ""


def _patches(source: CachedSource, start: int, stop: int, size: int) -> Iterator[torch.Tensor]:
    return (comparison_patches(layers) for _, layers in source.batches(start, stop, size))
